"""A timer for pytest-benchmark that tells recorded times, so that its statistics are those of generations run earlier.

Peers take turns while a cell is measured, but pytest-benchmark runs all rounds of a test at a stretch. So a test replays
the rounds that were recorded of its row, and each is as long as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_benchmark.fixture import BenchmarkFixture


class RecordedTimer:
    __name__ = "recorded_generations"  # under which the JSON has it

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def replay(
        self, benchmark: BenchmarkFixture, seconds: Sequence[float], error: Exception | None = None
    ) -> None:
        """Let a fixture marked with this timer see rounds of so many seconds each, or the error that ended them."""
        recorded = iter(seconds)

        def rewind() -> None:
            self.now = 0.0  # the difference to it is the very number that was recorded

        def generate() -> None:
            if error is not None:
                raise error
            self.now = next(recorded)

        benchmark.pedantic(generate, setup=rewind, rounds=max(1, len(seconds)))
