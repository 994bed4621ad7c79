"""From test reports to a verdict a person can read: one line a family, one paragraph for each thing that is wrong.

Each requirement is *passed*, *failed* (the implementation gives a wrong answer), *errored* (the adapter broke, so there
is no answer to judge) or *not applicable* (it can't do what the requirement is about), and these are never mixed up.
"""

from __future__ import annotations

import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import pytest

from .protocol import SMOKE
from .requirements import REQUIREMENTS

PASSED, FAILED, ERRORED, NOT_APPLICABLE = "passed", "failed", "errored", "not applicable"
_PROPERTY = "conformance"  # of a test report: adapter, requirement, outcome, detail
_WORST_FIRST = (ERRORED, FAILED, PASSED, NOT_APPLICABLE)


@dataclass
class Decision:
    """What the tests of one requirement, on one implementation, came to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    details: list[tuple[str, str, str]] = field(default_factory=list)  # outcome, what was found, node id

    @property
    def outcome(self) -> str:
        return next(outcome for outcome in _WORST_FIRST if self.outcomes[outcome])


def record(report: pytest.TestReport, call: pytest.CallInfo[None], *, requirement_id: str, adapter: str) -> None:
    """Attach the outcome to the report, where it also survives a transfer between processes."""
    if report.when == "teardown" or (report.when == "setup" and report.passed):
        return
    detail = ""
    if report.passed:
        outcome = PASSED
    elif report.skipped:
        outcome, detail = NOT_APPLICABLE, str(call.excinfo.value).removeprefix("not applicable: ")  # type: ignore[union-attr]
    else:
        error = call.excinfo.value  # type: ignore[union-attr]
        judged = report.when == "call" and isinstance(error, (AssertionError, pytest.fail.Exception))
        outcome = FAILED if judged else ERRORED
        detail = str(error) if judged else f"{type(error).__name__}: {error}"
    report.user_properties.append((_PROPERTY, (adapter, requirement_id, outcome, detail)))


class Verdict:
    """The plugin that collects the outcomes and prints them at the end."""

    def __init__(self, config: pytest.Config, adapters: list[str]) -> None:
        self.config = config
        self.decisions: dict[str, dict[str, Decision]] = {adapter: {} for adapter in adapters}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == _PROPERTY:
                adapter, requirement_id, outcome, detail = cast("tuple[str, str, str, str]", value)
                decision = self.decisions[adapter].setdefault(requirement_id, Decision())
                decision.outcomes[outcome] += 1
                if detail:
                    decision.details.append((outcome, detail, report.nodeid))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
        yield  # the verdict comes last, below pytest's own summary
        for adapter, decisions in self.decisions.items():
            if decisions:
                terminalreporter.section(f"conformance of {adapter}")
                for line in self.lines(adapter, decisions):
                    terminalreporter.write_line(line)

    def lines(self, adapter: str, decisions: dict[str, Decision]) -> list[str]:
        order = [requirement for requirement in REQUIREMENTS if requirement in decisions]
        lines = []
        for family in dict.fromkeys(REQUIREMENTS[name].family for name in order):
            counts = Counter(decisions[name].outcome for name in order if REQUIREMENTS[name].family == family)
            lines.append(f"{family:12} {_counted(counts)}")
        broken = {detail for decision in decisions.values() for _, detail, _ in decision.details if SMOKE in detail}
        if broken:
            return [*lines, "", *broken, "", _conclusion(adapter, decisions)]
        for name in order:
            if decisions[name].outcome != PASSED:
                lines += ["", *self._paragraph(adapter, name, decisions[name])]
        return [*lines, "", _conclusion(adapter, decisions)]

    def _paragraph(self, adapter: str, name: str, decision: Decision) -> list[str]:
        """A requirement that is not passed: what it asks, what was found first, how to see it again."""
        outcome = decision.outcome
        detail, nodeid = next((detail, nodeid) for found, detail, nodeid in decision.details if found == outcome)
        lines = [f"{name}: {outcome.upper() if outcome in (FAILED, ERRORED) else outcome}"]
        if outcome == NOT_APPLICABLE:
            return [*lines, f"    {detail}"]
        lines += textwrap.wrap(
            f"asked: {REQUIREMENTS[name].sentence}", 110, initial_indent="    ", subsequent_indent="           "
        )
        found = detail.strip().splitlines() or ["(no message)"]
        lines += textwrap.wrap(f"found: {found[0]}", 110, initial_indent="    ", subsequent_indent="           ")
        lines += [f"           {line}" for line in found[1:8]]
        return [*lines, f"    again: pytest {shlex.quote(nodeid)} --implementation {shlex.quote(adapter)}"]


def _conclusion(adapter: str, decisions: dict[str, Decision]) -> str:
    counts = Counter(decision.outcome for decision in decisions.values())
    not_run = [name for name in REQUIREMENTS if name not in decisions]
    asked = f"{len(decisions)} of {len(REQUIREMENTS)} requirements"
    if len(not_run) in (1, 2, 3):
        asked += f" (not run: {', '.join(not_run)})"
    if counts[FAILED]:
        judgement = "NOT a right GPT-2"
    elif counts[ERRORED]:
        judgement = "NOT judged in full"
    elif counts[PASSED]:
        judgement = "no deviation from GPT-2 found"
    else:
        judgement = "nothing could be judged"
    return f"{adapter}: {judgement}. {asked}: {_counted(counts)}."


def _counted(outcomes: Counter[str]) -> str:
    return ", ".join(
        f"{outcomes[outcome]} {outcome}" for outcome in (PASSED, FAILED, ERRORED, NOT_APPLICABLE) if outcomes[outcome]
    )
