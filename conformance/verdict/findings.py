"""The findings of the tests, and the result that they make for a requirement."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..outcomes import sentence

FINDING = "conformance"  # the user_property of a test report that has a finding

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
