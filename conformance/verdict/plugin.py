"""The plugin that collects what the tests find, and tells it: a verdict a person can read, and the files asked for.

One line a family, then one paragraph for each thing that is wrong, however many requirements fail by it.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, cast

import pytest

from gpt2ref import __version__

from ..adapters.adapter import SMOKE, Adapter
from ..defects import DEFECTS
from ..diagnosis.diagnose import diagnose
from ..requirements import REQUIREMENTS
from .judgement import (
    ERRORED,
    FAILED,
    KNOWN,
    NOT_APPLICABLE,
    NOT_RUN,
    PASSED,
    VARIANT,
    Decision,
    Detail,
    Judgement,
    counted,
)
from .known_deviations import Deviation, read_deviations, write_deviations
from .report import check_writable, write_report

_PROPERTY = "conformance"  # of a test report: adapter, requirement, outcome, what was found
_OPTIONS = {
    "device": "cpu",
    "dtype": None,
    "checkpoint": None,
    "probe_shape": "small",
}  # that decide, and their defaults


class Verdict:
    def __init__(self, config: pytest.Config, adapters: Sequence[Adapter]) -> None:
        """Raises pytest.UsageError if a file can't be read, or will not be writable."""
        self.config = config
        self.adapters = {str(adapter): adapter for adapter in adapters}
        self.option = option = config.option
        for name in ("--known-deviations", "--write-known-deviations"):
            if config.getoption(name) and len(adapters) > 1:
                raise pytest.UsageError(
                    f"{name} goes with one --implementation, and here are {len(adapters)}"
                )
        for name in ("--conformance-report", "--write-known-deviations"):
            if path := config.getoption(name):
                check_writable(name, path)
        if option.write_known_deviations and Path(option.write_known_deviations).exists():
            raise pytest.UsageError(
                f"--write-known-deviations {option.write_known_deviations}: is there already, and stays"
            )
        known = read_deviations(*option.known_deviations or [])
        given = [
            (name, getattr(option, name))
            for name, default in _OPTIONS.items()
            if getattr(option, name) != default
        ]
        again = tuple(
            word for name, value in given for word in (f"--{name.replace('_', '-')}", value)
        )
        self.judgements = {name: Judgement(name, known, again) for name in self.adapters}

    # What is run, and what was found.

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        for judgement in self.judgements.values():
            judgement.incomplete |= requirements_of(items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if any(
            "::" in argument for argument in session.config.args
        ):  # then nobody knows what else there is
            self.pytest_deselected(session.items)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
        report = yield
        for name in requirements_of([item]):
            adapter = str(item.callspec.params["adapter"])  # type: ignore[attr-defined]
            _record(report, call, adapter, name, self.judgements[adapter].known)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = [
            (name, value)
            for name, value in report.user_properties
            if name in (_PROPERTY, "reading")
        ]
        for name, value in properties:
            if name == _PROPERTY:
                adapter, requirement, outcome, found = cast("tuple[str, str, str, str]", value)
                decision = self.judgements[adapter].decisions.setdefault(requirement, Decision())
                decision.outcomes[outcome] += 1
                decision.readings += [
                    cast("dict[str, Any]", value) for name, value in properties if name == "reading"
                ]
                if found:
                    decision.details.append(Detail(outcome, found, report.nodeid))

    # What is told of it.

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        option = self.option
        if option.collectonly or hasattr(
            self.config, "workerinput"
        ):  # a process of pytest-xdist leaves it to the first
            return
        if exitstatus in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERNAL_ERROR):
            return
        judgements = list(self.judgements.values())
        finished = (
            exitstatus != pytest.ExitCode.INTERRUPTED
            and not session.shouldstop
            and not session.shouldfail
        )
        for judgement in judgements:
            judgement.incomplete |= set() if finished else set(REQUIREMENTS)
        if exitstatus == pytest.ExitCode.OK and any(judgement.stale for judgement in judgements):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if (
            finished
            and not option.keyword
            and not any("::" in argument for argument in session.config.args)
        ):
            for judgement in judgements:
                self._diagnose(judgement)
        if option.conformance_report:
            dtype = option.dtype or "float32"
            write_report(
                option.conformance_report, judgements, option.device, dtype, finished=finished
            )
        if option.write_known_deviations:
            _write_failures(option.write_known_deviations, judgements[0])

    def _diagnose(self, judgement: Judgement) -> None:
        """Which known defect it is, if anything has failed; an adapter that is broken or hard-codes a shape can't be asked."""
        found = [
            detail.found for decision in judgement.decisions.values() for detail in decision.details
        ]
        broken = any(SMOKE in text for text in found)
        if (
            judgement.counts[FAILED]
            and not broken
            and self.option.probe_shape == _OPTIONS["probe_shape"]
        ):
            judgement.diagnosis = diagnose(self.adapters[judgement.adapter])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
        yield  # the verdict comes last, below pytest's own summary
        for adapter, judgement in self.judgements.items():
            if judgement.decisions:
                terminalreporter.section(f"conformance of {adapter}")
                for line in told(judgement):
                    terminalreporter.write_line(line)


def requirements_of(items: Iterable[pytest.Item]) -> set[str]:
    return {mark.args[0] for item in items for mark in item.iter_markers("requirement")}


def _record(
    report: pytest.TestReport,
    call: pytest.CallInfo[None],
    adapter: str,
    requirement: str,
    known: Mapping[str, Deviation],
) -> None:
    """Attach the outcome to the report, where it also survives a transfer between processes."""
    if report.when == "teardown" or (report.when == "setup" and report.passed):
        return
    found = ""
    if report.passed:
        outcome = PASSED
    elif report.skipped:
        found = str(call.excinfo.value)  # type: ignore[union-attr]
        outcome = VARIANT if found.startswith(f"{VARIANT}: ") else NOT_APPLICABLE
        found = found.removeprefix(f"{outcome}: ")
    else:
        error = call.excinfo.value  # type: ignore[union-attr]
        judged = report.when == "call" and isinstance(
            error, (AssertionError, pytest.fail.Exception)
        )
        outcome = FAILED if judged else ERRORED
        found = str(error) if judged else f"{type(error).__name__}: {error}"
        if judged and requirement in known:
            outcome = KNOWN
            report.outcome, report.wasxfail = (
                "skipped",
                str(known[requirement]),
            )  # to pytest: an expected failure
    report.user_properties.append((_PROPERTY, (adapter, requirement, outcome, found)))


def _write_failures(path: str, judgement: Judgement) -> None:
    today = date.today().isoformat()
    unexplained = f"found on {today} by gpt2ref {__version__}; say why"
    failures = [name for name in REQUIREMENTS if judgement.outcome(name) in (FAILED, KNOWN)]
    deviations = [judgement.known.get(name) or Deviation(name, unexplained) for name in failures]
    write_deviations(path, deviations, f"Where {judgement.adapter} deviates from GPT-2, and why.")


def told(judgement: Judgement) -> list[str]:
    """The verdict on one implementation, line by line."""
    ran = [name for name in REQUIREMENTS if judgement.outcome(name) != NOT_RUN]
    lines = []
    for family, names in _families(ran).items():
        lines.append(f"{family:12} {counted(Counter(map(judgement.outcome, names)))}")
    found = [
        detail.found for decision in judgement.decisions.values() for detail in decision.details
    ]
    if broken := dict.fromkeys(text for text in found if SMOKE in text):
        return [*lines, "", *broken, "", judgement.sentence]

    causes = judgement.causes
    explained = {name for cause in causes for name in cause.explains}
    unexplained = [
        name for name in ran if judgement.outcome(name) == FAILED and name not in explained
    ]
    for cause in causes:
        lines += ["", *_paragraph(judgement, cause.explains, cause.mistake)]
    lines += _diagnosed(judgement)
    if causes and unexplained:
        lines += ["", "Also failed; see these again when that is mended:"]
        for family, names in _families(unexplained).items():
            suffixes = ", ".join(name.removeprefix(f"{family}.") for name in names)
            lines.append(
                "    "
                + textwrap.shorten(f"{family} {len(names)}: {suffixes}", 106, placeholder=" ...")
            )
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in ran:
        outcome = judgement.outcome(name)
        if outcome != PASSED and not (outcome == FAILED and causes):
            key = (
                outcome,
                judgement.decisions[name].detail.found,
                name if outcome == KNOWN else "",
            )
            alike.setdefault(key, []).append(name)
    for names in alike.values():
        lines += ["", *_paragraph(judgement, names)]
    for name in judgement.stale:
        lines += ["", f"{name}: passes, and is listed as a known deviation: take the entry out"]
    return [*lines, "", judgement.sentence]


def _diagnosed(judgement: Judgement) -> list[str]:
    if judgement.diagnosis is None:
        return []
    lines = ["", *_wrapped("", str(judgement.diagnosis))]
    for name in dict.fromkeys(name for names in judgement.diagnosis.alike for name in names):
        lines += _wrapped(f"{name}: ", f"{DEFECTS[name].what} ({DEFECTS[name].source})")
    return lines


def _families(names: list[str]) -> dict[str, list[str]]:
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(REQUIREMENTS[name].family, []).append(name)
    return families


def _paragraph(judgement: Judgement, names: list[str], cause: str = "") -> list[str]:
    """Requirements not passed for one reason: what the first asks, what was found, how to see it again; then the others."""
    name, *others = names
    outcome, text, nodeid = judgement.decisions[name].detail
    found = text.strip().splitlines() or ["(no message)"]
    lines = [f"{name}: {outcome.upper() if outcome in (FAILED, ERRORED) else outcome}"]
    if outcome in (NOT_APPLICABLE, VARIANT):
        lines += _wrapped("", found[0])
    else:
        lines += _wrapped("known: ", str(judgement.known[name])) if outcome == KNOWN else []
        lines += [*_wrapped("asked: ", REQUIREMENTS[name].sentence), *_wrapped("found: ", found[0])]
        lines += [f"           {line}" for line in found[1:8]]
        lines += [f"    again: {judgement.again(nodeid)}"]
    if others:
        kind = "failure" if outcome == FAILED else "requirement"
        start = (
            f"{cause} explains {len(others)} more {kind}"
            if cause
            else f"The same for {len(others)} more {kind}"
        )
        lines += _wrapped("", f"{start}{'s' if len(others) > 1 else ''}: {', '.join(others)}")
    return lines


def _wrapped(label: str, text: str) -> list[str]:
    indent = " " * (4 + len(label))
    return textwrap.wrap(
        label + text, 110, initial_indent="    ", subsequent_indent=indent, break_on_hyphens=False
    )
