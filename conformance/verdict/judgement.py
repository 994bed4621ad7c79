"""What the tests of an implementation came to: an outcome for each requirement, the causes of the failures, a judgement.

Each requirement is *passed*, *failed* (the implementation gives a wrong answer), *errored* (the adapter broke, so there
is no answer to judge), *not applicable* (it can't do what the requirement is about), a *variant* (it does what another of
the sources that disagree does, which is no mistake), a *known deviation* (it fails, and the implementer has said why, see
`deviations`) or *not run*, and these are never mixed up.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..diagnosis.diagnose import Diagnosis
from ..requirements import REQUIREMENTS
from .known_deviations import Deviation

PASSED, FAILED, ERRORED, NOT_APPLICABLE = "passed", "failed", "errored", "not applicable"
KNOWN, VARIANT, NOT_RUN = "known deviation", "variant", "not run"
OUTCOMES = (PASSED, FAILED, ERRORED, KNOWN, VARIANT, NOT_APPLICABLE, NOT_RUN)
_WORST_FIRST = (FAILED, ERRORED, KNOWN, VARIANT, PASSED, NOT_APPLICABLE)

# How a failed test names a cause: one of its own fact, or one of another fact that spoils its logits too.
_OWN = re.compile(r"reads (.+?); GPT-2 has ")
_TRANSPOSED = re.compile(
    r"(\S+\.weight) is .*not transposed: the logits are exactly those of that mistake"
)
_OTHERS = re.compile(r"exactly those of another mistake: (.+)")


class Detail(NamedTuple):
    """What one test found."""

    outcome: str
    found: str
    nodeid: str


@dataclass
class Decision:
    """What the tests of one requirement, on one implementation, came to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    details: list[Detail] = field(default_factory=list)
    readings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        return next((outcome for outcome in _WORST_FIRST if self.outcomes[outcome]), NOT_RUN)

    @property
    def detail(self) -> Detail:
        """The one to show: the first that decided the outcome, if possible one that names a cause."""
        deciding = [detail for detail in self.details if detail.outcome == self.outcome]
        return next((detail for detail in deciding if _causes_named(detail.found)[0]), deciding[0])


class Cause(NamedTuple):
    """A mistake that a test has named, and the failures that it explains, its own requirement first if that failed."""

    mistake: str
    explains: list[str]


@dataclass
class Judgement:
    """All that was found of one implementation."""

    adapter: str
    known: Mapping[str, Deviation] = field(default_factory=dict)
    options: tuple[str, ...] = ()  # of the command line, that it takes to see a result again
    decisions: dict[str, Decision] = field(default_factory=dict)
    incomplete: set[str] = field(
        default_factory=set
    )  # requirements of which some tests were not chosen
    diagnosis: Diagnosis | None = None  # once something has failed

    def outcome(self, requirement: str) -> str:
        return self.decisions[requirement].outcome if requirement in self.decisions else NOT_RUN

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.outcome(name) for name in REQUIREMENTS)

    def again(self, nodeid: str) -> str:
        """The command line that runs one test again."""
        file, _, test = nodeid.partition("::")
        installed = ["--pyargs", f"gpt2ref_conformance.{Path(file).stem}::{test}"]
        which = (
            [nodeid] if file.startswith("conformance/") else installed
        )  # a path into site-packages helps nobody
        return shlex.join(["pytest", *which, "--implementation", self.adapter, *self.options])

    @property
    def stale(self) -> list[str]:
        """Known deviations that are none: all tests of the requirement ran, and passed."""
        return [
            name
            for name in self.known
            if self.outcome(name) == PASSED and name not in self.incomplete
        ]

    @property
    def causes(self) -> list[Cause]:
        """The mistakes that were named, each with the failures it explains: as few mistakes as are enough."""
        own: dict[str, set[str]] = {}
        named: dict[str, set[str]] = {}
        for name in REQUIREMENTS:
            if self.outcome(name) == FAILED:
                pairs = [
                    _causes_named(detail.found)
                    for detail in self.decisions[name].details
                    if detail.outcome == FAILED
                ]
                own[name] = {mistake for mistakes, _ in pairs for mistake in mistakes}
                named[name] = own[name] or {
                    mistake for _, mistakes in pairs for mistake in mistakes
                }
        causes = []
        while any(named.values()):
            candidates = sorted(set().union(*named.values()))
            # That of an own fact first: it was read, where others were only found to fit.
            most = max(
                candidates,
                key=lambda m: (any(m in own[r] for r in named), sum(m in named[r] for r in named)),
            )
            explains = sorted(
                (name for name in named if most in named[name]),
                key=lambda name: most not in own[name],
            )
            causes.append(Cause(most, explains))
            for name in explains:
                del named[name]
        return causes

    @property
    def state(self) -> str:
        """The judgement for a program."""
        counts = self.counts
        if counts[FAILED]:
            return "deviates"
        if counts[ERRORED]:
            return "not judged in full"
        if self.stale:
            return "stale known deviations"
        if counts[KNOWN]:
            return "known deviations only"
        return "no deviation found" if counts[PASSED] or counts[VARIANT] else "nothing judged"

    @property
    def sentence(self) -> str:
        """The judgement for a person."""
        judgement = {
            "deviates": "NOT a right GPT-2",
            "not judged in full": "NOT judged in full",
            "stale known deviations": "a known deviation is none any more",
            "known deviations only": "no deviation from GPT-2 found but the known",
            "no deviation found": "no deviation from GPT-2 found",
            "nothing judged": "nothing could be judged",
        }[self.state]
        not_run = [name for name in REQUIREMENTS if self.outcome(name) == NOT_RUN]
        asked = f"{len(REQUIREMENTS) - len(not_run)} of {len(REQUIREMENTS)} requirements"
        if len(not_run) in (1, 2, 3):
            asked += f" (not run: {', '.join(not_run)})"
        counts = self.counts
        del counts[NOT_RUN]
        return f"{self.adapter}: {judgement}. {asked}: {counted(counts) or 'none run'}."


def counted(outcomes: Mapping[str, int]) -> str:
    return ", ".join(
        f"{outcomes[outcome]} {outcome}" for outcome in OUTCOMES if outcomes.get(outcome)
    )


def _causes_named(found: str) -> tuple[list[str], list[str]]:
    """The mistakes that a failure names: of the requirement's own fact, and of others. Several, if they look alike."""
    if match := _TRANSPOSED.match(found):
        return [f"h.{match[1]} not transposed"], []  # as the probes call it
    if match := _OWN.match(found):
        return match[1].split(" or "), []
    match = _OTHERS.search(found)
    return [], match[1].split(" or ") if match else []
