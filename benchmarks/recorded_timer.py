"""Give pytest-benchmark times that were recorded earlier, so that its statistics are theirs.

Peers take turns while a cell is measured, but pytest-benchmark runs all rounds of a test one after
the other. So a test runs rounds that take no time, and the timer returns the recorded ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_benchmark.fixture import BenchmarkFixture


class RecordedTimer:
    """A clock that stands still but for the recorded time of each round."""

    __name__ = "recorded_generations"  # its name in the JSON

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def run_rounds(
        self, benchmark: BenchmarkFixture, seconds: Sequence[float], error: Exception | None = None
    ) -> None:
        """Run a round for each time, or raise the error that ended the generations.

        The fixture's timer has to be this one.
        """
        recorded = iter(seconds)

        def set_to_zero() -> None:
            self.now = 0.0  # so that a difference of two readings is the very number recorded

        def generate() -> None:
            if error is not None:
                raise error
            self.now = next(recorded)

        benchmark.pedantic(generate, setup=set_to_zero, rounds=max(1, len(seconds)))
