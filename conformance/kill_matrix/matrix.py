"""The kill matrix: which requirement catches which defect.

Every defect must fail the requirement that it names. No equivalent and no variant may fail any
requirement, and every requirement must catch something. A crash is *errored* and catches nothing,
unless the requirement says that something must be accepted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

from gpt2ref import __version__

from .. import defects
from ..defects import DEFECTS, EQUIVALENT, VARIANTS, Entry
from ..defects.steps import FEEDING, LOADING, LOOP, SAMPLER, TEXT, can_change
from ..requirements import REQUIREMENTS
from ..verdict.findings import ERRORED, FAILED, NOT_RUN, VARIANT
from ..verdict.judgement import Judgement

PREFIX = f"{defects.__name__}:"
ENTRIES = DEFECTS | EQUIVALENT | VARIANTS

# The published sizes and a whole context take seconds each. Only the defects that name these
# requirements are asked.
LARGE = frozenset(
    {
        *("parity.full-context", "cache.steps", "keys.published-sizes"),
        *("cache.far-past", "cache.long", "context.positions"),
        *("generation.far-past", "eos.no-other"),
    }
)
# These need real weights, and 20 GB of memory. No defect is asked.
NEVER = frozenset({"parity.given-checkpoint", "parity.published-sizes"})
_STEPS_OF_FAMILY = {
    "keys": LOADING,
    "text": TEXT,
    "sampling": SAMPLER,
    "eos": LOOP,
    "generation": LOOP | FEEDING,
}


def asked(entry: Entry, requirement: str) -> bool:
    """Return whether a defect is asked for a requirement: only if the steps it replaces can matter.

    A wrong forward pass loads and refuses the same files as a right one. It does change the
    generated tokens, their frequencies and their number, but only because its logits are wrong. An
    equivalent or a variant is asked for everything; for frequencies only if it replaces the
    sampler. (Any implementation that is not of the catalogue is asked for everything.)
    """
    asked_for, replaced = REQUIREMENTS[requirement], entry.steps
    if requirement == entry.requirement:
        return True
    if requirement in LARGE | NEVER:
        return False
    if entry.id not in DEFECTS:
        return asked_for.family != "sampling" or bool(replaced & SAMPLER)
    for family, steps_of_it in _STEPS_OF_FAMILY.items():
        if asked_for.family == family:
            return bool(replaced & steps_of_it)
    return can_change(replaced, "logits")


@dataclass(frozen=True)
class Matrix:
    """The outcomes: entry -> requirement -> outcome, where the entry was asked."""

    outcomes: Mapping[str, Mapping[str, str]]

    @staticmethod
    def of(judgements: Iterable[Judgement]) -> Matrix:
        """Make the matrix of the judgements on the catalogue's entries."""
        return Matrix(
            {
                judgement.adapter.removeprefix(PREFIX): {
                    name: judgement.outcome(name)
                    for name in REQUIREMENTS
                    if judgement.outcome(name) != NOT_RUN
                }
                for judgement in judgements
            }
        )

    def with_outcome(self, entry: str, outcome: str) -> list[str]:
        return [name for name, found in self.outcomes[entry].items() if found == outcome]

    @cached_property
    def kills(self) -> dict[str, list[str]]:
        """The defects that each requirement catches."""
        caught = {
            entry: self.with_outcome(entry, FAILED) for entry in self.outcomes if entry in DEFECTS
        }
        return {name: [entry for entry in caught if name in caught[entry]] for name in REQUIREMENTS}

    @cached_property
    def sole(self) -> dict[str, list[str]]:
        """The defects that each requirement alone catches."""
        return {
            name: [entry for entry in kills if len(self.with_outcome(entry, FAILED)) == 1]
            for name, kills in self.kills.items()
        }

    @cached_property
    def problems(self) -> list[str]:
        """Each violation of the rules above, in a sentence."""
        return [*self._missed(), *self._flagged(), *self._idle()]

    def _missed(self) -> Iterator[str]:
        for entry, outcomes in self.outcomes.items():
            if entry in DEFECTS:
                named = DEFECTS[entry].requirement or ""
                if outcomes.get(named, NOT_RUN) != FAILED:
                    others = ", ".join(self.with_outcome(entry, FAILED)) or "none"
                    outcome = outcomes.get(named, NOT_RUN)
                    yield f"{entry}: {named} is {outcome}; caught by {others}"

    def _flagged(self) -> Iterator[str]:
        for entry in self.outcomes:
            if entry in EQUIVALENT | VARIANTS:
                wrong = [*self.with_outcome(entry, FAILED), *self.with_outcome(entry, ERRORED)]
                wrong += self.with_outcome(entry, VARIANT) if entry in EQUIVALENT else []
                if wrong:
                    yield f"{entry}: is no mistake, and flagged by {', '.join(wrong)}"

    def _idle(self) -> Iterator[str]:
        if set(self.outcomes) >= set(DEFECTS):
            yield from (
                f"{name}: catches no defect"
                for name, kills in self.kills.items()
                if not kills and name not in NEVER
            )

    def lines(self) -> list[str]:
        """The summary for a terminal."""
        defects = [e for e in self.outcomes if e in DEFECTS]
        caught = sum(DEFECTS[e].requirement in self.with_outcome(e, FAILED) for e in defects)
        quiet = [e for e in self.outcomes if e in EQUIVALENT | VARIANTS]
        flagged = len(list(self._flagged()))
        killed = [name for name, kills in self.kills.items() if kills]
        lines = [
            f"{caught} of {len(defects)} defects are caught, each by the requirement that it names",
            f"{flagged} of {len(quiet)} that are no mistakes are flagged",
            f"{len(killed)} of {len(REQUIREMENTS) - len(NEVER)} requirements catch something "
            f"({', '.join(sorted(NEVER))} need more than the catalogue has)",
            "",
            "Caught by one requirement alone:",
        ]
        lines += [
            f"    {name}: {', '.join(entries)}" for name, entries in self.sole.items() if entries
        ]
        if self.problems:
            lines += ["", "PROBLEMS:", *(f"    {problem}" for problem in self.problems)]
        return lines

    def to_json(self, environment: Mapping[str, Any]) -> str:
        """Write the format that `python -m conformance.pages` reads."""
        entries = [_entry(name, self.outcomes[name]) for name in self.outcomes]
        requirements = [
            {
                "id": name,
                "sentence": REQUIREMENTS[name].sentence,
                "kills": self.kills[name],
                "sole": self.sole[name],
            }
            for name in REQUIREMENTS
        ]
        about = {
            "format": 1,
            "suite": __version__,
            "date": date.today().isoformat(),
            "environment": dict(environment),
        }
        data = about | {"entries": entries, "requirements": requirements, "problems": self.problems}
        return json.dumps(data, indent=1) + "\n"


def _entry(name: str, outcomes: Mapping[str, str]) -> dict[str, Any]:
    entry = ENTRIES.get(name)
    kinds = {"defect": DEFECTS, "equivalent": EQUIVALENT, "variant": VARIANTS}
    kind = next((kind for kind, entries in kinds.items() if name in entries), "several")
    about = (
        {
            "family": entry.family,
            "what": entry.what,
            "source": entry.source,
            "requirement": entry.requirement,
        }
        if entry
        else {}
    )
    return {"id": name, "kind": kind, **about, "outcomes": dict(outcomes)}
