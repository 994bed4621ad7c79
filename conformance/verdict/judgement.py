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

import os
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..diagnosis.diagnose import Diagnosis
from ..requirements import REQUIREMENTS
from .causes import Cause, causes, unexplained
from .findings import (
    ERRORED,
    FAILED,
    KNOWN,
    NOT_RUN,
    OUTCOMES,
    PASSED,
    VARIANT,
    Result,
)
from .known_deviations import KnownDeviation

SUITE = Path(__file__).parents[1]


@dataclass
class Judgement:
    """Everything that was found of one implementation.

    `options` are the words of the command line that a result depends on. `incomplete` are the
    requirements of which some tests were not chosen. `together` are the failed requirements that
    no cause explains by itself, and that a GPT-2 with all the causes fails too. `likely` are causes
    that were not read (see `likely`). `crashed` are the tests in which a process of pytest-xdist
    ended. `undiagnosed` says why there is no diagnosis of an
    implementation that fails. `has_name`: whether a command line
    can name the adapter. `quick`: whether little was asked, as the user wanted.
    """

    adapter: str
    known: Mapping[str, KnownDeviation] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    results: dict[str, Result] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)
    diagnosis: Diagnosis | None = None
    together: frozenset[str] = frozenset()
    likely: list[Cause] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    undiagnosed: str = ""
    has_name: bool = True
    quick: bool = False

    def outcome(self, requirement: str) -> str:
        return self.results[requirement].outcome if requirement in self.results else NOT_RUN

    def with_outcome(self, outcome: str) -> list[str]:
        """The requirements with this outcome."""
        return [name for name in REQUIREMENTS if self.outcome(name) == outcome]

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.outcome(name) for name in REQUIREMENTS)

    def again(self, requirement: str, test: str) -> str:
        """Return the command line that runs one test again, or the call that asks its family."""
        if not self.has_name:
            family = REQUIREMENTS[requirement].family
            return f'judge({self.adapter}, families=["{family}"])'
        file, _, name = test.partition("::")
        # An installed suite is called by its name: a path into site-packages helps nobody.
        which = ["--pyargs", f"{SUITE.name}.{Path(file).stem}::{name}"]
        if SUITE.name == "conformance":  # of a clone
            which = [f"{_from_here(SUITE / Path(file).name)}::{name}"]
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
    def failed(self) -> dict[str, Result]:
        return {name: self.results[name] for name in self.with_outcome(FAILED)}

    @property
    def causes(self) -> list[Cause]:
        """The mistakes that explain failures."""
        return causes(self.failed, self.diagnosis) + self.likely

    @property
    def unexplained(self) -> list[str]:
        """The failed requirements that nothing explains."""
        rest = unexplained(self.failed, self.causes)
        return [name for name in rest if name not in self.together]

    @property
    def state(self) -> str:
        """The verdict, as one of the states of report.schema.json."""
        counts = self.counts
        if counts[FAILED]:
            return "deviates"
        if counts[ERRORED] or self.crashed:
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
        if self.state == "deviates":
            verdict += f". {self._explanation}"
        asked = f"{len(REQUIREMENTS) - len(not_run)} of {len(REQUIREMENTS)} requirements"
        if len(not_run) in (1, 2, 3):
            asked += f" (not run: {', '.join(not_run)})"
        counts = self.counts
        del counts[NOT_RUN]
        return f"{self.adapter}: {verdict}. {asked}: {counted(counts) or 'none run'}."

    @property
    def _explanation(self) -> str:
        """Say how many causes there are, and how many failures they leave unexplained."""
        causes, left = self.causes, len(self.unexplained)
        rest = f"{left} {'failures' if left > 1 else 'failure'}"
        if not causes:
            return f"No cause is known of {rest}"
        number = f"{len(causes)} {'causes' if len(causes) > 1 else 'cause'}"
        if len(self.likely) == len(causes) == 1:
            number += " that is likely"
        elif self.likely:
            number += f", {len(self.likely)} of them likely"
        return f"{number}, {f'{rest} unexplained' if left else 'nothing unexplained'}"


def _from_here(path: Path) -> str:
    """Return a path as the user would write it in the current folder."""
    try:
        return os.path.relpath(path)
    except ValueError:  # another drive of Windows
        return str(path)


def counted(outcomes: Mapping[str, int]) -> str:
    """Return the counts in words: "3 passed, 1 failed"."""
    return ", ".join(
        f"{outcomes[outcome]} {outcome}" for outcome in OUTCOMES if outcomes.get(outcome)
    )
