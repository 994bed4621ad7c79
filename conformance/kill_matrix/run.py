"""`pytest conformance/ --defects`: the suite on every wrong GPT-2 of the catalogue, and what it comes to."""

from __future__ import annotations

import ctypes
import gc
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ..adapters.adapter import Adapter
from ..verdict.judgement import FAILED
from ..verdict.plugin import Verdict, requirements_of
from ..verdict.report import check_writable, environment
from .matrix import ENTRIES, LARGE, PREFIX, Matrix, asked


def adapters(names: str) -> list[str]:
    """The adapters of --defects: of all, or of those named. Raises pytest.UsageError for one that is not there."""
    chosen = list(ENTRIES) if names == "all" else names.split(",")
    for name in chosen:
        if unknown := set(name.split("+")) - set(ENTRIES):
            raise pytest.UsageError(f"--defects: {', '.join(sorted(unknown))} not in the catalogue")
    return [PREFIX + name for name in chosen]


class KillMatrix(Verdict):
    """In place of a verdict on each implementation, one on the suite."""

    def __init__(self, config: pytest.Config, adapters: Sequence[Adapter]) -> None:
        super().__init__(config, adapters)
        keep_freed_memory()
        config.option.tbstyle = (
            "native"  # thousands of tracebacks that nobody reads: the other styles parse the source
        )
        if path := config.option.defects_report:
            check_writable("--defects-report", path)
        self._caught: set[tuple[str, str]] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Before the large shapes' checkpoints are thought of: each defect is asked for what it has a part in."""
        dropped = []
        for item in items:
            item.add_marker(
                pytest.mark.xdist_group(adapter_of(item))
            )  # what is loaded for a defect is loaded once
            for requirement in requirements_of([item]):
                entry = ENTRIES.get(
                    adapter_of(item).removeprefix(PREFIX)
                )  # two at once are asked for everything
                # A requirement that has small tests too is asked by those.
                large = requirement not in LARGE and "gpt2_124m" in getattr(
                    item, "fixturenames", ()
                )
                if entry and (large or not asked(entry, requirement)):
                    dropped.append(item)
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = [item for item in items if item not in set(dropped)]

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        for requirement in requirements_of([item]):
            if (adapter_of(item), requirement) in self._caught:
                pytest.skip("not applicable: the requirement has caught it already")

    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        if tmp_path := getattr(item, "funcargs", {}).get("tmp_path"):
            shutil.rmtree(
                tmp_path, ignore_errors=True
            )  # a checkpoint a test: 40 GB of the whole catalogue
        if nextitem is None or adapter_of(nextitem) != adapter_of(item):
            gc.collect()  # tracebacks hold logits, in cycles: gigabytes, otherwise

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        super().pytest_collection_finish(session)
        gc.freeze()  # 13,000 tests, which every collection would go through again

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
        report = yield from super().pytest_runtest_makereport(item, call)
        for _, (adapter, requirement, outcome, _) in (
            each for each in report.user_properties if each[0] == "conformance"
        ):
            if outcome == FAILED:
                self._caught.add((adapter, requirement))
        if report.failed:  # to pytest that is as it should be; whether it is, the matrix tells
            report.outcome, report.wasxfail = "skipped", "a defect"
        return report

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        option = self.option
        if option.collectonly or hasattr(self.config, "workerinput") or exitstatus not in (0, 1):
            return
        self.matrix = Matrix.of(
            judgement for judgement in self.judgements.values() if judgement.decisions
        )
        if self.matrix.problems:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if option.defects_report:
            Path(option.defects_report).write_text(
                self.matrix.to_json(environment(option.device, option.dtype or "float32")),
                encoding="utf-8",
            )

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
        yield
        if hasattr(self, "matrix"):
            terminalreporter.section("defects caught")
            for line in self.matrix.lines():
                terminalreporter.write_line(line)


def keep_freed_memory() -> None:
    """Ask glibc to keep what is freed, up to a gigabyte, for what is allocated next.

    Fresh pages cost more than what is computed in them: a draw from [16, 50257] in float64 takes three times as long.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # of malloc.h
    with suppress(OSError, AttributeError, TypeError):  # another C library, or system
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, 32 << 20)  # the most that it takes
        libc.mallopt(m_trim_threshold, 1 << 30)


def adapter_of(item: Any) -> str:
    return str(item.callspec.params["adapter"])
