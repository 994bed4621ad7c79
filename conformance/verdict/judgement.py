"""Gathers the findings on one implementation, and comes to a verdict.

Each requirement is one of
- *passed*;
- *failed*: the implementation gives a wrong answer;
- *errored*: the adapter broke, so there is no answer to judge;
- *not applicable*: the implementation can't do what the requirement is about;
- a *variant*: sources disagree, and the implementation follows another one, which is no mistake;
- a *known deviation*: it fails, and the implementer has said why (see `known_deviations`);
- *not run*.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..diagnosis.diagnose import Diagnosis
from ..outcomes import sentence
from ..requirements import REQUIREMENTS
from .known_deviations import KnownDeviation

PASSED, FAILED, ERRORED, NOT_APPLICABLE = "passed", "failed", "errored", "not applicable"
KNOWN, VARIANT, NOT_RUN = "known deviation", "variant", "not run"
OUTCOMES = (PASSED, FAILED, ERRORED, KNOWN, VARIANT, NOT_APPLICABLE, NOT_RUN)
_WORST_FIRST = (FAILED, ERRORED, KNOWN, VARIANT, PASSED, NOT_APPLICABLE)


@dataclass(frozen=True)
class Finding:
    """The finding of one test. The fields that a Failure has mean the same here."""

    outcome: str
    read: str = ""
    expected: str = ""
    mistakes: tuple[str, ...] = ()
    own: bool = False
    broken: bool = False  # whether the adapter can't be used at all
    test: str = ""  # pytest's node id

    @property
    def sentence(self) -> str:
        return sentence(self.read, self.expected)


@dataclass
class Result:
    """The findings of all tests of one requirement, on one implementation."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)  # of tests that did not pass
    readings: list[dict[str, Any]] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        self.outcomes[finding.outcome] += 1
        if finding.outcome != PASSED:
            self.findings.append(finding)

    @property
    def outcome(self) -> str:
        return next((outcome for outcome in _WORST_FIRST if self.outcomes[outcome]), NOT_RUN)

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.outcome == FAILED]

    @property
    def decisive(self) -> Finding:
        """The finding to show: one that decides the outcome, if possible one that names a cause."""
        deciding = [finding for finding in self.findings if finding.outcome == self.outcome]
        return next((finding for finding in deciding if finding.own), deciding[0])

    def mistakes(self, *, own: bool) -> set[str]:
        """The mistakes that the failures name: of the requirement's own fact, or of others."""
        named = (finding.mistakes for finding in self.failures if finding.own == own)
        return {mistake for mistakes in named for mistake in mistakes}


class Cause(NamedTuple):
    """A mistake that explains failures.

    `explains` are the failed requirements, first those whose own fact it is. `finding` is a finding
    of the first of them, which names the mistake.
    """

    id: str
    explains: list[str]
    finding: Finding


@dataclass
class Judgement:
    """Everything that was found of one implementation.

    `options` are the words of the command line that a result depends on. `incomplete` are the
    requirements of which some tests were not chosen.
    """

    adapter: str
    known: Mapping[str, KnownDeviation] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    results: dict[str, Result] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)
    diagnosis: Diagnosis | None = None

    def outcome(self, requirement: str) -> str:
        return self.results[requirement].outcome if requirement in self.results else NOT_RUN

    def with_outcome(self, outcome: str) -> list[str]:
        """The requirements with this outcome."""
        return [name for name in REQUIREMENTS if self.outcome(name) == outcome]

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.outcome(name) for name in REQUIREMENTS)

    def again(self, test: str) -> str:
        """Return the command line that runs one test again."""
        file, _, name = test.partition("::")
        # An installed suite is called by its name: a path into site-packages helps nobody.
        installed = ["--pyargs", f"gpt2ref_conformance.{Path(file).stem}::{name}"]
        which = [test] if Path(file).parts[:1] == ("conformance",) else installed
        return shlex.join(["pytest", *which, "--implementation", self.adapter, *self.options])

    @property
    def broken(self) -> str | None:
        """Why the adapter can't be used at all, if it can't."""
        findings = (each for result in self.results.values() for each in result.findings)
        return next((finding.read for finding in findings if finding.broken), None)

    @property
    def stale(self) -> list[str]:
        """Known deviations that do not occur: all tests of the requirement ran and passed."""
        complete = self.known.keys() - self.incomplete
        return [name for name in self.with_outcome(PASSED) if name in complete]

    @property
    def causes(self) -> list[Cause]:
        """The fewest named mistakes that explain every failure that names any."""
        own = {name: self.results[name].mistakes(own=True) for name in self.with_outcome(FAILED)}
        named = {name: own[name] or self.results[name].mistakes(own=False) for name in own}
        causes = []
        while any(named.values()):
            mistake = _explains_most(named, own)
            explains = [name for name, mistakes in named.items() if mistake in mistakes]
            explains.sort(key=lambda name: mistake not in own[name])
            failures = self.results[explains[0]].failures
            naming = [finding for finding in failures if mistake in finding.mistakes]
            causes.append(Cause(mistake, explains, max(naming, key=lambda finding: finding.own)))
            named = {name: mistakes for name, mistakes in named.items() if name not in explains}
        return causes

    @property
    def unexplained(self) -> list[str]:
        """The failed requirements that no cause explains."""
        explained = {name for cause in self.causes for name in cause.explains}
        return [name for name in self.with_outcome(FAILED) if name not in explained]

    @property
    def state(self) -> str:
        """The verdict, as one of the states of report.schema.json."""
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
        """The verdict as a sentence."""
        verdict = {
            "deviates": "NOT a right GPT-2",
            "not judged in full": "NOT judged in full",
            "stale known deviations": "a known deviation no longer occurs",
            "known deviations only": "no deviation from GPT-2 found except the known ones",
            "no deviation found": "no deviation from GPT-2 found",
            "nothing judged": "nothing could be judged",
        }[self.state]
        not_run = self.with_outcome(NOT_RUN)
        asked = f"{len(REQUIREMENTS) - len(not_run)} of {len(REQUIREMENTS)} requirements"
        if len(not_run) in (1, 2, 3):
            asked += f" (not run: {', '.join(not_run)})"
        counts = self.counts
        del counts[NOT_RUN]
        return f"{self.adapter}: {verdict}. {asked}: {counted(counts) or 'none run'}."


def _explains_most(named: Mapping[str, set[str]], own: Mapping[str, set[str]]) -> str:
    """Choose the mistake that most requirements name.

    A mistake of a requirement's own fact was read, and comes first. Any other only fits.
    """

    def weight(mistake: str) -> tuple[bool, int]:
        explained = [name for name, mistakes in named.items() if mistake in mistakes]
        return any(mistake in own[name] for name in explained), len(explained)

    return max(sorted(set().union(*named.values())), key=weight)


def counted(outcomes: Mapping[str, int]) -> str:
    """Return the counts in words: "3 passed, 1 failed"."""
    return ", ".join(
        f"{outcomes[outcome]} {outcome}" for outcome in OUTCOMES if outcomes.get(outcome)
    )
