"""One test is one row: an implementation, a size, a temperature and a top-k."""

from __future__ import annotations

from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from .implementations import Loaded
from .measurement import Measurement
from .plan import Cell, Plan
from .summary import Row


def test_generation(
    benchmark: BenchmarkFixture,
    plan: Plan,
    loaded: Loaded,
    cell: Cell,
    implementation: str,
    conditions: dict[str, Any],
    rows: list[Row],
) -> None:
    measurement = Measurement(loaded.implementation(implementation), plan, cell, loaded.config.vocab_size)
    measurement.generate()  # warms up, in the very shapes that are timed
    benchmark.group = loaded.size
    # pytest-benchmark's own seconds are those of a whole generation, end to end.
    benchmark.pedantic(measurement.generate, rounds=plan.rounds)

    row = {"implementation": implementation, "size": loaded.size, **measurement.row(loaded.reference), **conditions}
    benchmark.extra_info.update(row)
    rows.append(row)
    assert row["valid"], row["reason"]
