"""The pytest plugin that collects the findings, then prints the verdicts and writes the files.

This is the one place where the suite's outcomes become pytest's: NotApplicable and Variant are
skipped tests, a Failure is a failed one, and the failure of a known deviation an expected one.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from gpt2ref import __version__

from ..adapters.adapter import Adapter
from ..adapters.forms import ProtocolError
from ..adapters.protocol import BrokenAdapterError, own_words
from ..diagnosis.diagnose import Diagnosis, diagnose, diagnose_beside
from ..diagnosis.peeling import unheard
from ..outcomes import Failure, NotApplicable, Variant
from ..requirements import REQUIREMENTS
from .findings import (
    ERRORED,
    FAILED,
    FINDING,
    KNOWN,
    NOT_APPLICABLE,
    PASSED,
    VARIANT,
    Finding,
    Result,
)
from .judgement import Judgement
from .known_deviations import KnownDeviation, read_known_deviations, write_known_deviations
from .likely import likely_causes
from .plan import Plan
from .progress import PROGRESS
from .report import check_writable, write_report
from .terminal import columns, verdict_lines
from .together import fail_too

# The names of user_properties of a test report. Their values are data that pytest-xdist passes on.
READING = "reading"
# The options that a result depends on, with their defaults.
_DECIDING_OPTIONS = {"device": "cpu", "dtype": None, "checkpoint": None, "probe_shape": "small"}


class VerdictPlugin:
    def __init__(self, config: pytest.Config, adapters: Sequence[Adapter]) -> None:
        """Raises pytest.UsageError if a file can't be read, or will not be writable."""
        self.config, self.option = config, config.option
        self.adapters = {str(adapter): adapter for adapter in adapters}
        for name in ("--known-deviations", "--write-known-deviations"):
            if config.getoption(name) and len(adapters) > 1:
                raise pytest.UsageError(
                    f"{name} goes with one --implementation, and here are {len(adapters)}"
                )
        for name in ("--conformance-report", "--write-known-deviations"):
            if path := config.getoption(name):
                check_writable(name, path)
        if (path := self.option.write_known_deviations) and Path(path).exists():
            raise pytest.UsageError(
                f"--write-known-deviations {path}: there is such a file, and it is not overwritten"
            )
        known = read_known_deviations(*self.option.known_deviations or [])
        words: list[str] = []
        for name, default in _DECIDING_OPTIONS.items():
            if (value := getattr(self.option, name)) != default:
                words += [f"--{name.replace('_', '-')}", value]
        quick = bool(self.option.quick)
        self.judgements = {
            name: Judgement(name, known, tuple(words), has_name=each.has_name, quick=quick)
            for name, each in self.adapters.items()
        }
        self.diagnoses: dict[str, Future[Diagnosis | None]] = {}  # those that were begun
        self.progress = config.stash.get(PROGRESS, None)
        self.plan = Plan([])

    def pytest_report_header(self) -> list[str]:
        """Say what is judged, and in what."""
        adapters, option = self.adapters, self.option
        judged = f"{len(adapters)} wrong GPT-2s" if option.defects else ", ".join(adapters)
        header = (
            f"conformance: {judged} in {option.dtype or 'float32'} on {option.device}; "
            f"python {platform.python_version()}, torch {torch.__version__}, "
            f"transformers {version('transformers')}, {torch.get_num_threads()} threads"
        )
        return [header, *(each.found.said for each in adapters.values() if each.found)]

    # Which tests run, and what they find.

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        for judgement in self.judgements.values():
            judgement.incomplete |= requirements_of(items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._names_tests:  # so other tests of a requirement may not have been collected
            self.pytest_deselected(session.items)
        self.plan = Plan(
            (adapter_of(item), name) for item in session.items for name in requirements_of([item])
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
        error = call.excinfo and call.excinfo.value
        if isinstance(error, (NotApplicable, Variant)):
            skipped = pytest.skip.Exception(f"{finding_of(error).outcome}: {error}")
            skipped.__traceback__ = error.__traceback__  # so that pytest says where it was raised
            call.excinfo = pytest.ExceptionInfo.from_exception(skipped)
        report: pytest.TestReport = yield
        decides = report.when == "call" or (report.when == "setup" and error is not None)
        for requirement in requirements_of([item]) if decides else ():
            adapter = adapter_of(item)
            finding = replace(finding_of(error), test=item.nodeid)
            known = self.judgements[adapter].known.get(requirement)
            if known and finding.outcome == FAILED:
                finding = replace(finding, outcome=KNOWN)
                report.outcome, report.wasxfail = "skipped", str(known)
            value = {"adapter": adapter, "requirement": requirement, "finding": asdict(finding)}
            value["place"] = self.plan.place(adapter, requirement)
            report.user_properties.append((FINDING, cast("Any", value)))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = cast("list[tuple[str, Any]]", report.user_properties)
        readings = [value for name, value in properties if name == READING]
        if (
            cast("str", report.when) == "???"
        ):  # so pytest-xdist reports that a process has ended in a test
            named = [each for each in self.judgements if f"[{each}" in report.nodeid]
            for adapter in named or self.judgements:
                self.judgements[adapter].crashed.append(report.nodeid)
        for name, value in properties:
            if name == FINDING:
                judgement, requirement = self.judgements[value["adapter"]], value["requirement"]
                result = judgement.results.setdefault(requirement, Result())
                mistakes = tuple(value["finding"]["mistakes"])
                finding = Finding(**value["finding"] | {"mistakes": mistakes})
                result.add(finding)
                result.readings += readings
                if self.progress:
                    self.progress.tested(judgement, requirement, finding, value["place"])
                if result.outcome == FAILED and self.config.pluginmanager.hasplugin("dsession"):
                    self._begin_diagnosis(value["adapter"])

    def _begin_diagnosis(self, adapter: str) -> None:
        """Diagnose while the processes of pytest-xdist run the other tests."""
        if adapter not in self.diagnoses and not self._no_diagnosis:
            said = self._said(adapter)
            self.diagnoses[adapter] = diagnose_beside(self.adapters[adapter], said)

    def _said(self, adapter: str) -> Callable[..., None]:
        """Return what a diagnosis calls to say how far it is."""
        return partial(self.progress.comparing, adapter) if self.progress else unheard

    # What is reported at the end.

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.option.collectonly or hasattr(self.config, "workerinput"):
            return  # with pytest-xdist, the main process reports for its workers
        if exitstatus in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERNAL_ERROR):
            return
        judgements = list(self.judgements.values())
        stopped = session.shouldstop or session.shouldfail
        finished = exitstatus != pytest.ExitCode.INTERRUPTED and not stopped
        for judgement in judgements:
            judgement.incomplete |= set() if finished else set(REQUIREMENTS)
        if exitstatus == pytest.ExitCode.OK and any(judgement.stale for judgement in judgements):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if finished:
            for judgement in judgements:
                self._diagnose(judgement)
        self._write_files(judgements, finished=finished)

    @property
    def _no_diagnosis(self) -> str:
        """Why no mistake is looked for; empty if one is."""
        if self.option.keyword or self._names_tests:
            return "some tests were chosen, so nothing else was asked"
        if self.option.probe_shape != _DECIDING_OPTIONS["probe_shape"]:
            return "the questions have a small shape"
        return ""

    @property
    def _names_tests(self) -> bool:
        """Whether the command line names tests, not only files."""
        return any("::" in argument for argument in self.config.args)

    def _diagnose(self, judgement: Judgement) -> None:
        """Look for the mistakes, if anything failed and the adapter can answer."""
        if not judgement.counts[FAILED] or judgement.broken is not None:
            return
        judgement.undiagnosed = self._no_diagnosis
        if not judgement.undiagnosed:
            said = self._said(judgement.adapter)
            said(waited=True)
            begun = self.diagnoses.get(judgement.adapter)
            judgement.diagnosis = (
                begun.result() if begun else diagnose(self.adapters[judgement.adapter], said)
            )
            said("trying all that were found together")
            judgement.together = fail_too(judgement)
            judgement.likely = likely_causes(judgement)

    def _write_files(self, judgements: Sequence[Judgement], *, finished: bool) -> None:
        option = self.option
        if path := option.conformance_report:
            dtype = option.dtype or "float32"
            write_report(path, judgements, option.device, dtype, finished=finished)
        if path := option.write_known_deviations:
            _write_failures(path, judgements[0])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
        yield  # the verdicts come last, below pytest's own summary
        for adapter, judgement in self.judgements.items():
            if judgement.results:
                terminalreporter.section(f"conformance of {adapter}")
                if found := self.adapters[adapter].found:
                    terminalreporter.write_line(f"{found.said}\n")
                for line in verdict_lines(judgement, columns(sys.stdout)):
                    terminalreporter.write_line(line)


def finding_of(error: BaseException | None) -> Finding:
    """Say what a test found, from the exception that ended it, or None if there was none."""
    if error is None:
        return Finding(PASSED)
    if isinstance(error, (NotApplicable, pytest.skip.Exception)):
        return Finding(NOT_APPLICABLE, str(error))
    if isinstance(error, Variant):
        return Finding(VARIANT, str(error))
    if isinstance(error, Failure):
        return Finding(FAILED, error.read, error.expected, error.mistakes, error.own)
    if isinstance(error, AssertionError):
        return Finding(FAILED, own_words(error))
    if isinstance(error, pytest.fail.Exception):
        return Finding(FAILED, str(error))
    if isinstance(error, ProtocolError):
        return Finding(ERRORED, str(error), broken=isinstance(error, BrokenAdapterError))
    return Finding(ERRORED, f"{type(error).__name__}: {error}")


def requirements_of(items: Iterable[pytest.Item]) -> set[str]:
    return {mark.args[0] for item in items for mark in item.iter_markers("requirement")}


def adapter_of(item: Any) -> str:
    return str(item.callspec.params["adapter"])


def _write_failures(path: str, judgement: Judgement) -> None:
    """Write the failures as known deviations. Reasons that are known are kept."""
    reason = f"found on {date.today().isoformat()} by gpt2ref {__version__}; say why"
    failures = [name for name in REQUIREMENTS if judgement.outcome(name) in (FAILED, KNOWN)]
    known = [judgement.known.get(name) or KnownDeviation(name, reason) for name in failures]
    write_known_deviations(path, known, f"Where {judgement.adapter} deviates from GPT-2, and why.")
