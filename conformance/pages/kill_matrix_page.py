"""A page to read and to publish of the kill matrix:  python -m conformance.pages.kill_matrix_page kill.json -o kill.html

Made as the page of a report is (`conformance.page`): one HTML file with its style inside, no script, all text escaped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..verdict.judgement import ERRORED, FAILED, NOT_RUN, PASSED, VARIANT
from .report_page import MARKS, text

NAMED, CAUGHT, WRONG = "named", "caught", "wrong"  # what a cell shows where not the bare outcome
SIGNS = MARKS | {NAMED: "◆", CAUGHT: "■", WRONG: "✗", PASSED: "·", NOT_RUN: ""}
LEGEND = {
    NAMED: "caught by the requirement that it names",
    CAUGHT: "caught by another one",
    PASSED: "passed",
    ERRORED: "errored, which catches nothing",
    VARIANT: "variant: told, and no mistake",
    "not applicable": "not applicable",
    NOT_RUN: "not asked",
    WRONG: "not as it must be",
}
_KINDS = {
    "equivalent": "Equivalents: they change nothing",
    "variant": "Variants: as another source does",
}
_TITLE = "Which wrong GPT-2s the suite catches"
_TOGETHER = "Several at once"


class Catalogue(NamedTuple):
    """What the JSON has: entries and requirements by their ids."""

    entries: dict[str, dict[str, Any]]
    requirements: dict[str, dict[str, Any]]
    problems: list[str]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Heading -> entries: families of defects, then what is no defect."""
        groups: dict[str, list[str]] = {}
        for name, entry in self.entries.items():
            heading = _KINDS.get(entry["kind"], entry["family"]) if "family" in entry else _TOGETHER
            groups.setdefault(heading, []).append(name)
        return groups

    def of_kind(self, kind: str) -> list[str]:
        return [
            name
            for name, entry in self.entries.items()
            if entry["kind"] == kind and "family" in entry
        ]

    def outcome(self, name: str, requirement: str) -> str:
        outcome = self.entries[name]["outcomes"].get(requirement, NOT_RUN)
        if outcome not in MARKS:
            raise ValueError(f"{name}: {outcome!r} is no outcome")
        return str(outcome)

    def shown(self, name: str, requirement: str) -> str:
        """What the cell of an entry and a requirement shows: one of SIGNS."""
        entry, outcome = self.entries[name], self.outcome(name, requirement)
        is_named = entry.get("requirement") == requirement
        bad = {"equivalent": (FAILED, ERRORED, VARIANT), "variant": (FAILED, ERRORED)}.get(
            entry["kind"], ()
        )
        if is_named and entry["kind"] == "defect":
            return NAMED if outcome == FAILED else WRONG
        if "family" in entry and outcome in bad:
            return WRONG
        return CAUGHT if outcome == FAILED else outcome

    def all_shown(self, name: str, what: str) -> list[str]:
        """The requirements whose cell shows this."""
        return [
            requirement
            for requirement in self.requirements
            if self.shown(name, requirement) == what
        ]

    def anchor(self, name: str) -> str:
        """Where the table tells of a requirement, or the catalogue of an entry. Numbers, since names are anybody's."""
        return (
            f"r{[*self.requirements].index(name)}"
            if name in self.requirements
            else f"e{[*self.entries].index(name)}"
        )

    def link(self, name: str, label: str = "") -> str:
        return f'<a href="#{self.anchor(name)}">{label or text(name)}</a>'


def page(data: dict[str, Any]) -> str:
    entries, requirements = (
        {row["id"]: row for row in data[key]} for key in ("entries", "requirements")
    )
    catalogue = Catalogue(entries, requirements, [str(problem) for problem in data["problems"]])
    style = "".join(
        path.read_text(encoding="utf-8")
        for path in (
            Path(__file__).with_name(name) for name in ("report_page.css", "kill_matrix_page.css")
        )
    )
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>{_TITLE}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main class='kills'>",
            *_summary(catalogue),
            *_matrix(catalogue),
            *_requirements(catalogue),
            *_catalogue(catalogue),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _summary(catalogue: Catalogue) -> Iterator[str]:
    yield f"<header><h1>{_TITLE}</h1><p class='lead'>Mistakes that people made, each as an "
    yield "implementation that the suite judges like any other. Every defect must fail the requirement that it names, what "
    yield "is no mistake must fail none, and every requirement must catch something.</p></header>"
    defects, problems = catalogue.of_kind("defect"), catalogue.problems
    caught = [name for name in defects if catalogue.all_shown(name, NAMED)]
    yield f'<section class="verdict {"failed" if problems else "passed"}">'
    yield f"<p class='state'>{'Not as it must be' if problems else 'As it must be'}</p>"
    yield f"<p>{len(caught)} of {len(defects)} defects are caught, each by the requirement that it names.</p>"
    for kind, words in (("equivalent", "change nothing"), ("variant", "do as another source does")):
        names = catalogue.of_kind(kind)
        flagged = [name for name in names if catalogue.all_shown(name, WRONG)]
        yield f"<p>{len(flagged)} of {len(names)} {kind}s, which {words}, are flagged.</p>"
    asked = {name for entry in catalogue.entries.values() for name in entry["outcomes"]}
    idle = [name for name, row in catalogue.requirements.items() if not row["kills"]]
    total = len(catalogue.requirements)
    yield f"<p>{total - len(idle)} of {total} requirements catch something.</p>"
    unasked = [name for name in idle if name not in asked]
    for words, names in (
        ("Asked, and catch nothing", [n for n in idle if n in asked]),
        ("Not asked of any", unasked),
    ):
        if names:
            yield f"<p class='soft'>{words}: {', '.join(map(catalogue.link, names))}.</p>"
    if problems:
        yield f"<ul class='problems'>{''.join(f'<li>{text(problem)}</li>' for problem in problems)}</ul>"
    yield "</section>"


def _matrix(catalogue: Catalogue) -> Iterator[str]:
    yield "<h2>The matrix</h2><p class='lead'>Rows are wrong GPT-2s, columns requirements; each has a sentence that shows when "
    yield "pointed at, and leads to what is said of it below.</p><ul class='legend'>"
    yield "".join(f"<li>{_sign(shown)} {words}</li>" for shown, words in LEGEND.items()) + "</ul>"
    yield "<div class='scroll kill'><div><table><thead><tr><th scope='col'></th>"
    families = [name.split(".")[0] for name in catalogue.requirements]
    edges = [
        "edge " * (family != before)
        for family, before in zip(families, [None, *families], strict=False)
    ]
    for (name, row), family, edge in zip(
        catalogue.requirements.items(), families, edges, strict=True
    ):
        label = f"<span>{text(family)}</span>{text(name.removeprefix(family))}"
        yield f"<th scope='col' class='{edge}' title='{text(row['sentence'])}'>{catalogue.link(name, label)}</th>"
    yield "</tr></thead><tbody>"
    for heading, names in catalogue.groups.items():
        yield f"<tr class='family'><th scope='rowgroup' colspan='{len(families) + 1}'><span>{text(heading)}</span></th></tr>"
        for name in names:
            yield f"<tr><th scope='row' title='{text(catalogue.entries[name].get('what', ''))}'>{catalogue.link(name)}</th>"
            for requirement, edge in zip(catalogue.requirements, edges, strict=True):
                shown, outcome = (
                    catalogue.shown(name, requirement),
                    catalogue.outcome(name, requirement),
                )
                told = text(
                    f"{name} / {requirement}: {LEGEND[shown] if shown in (NAMED, CAUGHT, NOT_RUN) else outcome}"
                )
                yield f"<td class='{edge}{_class(shown)}' title='{told}'>{SIGNS[shown]}</td>"
            yield "</tr>"
    yield "</tbody></table></div></div>"


def _requirements(catalogue: Catalogue) -> Iterator[str]:
    yield "<h2>Requirements</h2><p class='lead'>How many defects each catches, and those that no other one does.</p>"
    yield "<div class='scroll'><table class='catches'><thead><tr><th scope='col'>requirement</th><th scope='col'>catches</th>"
    yield "<th scope='col'>it alone</th></tr></thead><tbody>"
    for name, row in catalogue.requirements.items():
        alone = "<br>".join(f"<code>{catalogue.link(entry)}</code>" for entry in row["sole"])
        yield f"<tr id='{catalogue.anchor(name)}'><th scope='row'><code>{text(name)}</code>"
        yield f"<div class='soft'>{text(row['sentence'])}</div></th>"
        yield f"<td>{len(row['kills']) or '<span class=soft>none</span>'}</td><td>{alone}</td></tr>"
    yield "</tbody></table></div>"


def _catalogue(catalogue: Catalogue) -> Iterator[str]:
    yield "<h2>The catalogue</h2><p class='lead'>What goes wrong, where that was seen, and what catches it.</p>"
    yield "<div class='families'>"
    for heading, names in catalogue.groups.items():
        yield f"<details open><summary><b>{text(heading)}</b> <span class='soft'>{len(names)}</span></summary>"
        for name in names:
            entry = catalogue.entries[name]
            shown, verdict, listed = _verdict(catalogue, name)
            tone = {NAMED: PASSED, WRONG: FAILED, CAUGHT: NOT_RUN}.get(shown, shown)
            yield f'<div class="requirement {_class(tone)}" id="{catalogue.anchor(name)}">{_sign(shown)}<div>'
            yield f'<div class="name"><code>{text(name)}</code><span class="outcome">{verdict}</span></div>'
            yield f"<p>{text(entry.get('what', ''))} <span class='soft'>{text(entry.get('source', ''))}</span></p>"
            yield f"<p class='soft'>{listed}</p></div></div>" if listed else "</div></div>"
        yield "</details>"
    yield "</div>"


def _verdict(catalogue: Catalogue, name: str) -> tuple[str, str, str]:
    """Of an entry: its sign, what came of it in a few words, and what else there is to say."""
    entry = catalogue.entries[name]
    wrong, others = catalogue.all_shown(name, WRONG), catalogue.all_shown(name, CAUGHT)
    listed = f"{len(others)}: {_by_family(others)}"
    if "family" not in entry:
        return CAUGHT, f"fails {len(others)}", f"Caught by {listed}" if others else ""
    if entry["kind"] == "defect":
        named = catalogue.link(entry["requirement"])
        if not wrong:
            return NAMED, f"{named} catches it", f"Also caught by {listed}" if others else ""
        return (
            WRONG,
            f"{named} is {catalogue.outcome(name, wrong[0])}",
            f"Caught by {listed}" if others else "",
        )
    if wrong:
        return WRONG, "flagged", f"By {len(wrong)}: {_by_family(wrong)}"
    told = catalogue.all_shown(name, VARIANT)
    return (
        (VARIANT if told else PASSED),
        "not flagged",
        f"Told by {_by_family(told)}" if told else "",
    )


def _by_family(requirements: Iterable[str]) -> str:
    """Attention: heads, mask; cache: splits."""
    families: dict[str, list[str]] = {}
    for family, _, rest in (name.partition(".") for name in requirements):
        families.setdefault(family, []).append(rest)
    return "; ".join(
        f"<b>{text(family)}</b> {text(', '.join(rest))}" for family, rest in families.items()
    )


def _sign(shown: str) -> str:
    return f"<span class='sign {_class(shown)}' aria-hidden='true'>{SIGNS[shown]}</span>"


def _class(shown: str) -> str:
    return shown.replace(" ", "-")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.kill_matrix_page", description="A page of the kill matrix."
    )
    parser.add_argument(
        "matrix",
        metavar="kill.json",
        help="written by pytest conformance/ --defects --defects-report",
    )
    parser.add_argument("-o", "--output", required=True, metavar="kill.html")
    options = parser.parse_args(arguments)
    try:
        data = json.loads(Path(options.matrix).read_text(encoding="utf-8"))
        if data["format"] != 1:
            raise ValueError(f"format {data['format']!r}, expected 1")
        made = page(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        print(
            f"{options.matrix}: not a kill matrix: {type(error).__name__}: {error}", file=sys.stderr
        )
        return 2
    try:
        Path(options.output).write_text(made, encoding="utf-8")
    except OSError as error:
        print(f"{options.output}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
