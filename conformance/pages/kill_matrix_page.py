"""Make the page of a kill matrix, which `templates/kill_matrix.html` lays out.

A row is an entry of the catalogue, and a column is a requirement. `../kill_matrix/matrix.py`
writes the data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .report_page import MARKS
from .template import render

# What a cell shows: an outcome, or one of these, which depend on what the entry is.
NAMED, CAUGHT, WRONG = "named", "caught", "wrong"
SIGNS = MARKS | {NAMED: "◆", CAUGHT: "■", WRONG: "✗", "passed": "·", "not run": ""}
LEGEND = {
    NAMED: "caught by the requirement that it names",
    CAUGHT: "caught by another requirement",
    "passed": "passed",
    "errored": "errored, which catches nothing",
    "variant": "variant: reported, and no mistake",
    "not applicable": "not applicable",
    "not run": "not asked",
    WRONG: "not as it must be",
}
_HEADINGS = {
    "equivalent": "Equivalents: they change nothing",
    "variant": "Variants: as another source does",
}
# Kind of entry -> outcomes that are wrong for it, whichever requirement has them.
_FLAGGED = {"equivalent": ("failed", "errored", "variant"), "variant": ("failed", "errored")}
_TONES = {NAMED: "passed", WRONG: "failed", CAUGHT: "not run"}  # sign -> outcome of that colour


class Summary(NamedTuple):
    """The outcome of an entry: a sign, a few words, and the requirements to list with a label."""

    sign: str
    words: str
    label: str = ""
    listed: tuple[str, ...] = ()
    counted: bool = True  # whether the number of listed requirements is shown

    @property
    def tone(self) -> str:
        return _TONES.get(self.sign, self.sign)

    @property
    def by_family(self) -> dict[str, list[str]]:
        """Family -> the rest of the names of the listed requirements."""
        families: dict[str, list[str]] = {}
        for family, _, rest in (name.partition(".") for name in self.listed):
            families.setdefault(family, []).append(rest)
        return families


@dataclass(frozen=True)
class KillMatrix:
    """The content of the file: entries and requirements by their ids."""

    entries: dict[str, dict[str, Any]]
    requirements: dict[str, dict[str, Any]]
    problems: list[str]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Heading -> entries: families of defects, then what is no defect, then combinations."""
        groups: dict[str, list[str]] = {}
        for name, entry in self.entries.items():
            heading = "Several at once"
            if _in_catalogue(entry):
                heading = _HEADINGS.get(entry["kind"], entry["family"])
            groups.setdefault(heading, []).append(name)
        return groups

    @property
    def columns(self) -> list[tuple[str, str, str, bool]]:
        """The columns: id, family, rest of the id, and whether the requirement begins a family."""
        columns, last = [], None
        for name in self.requirements:
            family = name.split(".")[0]
            columns.append((name, family, name.removeprefix(family), family != last))
            last = family
        return columns

    def of_kind(self, kind: str) -> list[str]:
        return [
            name
            for name, entry in self.entries.items()
            if entry["kind"] == kind and _in_catalogue(entry)
        ]

    def outcome(self, name: str, requirement: str) -> str:
        outcome = self.entries[name]["outcomes"].get(requirement, "not run")
        if outcome not in MARKS:
            raise ValueError(f"{name}: {outcome!r} is no outcome")
        return str(outcome)

    def sign(self, name: str, requirement: str) -> str:
        """Return what the cell of an entry and a requirement shows, a key of SIGNS."""
        entry, outcome = self.entries[name], self.outcome(name, requirement)
        if entry["kind"] == "defect" and entry.get("requirement") == requirement:
            return NAMED if outcome == "failed" else WRONG
        if _in_catalogue(entry) and outcome in _FLAGGED.get(entry["kind"], ()):
            return WRONG
        return CAUGHT if outcome == "failed" else outcome

    def explanation(self, name: str, requirement: str) -> str:
        """Return the words for a cell, which a browser shows when one points at it."""
        sign = self.sign(name, requirement)
        return (
            LEGEND[sign] if sign in (NAMED, CAUGHT, "not run") else self.outcome(name, requirement)
        )

    def with_sign(self, name: str, sign: str) -> tuple[str, ...]:
        """Return the requirements whose cell shows this sign for the entry."""
        return tuple(each for each in self.requirements if self.sign(name, each) == sign)

    def count(self, kind: str, sign: str) -> int:
        """Return how many entries of this kind show the sign somewhere."""
        return sum(bool(self.with_sign(name, sign)) for name in self.of_kind(kind))

    def idle(self, *, asked: bool) -> list[str]:
        """Return the requirements that catch nothing: those asked of an entry, or the others."""
        were_asked = {name for entry in self.entries.values() for name in entry["outcomes"]}
        idle = [name for name, row in self.requirements.items() if not row["kills"]]
        return [name for name in idle if (name in were_asked) == asked]

    def anchor(self, name: str) -> str:
        """Return the id of the element that describes a requirement or an entry.

        It is a number, since a name may contain anything.
        """
        if name in self.requirements:
            return f"r{list(self.requirements).index(name)}"
        return f"e{list(self.entries).index(name)}"

    def summary(self, name: str) -> Summary:
        entry = self.entries[name]
        wrong, others = self.with_sign(name, WRONG), self.with_sign(name, CAUGHT)
        if not _in_catalogue(entry):
            return Summary(CAUGHT, f"fails {len(others)}", "Caught by", others)
        if entry["kind"] == "defect":  # whose requirement is named before these words
            if wrong:
                outcome = self.outcome(name, entry["requirement"])
                return Summary(WRONG, f"is {outcome}", "Caught by", others)
            return Summary(NAMED, "catches it", "Also caught by", others)
        if wrong:
            return Summary(WRONG, "flagged", "Flagged by", wrong)
        variant = self.with_sign(name, "variant")
        sign = "variant" if variant else "passed"
        return Summary(sign, "not flagged", "Reported by", variant, counted=False)


def page(data: dict[str, Any]) -> str:
    """Return the page.

    Raises jinja2.TemplateError, KeyError, TypeError or ValueError if the data are not a kill
    matrix.
    """
    entries, requirements = (_by_id(data[key]) for key in ("entries", "requirements"))
    problems = [str(problem) for problem in data["problems"]]
    matrix = KillMatrix(entries, requirements, problems)
    return render("kill_matrix.html", matrix=matrix, signs=SIGNS, legend=LEGEND)


def _by_id(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in rows}


def _in_catalogue(entry: dict[str, Any]) -> bool:
    """Return whether this is an entry by itself. Several defects at once have no family."""
    return "family" in entry
