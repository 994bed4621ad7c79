"""A page to read and to publish, made of one or more reports:  python -m conformance.pages.report_page report.json ... -o page.html

One HTML file with its style and its drawings inside, and no script. All text of a report is escaped: names of adapters
and what their exceptions say are anybody's.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..outcomes import sentence
from .chart import curve_svg

MARKS = {
    "passed": "✓",
    "failed": "✗",
    "errored": "!",
    "known deviation": "≈",
    "variant": "~",
    "not applicable": "\N{EN DASH}",
    "not run": "·",
}
STATES = {  # of a verdict: in words, and the outcome whose colour it has
    "deviates": ("Not a right GPT-2", "failed"),
    "not judged in full": ("Not judged in full: the adapter broke", "errored"),
    "stale known deviations": ("A known deviation no longer occurs", "known deviation"),
    "known deviations only": ("No deviation from GPT-2 except the known ones", "known deviation"),
    "no deviation found": ("No deviation from GPT-2 found", "passed"),
    "nothing judged": ("Nothing could be judged", "not applicable"),
}
_TOLD = ("failed", "errored", "known deviation", "variant")  # outcomes with something to read about
_CURVE = "activation"  # the quantity that is drawn


class Subject(NamedTuple):
    """An adapter of a report."""

    number: int
    name: str
    report: dict[str, Any]
    adapter: dict[str, Any]

    @property
    def where(self) -> str:
        environment = self.report["environment"]
        return f"{environment['dtype']} on {environment['device']}"

    @property
    def requirements(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in self.adapter["requirements"]}

    def anchor(self, requirement: str) -> str:
        return f"r{self.number}-" + re.sub(r"[^A-Za-z0-9._-]", "-", requirement)


def text(value: object) -> str:
    """For HTML, in content and in quoted attributes. Control characters, and halves of surrogate pairs, can't be shown."""
    return html.escape(re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", str(value)))


def page(reports: Sequence[dict[str, Any]]) -> str:
    adapters = [(report, adapter) for report in reports for adapter in report["adapters"]]
    subjects = [
        Subject(i, str(adapter["specification"]), report, adapter)
        for i, (report, adapter) in enumerate(adapters)
    ]
    title = (
        f"GPT-2 conformance of {subjects[0].name}" if len(subjects) == 1 else "GPT-2 conformance"
    )
    body = [*_verdicts(subjects), *_values(subjects), *_curves(subjects)]
    body += (
        _families(subjects[0])
        if len(subjects) == 1
        else [*_matrix(subjects), *_deviations(subjects)]
    )
    style = Path(__file__).with_name("report_page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>",
            *body,
            f"<footer>{''.join(_environment(report) for report in reports)}</footer>",
            "</main>\n</body>\n</html>\n",
        ]
    )


def _verdicts(subjects: list[Subject]) -> Iterator[str]:
    yield "<header><h1>GPT-2 conformance</h1>"
    yield (
        "<p class='lead'>Is it a GPT-2? Each requirement is a fact of the architecture, of the weights or of generation, "
        "read out of the answers to checkpoints made for it.</p></header>"
    )
    for subject in subjects:
        words, tone = STATES[subject.adapter["verdict"]["state"]]
        yield f'<section class="verdict {_class(tone)}"><h3><bdi class="mono">{text(subject.name)}</bdi></h3>'
        yield f'<p class="state">{words}</p>'
        counts = {outcome: subject.adapter["counts"].get(outcome, 0) for outcome in MARKS}
        parts = [
            f'<span class="{_class(outcome)}" style="flex:{int(n)}"></span>'
            for outcome, n in counts.items()
            if n
        ]
        yield f'<div class="bar" aria-hidden="true">{"".join(parts)}</div><ul class="legend">'
        yield (
            "".join(
                f"<li>{_mark(outcome)} {int(n)} {outcome}</li>"
                for outcome, n in counts.items()
                if n
            )
            + "</ul>"
        )
        for cause in subject.adapter["causes"]:
            first, *others = cause["explains"]
            more = (
                f", which explains {len(others)} more failure{'s' * (len(others) > 1)}"
                if others
                else ""
            )
            yield f'<p class="cause"><b>{text(cause["id"])}</b>{more}; see {_link(subject, first, text(first))}.</p>'
        if diagnosis := subject.adapter["diagnosis"]:
            yield f'<p class="cause">{text(diagnosis["sentence"][:1].upper() + diagnosis["sentence"][1:])}.</p>'
        for stale in subject.adapter["stale_known_deviations"]:
            yield f'<p class="cause">{text(stale)} passes: this known deviation no longer occurs.</p>'
        sentence = str(subject.adapter["verdict"]["sentence"]).removeprefix(f"{subject.name}: ")
        stopped = "" if subject.report["finished"] else " The run was stopped before its end."
        yield f'<p class="soft cause">{text(sentence)} In {text(subject.where)}.{stopped}</p></section>'


def _values(subjects: list[Subject]) -> Iterator[str]:
    """The constants that were measured, beside GPT-2's."""
    measured: dict[tuple[str, str], dict[int, tuple[str, bool]]] = {}
    for subject in subjects:
        for row, reading in _readings(subject):
            if not isinstance(reading["read"], list) and not isinstance(reading["expected"], list):
                key = str(reading["quantity"]), _shown(reading["expected"])
                measured.setdefault(key, {})[subject.number] = (
                    _shown(reading["read"]),
                    row["outcome"] != "passed",
                )
    if not measured:
        return
    yield "<h2>Measured</h2><p class='lead'>Constants, read out of the logits alone.</p>"
    yield "<div class='scroll'><table class='values'><thead><tr><th scope='col'>quantity</th><th scope='col'>GPT-2</th>"
    yield _columns(subjects) + "</tr></thead><tbody>"
    for (quantity, expected), values in measured.items():
        yield f"<tr><th scope='row'>{text(quantity)}</th><td>{text(expected)}</td>"
        for subject in subjects:
            value, off = values.get(subject.number, ("", False))
            yield (
                f"<td class='off'>{text(value)} {_mark('failed')}</td>"
                if off
                else f"<td>{text(value)}</td>"
            )
        yield "</tr>"
    yield "</tbody></table></div>"


def _curves(subjects: list[Subject]) -> Iterator[str]:
    curves = []
    for subject in subjects:
        for row, reading in _readings(subject):
            if (
                reading["quantity"] == _CURVE
                and isinstance(reading["read"], list)
                and isinstance(reading["expected"], list)
            ):
                read, expected = _points(reading["read"]), _points(reading["expected"])
                if read and [x for x, _ in read] == [x for x, _ in expected]:
                    curves.append((row["outcome"] == "passed", subject, read, expected))
    if not curves:
        return
    # Right ones are all alike: one is enough where there is nothing else to see.
    drawn = [curve for curve in curves if not curve[0]] or curves[:1]
    yield "<h2>The activation</h2><p class='lead'>The MLP's activation function, point by point.</p><div class='figures'>"
    for _, subject, read, expected in drawn:
        yield f"<figure><figcaption><bdi class='mono'>{text(subject.name)}</bdi><br>"
        yield f"<span class='soft'>{len(read)} points from {read[0][0]:.4g} to {read[-1][0]:.4g}; "
        yield f"{_largest(read, expected)}</span></figcaption>"
        yield (
            curve_svg(read, expected, f"activation of {text(subject.name)} beside GPT-2's")
            + "</figure>"
        )
    yield "</div>"
    if others := [curve for curve in curves if curve not in drawn]:
        named = "; ".join(
            f"<bdi class='mono'>{text(s.name)}</bdi> {_largest(r, e)}" for _, s, r, e in others
        )
        yield f"<p class='soft'>As GPT-2's, to rounding: {named}.</p>"


def _largest(read: list[tuple[float, float]], expected: list[tuple[float, float]]) -> str:
    differences = [abs(y - truth) for (_, y), (_, truth) in zip(read, expected, strict=True)]
    finite = [difference for difference in differences if math.isfinite(difference)]
    gaps = len(differences) - len(finite)
    largest = f"largest difference {max(finite):.1e}" if finite else ""
    return "; ".join(filter(None, [largest, f"{gaps} of the values are no number" if gaps else ""]))


def _families(subject: Subject) -> Iterator[str]:
    """All requirements of one implementation, with what was found."""
    yield "<h2>Requirements</h2><p class='lead'>Families with something to read about are open.</p><div class='families'>"
    rows = list(subject.requirements.values())
    for family in dict.fromkeys(row["family"] for row in rows):
        members = [row for row in rows if row["family"] == family]
        counts = {outcome: sum(row["outcome"] == outcome for row in members) for outcome in MARKS}
        told = ", ".join(f"{_mark(outcome)} {n} {outcome}" for outcome, n in counts.items() if n)
        is_open = " open" if any(counts[outcome] for outcome in _TOLD) else ""
        yield f"<details{is_open}><summary><b>{text(family)}</b> <span class='soft'>{told}</span></summary>"
        for row in members:
            yield from _requirement(subject, row)
        yield "</details>"
    yield "</div>"


def _matrix(subjects: list[Subject]) -> Iterator[str]:
    yield "<h2>Requirements</h2><ul class='legend'>"
    yield "".join(f"<li>{_mark(outcome)} {outcome}</li>" for outcome in MARKS) + "</ul>"
    yield "<div class='scroll'><table class='matrix'><thead><tr><th scope='col'>requirement</th>"
    yield _columns(subjects) + "</tr></thead><tbody>"
    rows = {name: row for subject in subjects for name, row in subject.requirements.items()}
    for family in dict.fromkeys(row["family"] for row in rows.values()):
        yield f"<tr class='family'><th scope='rowgroup' colspan='{len(subjects) + 1}'>{text(family)}</th></tr>"
        for name in [name for name, row in rows.items() if row["family"] == family]:
            sentence = text(rows[name]["sentence"])
            yield f"<tr><th scope='row' title='{sentence}'>{text(name.removeprefix(f'{family}.'))}</th>"
            yield "".join(_cell(subject, name) for subject in subjects) + "</tr>"
    yield "</tbody></table></div>"


def _cell(subject: Subject, requirement: str) -> str:
    outcome = subject.requirements.get(requirement, {"outcome": "not run"})[
        "outcome"
    ]  # a later suite asks more
    mark = _mark(outcome, spoken=True)
    return f"<td class='{_class(outcome)}'>{_link(subject, requirement, mark) if outcome in _TOLD else mark}</td>"


def _deviations(subjects: list[Subject]) -> Iterator[str]:
    """What there is to read about each of several implementations."""
    for subject in subjects:
        if rows := [row for row in subject.requirements.values() if row["outcome"] in _TOLD]:
            yield f"<h3><bdi class='mono'>{text(subject.name)}</bdi></h3><div class='families'><details open>"
            yield f"<summary><b>{len(rows)} to read about</b> <span class='soft'>{text(subject.where)}</span></summary>"
            for row in rows:
                yield from _requirement(subject, row)
            yield "</details></div>"


def _requirement(subject: Subject, row: dict[str, Any]) -> Iterator[str]:
    outcome = row["outcome"]
    yield f'<div class="requirement {_class(outcome)}" id="{text(subject.anchor(row["id"]))}">{_mark(outcome)}<div>'
    yield f'<div class="name"><code>{text(row["id"])}</code><span class="outcome">{outcome}</span></div>'
    yield f'<p>{text(row["sentence"])} <span class="soft">{text(row["source"])}; since {text(row["since"])}</span></p>'
    for cause in subject.adapter["causes"]:
        if row["id"] in cause["explains"][1:]:
            first = cause["explains"][0]
            yield f"<p>Explained by <b>{text(cause['id'])}</b>, see {_link(subject, first, text(first))}.</p>"
    known = row.get("known_deviation", {})
    if known:
        issue = str(known.get("issue", ""))
        web = issue.startswith(
            ("https://", "http://")
        )  # anything else, such as a script, is no link
        shown = (
            f' <a href="{text(issue)}" rel="nofollow noopener">{text(issue)}</a>'
            if web
            else f" {text(issue)}"
        )
        yield f"<p><b>Known:</b> {text(known['reason'])}{shown}</p>"
    findings = [finding for finding in row["findings"] if finding["outcome"] == outcome]
    distinct = {
        sentence(finding["read"], finding["expected"]): finding for finding in reversed(findings)
    }
    for found, finding in list(distinct.items())[::-1][:3]:
        yield f"<pre class='found'>{text(found)}</pre>"
        if outcome in _TOLD:
            yield f"<p class='soft'>See it again: <code>{text(finding['again'])}</code></p>"
    yield "</div></div>"


def _environment(report: dict[str, Any]) -> str:
    environment = "; ".join(f"{key} {value}" for key, value in report["environment"].items())
    return (
        f"<p class='soft'>Judged by {text(report['suite']['name'])} {text(report['suite']['version'])} "
        f"on {text(report['date'])}: {text(environment)}.</p>"
    )


def _columns(subjects: list[Subject]) -> str:
    """Headings: of each name the last part that tells it from the others, and where it was judged if that differs."""
    heads = []
    for subject in subjects:
        endings = [re.split(r"[/\\:]", subject.name)[-1], re.split(r"[/\\]", subject.name)[-1]]
        others = [other.name for other in subjects if other.name != subject.name]
        telling = (
            ending
            for ending in endings
            if ending and not any(name.endswith(ending) for name in others)
        )
        short = next(telling, subject.name)
        breakable = re.sub(r"([_.:/])", r"\1<wbr>", text(short))
        where = (
            f"<small>{text(subject.where)}</small>"
            if len({each.where for each in subjects}) > 1
            else ""
        )
        heads.append(
            f"<th scope='col' title='{text(subject.name)}'><bdi>{breakable}</bdi>{where}</th>"
        )
    return "".join(heads)


def _mark(outcome: str, *, spoken: bool = False) -> str:
    if outcome not in MARKS:
        raise KeyError(outcome)
    label = (
        f"role='img' aria-label='{outcome}' title='{outcome}'" if spoken else "aria-hidden='true'"
    )
    return f"<span class='mark {_class(outcome)}' {label}>{MARKS[outcome]}</span>"


def _class(outcome: str) -> str:
    return outcome.replace(" ", "-")


def _link(subject: Subject, requirement: str, content: str) -> str:
    return f'<a href="#{text(subject.anchor(requirement))}">{content}</a>'


def _readings(subject: Subject) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    return ((row, reading) for row in subject.requirements.values() for reading in row["readings"])


def _shown(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _points(pairs: Iterable[Sequence[Any]]) -> list[tuple[float, float]]:
    """In order of x; what is no number, or none that can be drawn, is NaN."""

    def number(value: Any) -> float:
        return float(value) if isinstance(value, (int, float)) and abs(value) < 1e30 else math.nan

    return sorted((number(x), number(y)) for x, y in pairs if math.isfinite(number(x)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.report_page", description="A page of conformance reports."
    )
    parser.add_argument(
        "reports",
        nargs="+",
        metavar="report.json",
        help="written by pytest conformance/ --conformance-report",
    )
    parser.add_argument("-o", "--output", required=True, metavar="page.html")
    options = parser.parse_args(arguments)
    reports = []
    for path in options.reports:
        try:
            report = json.loads(Path(path).read_text(encoding="utf-8"))
            if report["format"] != 2:
                raise ValueError(f"format {report['format']!r}, expected 2")
            page([report])  # by itself, so that a report that can't be shown is named
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            print(
                f"{path}: not a conformance report: {type(error).__name__}: {error}",
                file=sys.stderr,
            )
            return 2
        reports.append(report)
    try:
        Path(options.output).write_text(page(reports), encoding="utf-8")
    except OSError as error:
        print(f"{options.output}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
