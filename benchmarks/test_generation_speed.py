"""Benchmark one implementation in one cell: one test is one result."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .implementations import RefusedError
from .plan import Cell
from .recorded_timer import RecordedTimer
from .run import Run

TIMER = RecordedTimer()


@pytest.mark.benchmark(timer=TIMER)
def test_generation(benchmark: BenchmarkFixture, run: Run, cell: Cell, implementation: str) -> None:
    if reason := run.refusal(cell):
        pytest.skip(reason)
    outcome = run.outcome(cell, implementation)
    if isinstance(outcome.error, RefusedError):
        pytest.skip(f"{implementation} refuses: {outcome.error}")
    # pytest-benchmark ranks the tests of a group by their times, and an invalid row has no rank.
    valid = outcome.result is not None and outcome.result["valid"]
    benchmark.group = cell.size if valid else f"{cell.size}: invalid"
    TIMER.run_rounds(benchmark, outcome.seconds, outcome.error)

    assert outcome.result is not None
    benchmark.extra_info.update(outcome.result)
    run.results.append(benchmark.extra_info)  # the same dictionary, which `Run.finish` completes
    assert outcome.result["valid"], outcome.result["reason"]
