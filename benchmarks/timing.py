"""Turn clock readings into figures. The caller gives the clock and the device's `synchronise`.

    start -- prefill --> first token -- decode step --> second token -- ... --> last token --> end

A token counts from when its id is known on the host, for every row of the batch.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from .implementations import TokenIds

UNSTABLE = 0.10  # a larger spread shows the machine rather than the code


@dataclass(frozen=True)
class Timing:
    """One generation, in seconds."""

    prefill_seconds: float  # from the call to each row's first new token
    decode_seconds: tuple[float, ...]  # of each later token: feed one token a row, choose the next
    end_to_end_seconds: float  # from the call until it has returned and the device is idle
    # New tokens and seconds of each call, if the steps were not reported (`lengths.py`).
    call_seconds: tuple[tuple[int, float], ...] = ()

    @classmethod
    def from_readings(cls, start: float, tokens: Sequence[float], end: float) -> Timing:
        """Take the clock at the start, after each new token (at least two), and at the end.

        Raises TimeStampError unless each token has a later time than what came before it.
        """
        if len(tokens) < 2:
            raise ValueError(
                f"{len(tokens)} new tokens: expected at least 2, as the first belongs to prefill"
            )
        _check_order(start, tokens, end)
        steps = tuple(later - earlier for earlier, later in itertools.pairwise(tokens))
        return cls(tokens[0] - start, steps, end - start)

    def decode_tokens_per_second(self, batch: int) -> float:
        return batch * len(self.decode_seconds) / sum(self.decode_seconds)

    def end_to_end_tokens_per_second(self, batch: int) -> float:
        return batch * (1 + len(self.decode_seconds)) / self.end_to_end_seconds

    def as_dict(self) -> dict[str, Any]:
        calls = [list(call) for call in self.call_seconds]
        return asdict(self) | {"decode_seconds": list(self.decode_seconds), "call_seconds": calls}


class TimingError(RuntimeError):
    """The times of a generation mean nothing."""


class TokenCountError(TimingError):
    """A generation made or reported more or fewer tokens than asked for."""


class TimeStampError(TimingError):
    """The time stamps of a generation are not in order."""


def _check_order(start: float, tokens: Sequence[float], end: float) -> None:
    readings = [start, *tokens]
    for number, (earlier, later) in enumerate(itertools.pairwise(readings)):
        if not (math.isfinite(later) and math.isfinite(earlier)):
            raise TimeStampError(f"new token {number} has no finite time: {later} s")
        if later <= earlier:
            before = f"new token {number - 1}" if number else "the call"
            raise TimeStampError(
                f"new token {number} was reported {earlier - later:.3g} s before {before}, "
                "or at the same time"
            )
    if not (math.isfinite(end) and end >= tokens[-1]):
        raise TimeStampError(f"the call returned at {end} s, before its last token at {tokens[-1]}")


def time_generation(
    generate: Callable[[Callable[[], None]], TokenIds],
    *,
    batch: int,
    new_tokens: int,
    synchronise: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Timing, TokenIds]:
    """Run one generation. `generate` calls its argument when every row has its next token.

    Raises TokenCountError unless each of the `batch` rows got `new_tokens` tokens in as many steps,
    and TimeStampError unless each step ended later than the one before it.
    """
    readings: list[float] = []
    start, end, rows = time_call(
        lambda: generate(lambda: readings.append(clock())), synchronise=synchronise, clock=clock
    )
    check_counts(rows, batch, new_tokens, len(readings))
    return Timing.from_readings(start, readings, end), rows


def time_call(
    call: Callable[[], TokenIds],
    *,
    synchronise: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float, TokenIds]:
    """Return the clock before and after a call, and what it returned."""
    synchronise()  # no earlier work may still be running
    start = clock()
    rows = call()
    synchronise()  # nor may this one's
    return start, clock(), rows


def check_counts(rows: TokenIds, batch: int, new_tokens: int, steps: int | None = None) -> None:
    """Raise TokenCountError for another number of rows, of tokens, or of reported steps."""
    counts = [len(row) for row in rows]
    if counts != [new_tokens] * batch or steps not in (None, new_tokens):
        reported = "" if steps is None else f" in {steps} steps"
        raise TokenCountError(
            f"{counts} new tokens{reported}, expected {new_tokens} in each of {batch} rows"
        )


def spread(values: Sequence[float]) -> float:
    """Return the interquartile range as a part of the median: 0.02 is a quiet machine.

    Quartiles interpolate between values.
    """
    low, high = np.percentile(values, (25, 75))
    return float(high - low) / median(values)


def figures(timings: Sequence[Timing], batch: int) -> dict[str, Any]:
    """Return medians over the timed rounds, and percentiles over the decode steps of all rounds.

    Decode tokens/s excludes the time and the token of prefill. `ms_per_token` is a row's wait for
    its next token. Of steps that were not reported, only the median is known.
    """
    rates = [timing.decode_tokens_per_second(batch) for timing in timings]
    steps = [seconds for timing in timings for seconds in timing.decode_seconds]
    reported = not any(timing.call_seconds for timing in timings)
    return {
        "decode_tokens_per_second": median(rates),
        "decode_spread": spread(rates),
        "unstable": spread(rates) > UNSTABLE,
        "end_to_end_tokens_per_second": median(
            timing.end_to_end_tokens_per_second(batch) for timing in timings
        ),
        "prefill_seconds": median(timing.prefill_seconds for timing in timings),
        "end_to_end_seconds": median(timing.end_to_end_seconds for timing in timings),
        "ms_per_token": {
            f"p{p}": 1e3 * float(np.percentile(steps, p)) if reported or p == 50 else None
            for p in (5, 50, 95, 99)
        },
    }


# The figures of a row whose times mean nothing.
NO_FIGURES: dict[str, Any] = dict.fromkeys(figures([Timing(1.0, (1.0,), 2.0)], 1))


def ratio(timings: Sequence[Timing], others: Sequence[Timing]) -> float:
    """Return how many times faster one decodes than another: the median of the rounds' ratios.

    Rounds of the same number were run one after the other, so both are slow while the machine is.
    """
    rounds = zip(timings, others, strict=True)
    return median(
        own.decode_tokens_per_second(1) / other.decode_tokens_per_second(1) for own, other in rounds
    )
