"""`pytest conformance/ --defects`: judges the suite by the wrong GPT-2s of the catalogue."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ..adapters.adapter import Adapter
from ..outcomes import NotApplicable
from ..verdict.findings import FAILED, FINDING
from ..verdict.plugin import VerdictPlugin, adapter_of, requirements_of
from ..verdict.report import check_writable, environment
from .matrix import ENTRIES, LARGE, PREFIX, Matrix, asked


def adapters(names: str) -> list[str]:
    """Return the adapters of all defects, or of those named.

    Raises pytest.UsageError, naming --defects, for a name that is not in the catalogue.
    """
    chosen = list(ENTRIES) if names == "all" else names.split(",")
    for name in chosen:
        if unknown := set(name.split("+")) - set(ENTRIES):
            raise pytest.UsageError(f"--defects: {', '.join(sorted(unknown))} not in the catalogue")
    return [PREFIX + name for name in chosen]


class KillMatrixPlugin(VerdictPlugin):
    """Reports one verdict on the suite, and none on each implementation."""

    def __init__(self, config: pytest.Config, adapters: Sequence[Adapter]) -> None:
        super().__init__(config, adapters)
        # Nobody reads these thousands of tracebacks, and the other styles parse the source.
        config.option.tbstyle = "native"
        if path := config.option.defects_report:
            check_writable("--defects-report", path)
        self._caught: set[tuple[str, str]] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Deselect the tests of steps that a defect leaves as they are."""
        dropped = []
        for item in items:
            # One worker of pytest-xdist asks a defect for everything, so that it is loaded once.
            item.add_marker(pytest.mark.xdist_group(adapter_of(item)))
            # Two defects at once have no entry, and are asked for everything.
            entry = ENTRIES.get(adapter_of(item).removeprefix(PREFIX))
            for requirement in requirements_of([item]):
                # A requirement that has small tests too is decided by those.
                large = "gpt2_124m" in getattr(item, "fixturenames", ())
                skipped = large and requirement not in LARGE
                if entry and (skipped or not asked(entry, requirement)):
                    dropped.append(item)
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            gone = set(dropped)
            items[:] = [item for item in items if item not in gone]

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        for requirement in requirements_of([item]):
            if (adapter_of(item), requirement) in self._caught:
                raise NotApplicable("the requirement has caught it already")

    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        if tmp_path := getattr(item, "funcargs", {}).get("tmp_path"):
            # All tests of the catalogue would leave 40 GB of checkpoints.
            shutil.rmtree(tmp_path, ignore_errors=True)
        if nextitem is None or adapter_of(nextitem) != adapter_of(item):
            gc.collect()  # tracebacks hold gigabytes of logits, in cycles

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        super().pytest_collection_finish(session)
        gc.freeze()  # or else every collection would go through 13,000 tests again

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
        report = yield from super().pytest_runtest_makereport(item, call)
        for name, value in report.user_properties:
            if name == FINDING and value["finding"]["outcome"] == FAILED:
                self._caught.add((value["adapter"], value["requirement"]))
        if report.failed:  # pytest expects that a defect fails; the matrix says whether it should
            report.outcome, report.wasxfail = "skipped", "a defect"
        return report

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        option = self.option
        if option.collectonly or hasattr(self.config, "workerinput") or exitstatus not in (0, 1):
            return
        self.matrix = Matrix.of(
            judgement for judgement in self.judgements.values() if judgement.results
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
