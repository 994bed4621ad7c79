"""One test is one row: an implementation in a cell."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .plan import Cell
from .replay import RecordedTimer
from .run import Run

TIMER = RecordedTimer()


@pytest.mark.benchmark(timer=TIMER)
def test_generation(benchmark: BenchmarkFixture, run: Run, cell: Cell, implementation: str) -> None:
    if reason := run.refusal(cell):
        pytest.skip(reason)
    outcome = run.outcome(cell, implementation)
    benchmark.group = cell.size
    TIMER.replay(benchmark, outcome.seconds, outcome.error)

    assert outcome.row is not None
    benchmark.extra_info.update(outcome.row)
    run.rows.append(benchmark.extra_info)  # the very dictionary, to which the end of the run adds
    assert outcome.row["valid"], outcome.row["reason"]
