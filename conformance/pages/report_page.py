"""Make the page of one or more conformance reports, which `templates/report.html` lays out.

One implementation gets all its requirements, family by family. Several get a table with a column
each, and then what was found in each of them. `../verdict/report.schema.json` describes a report.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ..outcomes import sentence
from .activation_chart import ActivationChart
from .template import render

MARKS = {
    "passed": "✓",
    "failed": "✗",
    "errored": "!",
    "known deviation": "≈",
    "variant": "~",
    "not applicable": "\N{EN DASH}",
    "not run": "·",
}
STATES = {  # state of a verdict -> sentence, and the outcome whose colour it has
    "deviates": ("Not a right GPT-2", "failed"),
    "not judged in full": ("Not judged in full: the adapter broke", "errored"),
    "stale known deviations": ("A known deviation no longer occurs", "known deviation"),
    "known deviations only": ("No deviation from GPT-2 except the known ones", "known deviation"),
    "no deviation found": ("No deviation from GPT-2 found", "passed"),
    "nothing judged": ("Nothing could be judged", "not applicable"),
}
NOTABLE = ("failed", "errored", "known deviation", "variant")  # outcomes whose findings are shown
_MOST_FINDINGS = 3  # shown of a requirement


class Subject(NamedTuple):
    """An implementation of a report."""

    number: int
    report: dict[str, Any]
    adapter: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.adapter["specification"])

    @property
    def where(self) -> str:
        environment = self.report["environment"]
        return f"{environment['dtype']} on {environment['device']}"

    @property
    def verdict(self) -> tuple[str, str]:
        """The sentence, and the outcome whose colour it has."""
        return STATES[self.adapter["verdict"]["state"]]

    @property
    def summary(self) -> str:
        """The sentence of the verdict without the name, which the page shows above it."""
        return str(self.adapter["verdict"]["sentence"]).removeprefix(f"{self.name}: ")

    @property
    def requirements(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in self.adapter["requirements"]}

    @property
    def families(self) -> dict[str, list[dict[str, Any]]]:
        families: dict[str, list[dict[str, Any]]] = {}
        for row in self.requirements.values():
            families.setdefault(row["family"], []).append(row)
        return families

    @property
    def notable(self) -> list[dict[str, Any]]:
        return [row for row in self.requirements.values() if row["outcome"] in NOTABLE]

    def outcome(self, requirement: str) -> str:
        """The outcome; "not run" if the report's suite does not have the requirement."""
        return str(self.requirements.get(requirement, {"outcome": "not run"})["outcome"])

    def anchor(self, requirement: str) -> str:
        return f"r{self.number}-" + re.sub(r"[^A-Za-z0-9._-]", "-", requirement)

    def causes_of(self, requirement: str) -> list[dict[str, Any]]:
        """The causes that explain a failure and are shown at another requirement."""
        return [each for each in self.adapter["causes"] if requirement in each["explains"][1:]]


class Curve(NamedTuple):
    """The activation function of an implementation, beside GPT-2's."""

    subject: Subject
    right: bool
    read: list[tuple[float, float]]
    expected: list[tuple[float, float]]

    @property
    def chart(self) -> ActivationChart:
        label = f"activation of {self.subject.name} beside GPT-2's"
        return ActivationChart(self.read, self.expected, label)

    @property
    def largest(self) -> str:
        """The largest difference, and how many values are not finite."""
        differences = [abs(y - t) for (_, y), (_, t) in zip(self.read, self.expected, strict=True)]
        finite = [difference for difference in differences if math.isfinite(difference)]
        gaps = len(differences) - len(finite)
        texts = [f"largest difference {max(finite):.1e}"] if finite else []
        texts += [f"{gaps} of the values are no number"] if gaps else []
        return "; ".join(texts)


def page(reports: Sequence[dict[str, Any]]) -> str:
    """Return the page.

    Raises jinja2.TemplateError, KeyError, TypeError or ValueError if a report is not as its schema.
    """
    adapters = [(report, adapter) for report in reports for adapter in report["adapters"]]
    subjects = [Subject(number, *each) for number, each in enumerate(adapters)]
    curves = list(_curves(subjects))
    # Right curves are alike: one is enough where there is no wrong one.
    drawn = [curve for curve in curves if not curve.right] or curves[:1]
    return render(
        "report.html",
        reports=reports,
        subjects=subjects,
        marks=MARKS,
        notable=NOTABLE,
        findings=findings,
        sentence=sentence,
        columns=_columns(subjects),
        constants=_constants(subjects),
        requirements=_by_family(subjects),
        drawn=drawn,
        described=[curve for curve in curves if curve not in drawn],
    )


def fragment(report: dict[str, Any], number: int = 0) -> str:
    """Return the verdict on the one implementation of a report, as a part of somebody's page.

    It has its style with it, which changes nothing else there, and no script. `number` is in the
    targets of its links. Raises as `page` does.
    """
    (adapter,) = report["adapters"]
    asked = [row for row in adapter["requirements"] if row["outcome"] != "not run"]
    return render(
        "fragment.html",
        subject=Subject(number, report, {**adapter, "requirements": asked}),
        marks=MARKS,
        notable=NOTABLE,
        findings=findings,
        sentence=sentence,
    )


def findings(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The findings that decided the outcome of a requirement, each text once, the first few."""
    shown: dict[tuple[str, str], dict[str, Any]] = {}
    for finding in row["findings"]:
        if finding["outcome"] == row["outcome"]:
            shown.setdefault((finding["read"], finding["expected"]), finding)
    return list(shown.values())[:_MOST_FINDINGS]


def _by_family(subjects: Sequence[Subject]) -> dict[str, list[dict[str, Any]]]:
    """Family -> the requirements that any of the implementations was asked for."""
    families: dict[str, dict[str, dict[str, Any]]] = {}
    for subject in subjects:
        for name, row in subject.requirements.items():
            families.setdefault(row["family"], {})[name] = row
    return {family: list(rows.values()) for family, rows in families.items()}


def _constants(subjects: Sequence[Subject]) -> list[tuple[str, str, list[tuple[str, bool]]]]:
    """The constants that were measured: quantity, GPT-2's value, and of each subject its value
    and whether it is wrong. An empty value stands for a subject that was not measured."""
    measured: dict[tuple[str, str], dict[int, tuple[str, bool]]] = {}
    for subject, row, reading in _readings(subjects):
        if not isinstance(reading["read"], list) and not isinstance(reading["expected"], list):
            key = str(reading["quantity"]), _number(reading["expected"])
            value = _number(reading["read"]), row["outcome"] != "passed"
            measured.setdefault(key, {})[subject.number] = value
    return [
        (*key, [values.get(subject.number, ("", False)) for subject in subjects])
        for key, values in measured.items()
    ]


def _curves(subjects: Sequence[Subject]) -> Iterator[Curve]:
    for subject, row, reading in _readings(subjects):
        both = reading["read"], reading["expected"]
        if reading["quantity"] == "activation" and all(isinstance(each, list) for each in both):
            read, expected = map(_points, both)
            if read and [x for x, _ in read] == [x for x, _ in expected]:
                yield Curve(subject, row["outcome"] == "passed", read, expected)


def _readings(
    subjects: Sequence[Subject],
) -> Iterator[tuple[Subject, dict[str, Any], dict[str, Any]]]:
    """Each reading with its subject and its requirement."""
    for subject in subjects:
        for row in subject.requirements.values():
            for reading in row["readings"]:
                yield subject, row, reading


def _columns(subjects: Sequence[Subject]) -> list[tuple[Subject, list[str], str]]:
    """The heading of each subject's column: a short name, in pieces between which a line may break,
    and where it was judged if that differs. The short name is an ending that no other name has."""
    columns = []
    for subject in subjects:
        others = [other.name for other in subjects if other.name != subject.name]
        endings = [re.split(r"[/\\:]", subject.name)[-1], re.split(r"[/\\]", subject.name)[-1]]
        unique = (e for e in endings if e and not any(name.endswith(e) for name in others))
        pieces = re.findall(r"[^_.:/]*[_.:/]|[^_.:/]+$", next(unique, subject.name))
        where = subject.where if len({each.where for each in subjects}) > 1 else ""
        columns.append((subject, pieces, where))
    return columns


def _number(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _points(pairs: Iterable[Sequence[Any]]) -> list[tuple[float, float]]:
    """Points in order of x. y is NaN if it is not a number, or is too large to be drawn."""

    def number(value: Any) -> float:
        return float(value) if isinstance(value, (int, float)) and abs(value) < 1e30 else math.nan

    return sorted((number(x), number(y)) for x, y in pairs if math.isfinite(number(x)))
