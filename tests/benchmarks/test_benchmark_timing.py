"""The figures that are made of clock readings, with a fake clock."""

from __future__ import annotations

import math

import pytest

from benchmarks.timing import (
    TimeStampError,
    Timing,
    TokenCountError,
    figures,
    ratio,
    spread,
    time_generation,
)
from tests.shared.benchmark_fakes import Clock, Costly


def timed(
    costs: list[float], rows: list[list[int]], *, batch: int, new_tokens: int
) -> tuple[Timing, Clock]:
    clock = Clock()
    costly = Costly.of(clock, costs, rows)
    timing, _ = time_generation(
        lambda on_step: costly.generate([], on_step=on_step),
        batch=batch,
        new_tokens=new_tokens,
        clock=clock,
        synchronise=clock.synchronise,
    )
    return timing, clock


def rounds(*rates: float) -> list[Timing]:
    """Make rounds of one decode step each, at these tokens per second."""
    return [Timing(1.0, (1 / rate,), 1.0 + 1 / rate) for rate in rates]


def test_prefill_decode_and_end_to_end_are_apart() -> None:
    timing, _ = timed([5.0, 1.0, 2.0, 4.0], [[7, 7, 7, 7]], batch=1, new_tokens=4)
    assert timing == Timing(
        prefill_seconds=5.0, decode_seconds=(1.0, 2.0, 4.0), end_to_end_seconds=12.0
    )


def test_the_device_is_synchronised_before_the_first_reading_and_before_the_last() -> None:
    _, clock = timed([5.0, 1.0], [[7, 7]], batch=1, new_tokens=2)
    assert clock.log == ["synchronise", "read", "read", "read", "synchronise", "read"]


def test_decode_rate_has_neither_prefills_time_nor_its_token() -> None:
    slow, fast = Timing(1000.0, (0.5, 0.5), 1001.0), Timing(0.25, (0.5, 0.5), 1.25)
    assert slow.decode_tokens_per_second(batch=1) == fast.decode_tokens_per_second(batch=1) == 2.0
    assert fast.end_to_end_tokens_per_second(batch=1) == 3 / 1.25


def test_batch_multiplies_the_rates_and_not_the_waits() -> None:
    timings = [Timing(1.0, (0.5, 0.5), 2.0)]
    one, four = figures(timings, batch=1), figures(timings, batch=4)
    assert four["decode_tokens_per_second"] == 4 * one["decode_tokens_per_second"] == 8.0
    assert four["end_to_end_tokens_per_second"] == 4 * one["end_to_end_tokens_per_second"] == 6.0
    assert four["ms_per_token"] == one["ms_per_token"]
    assert four["prefill_seconds"] == one["prefill_seconds"] == 1.0


def test_figures_are_medians_over_rounds_and_percentiles_over_all_steps() -> None:
    steps = [float(ms) for ms in range(1, 102)]  # 1 ms to 101 ms: the p-th percentile is 1 + p
    timings = [
        Timing(3.0, tuple(ms / 1e3 for ms in steps[:50]), 10.0),
        Timing(1.0, tuple(ms / 1e3 for ms in steps[50:]), 20.0),
        Timing(2.0, (0.051,), 60.0),
    ]
    published = figures(timings, batch=1)
    assert published["prefill_seconds"] == 2.0
    assert published["end_to_end_seconds"] == 20.0
    # The median of 39.2, 13.2 and 19.6.
    assert published["decode_tokens_per_second"] == pytest.approx(1 / 0.051)
    assert published["ms_per_token"]["p50"] == pytest.approx(51.0)
    assert published["ms_per_token"]["p5"] == pytest.approx(6.0, abs=0.1)
    assert published["ms_per_token"]["p99"] == pytest.approx(100.0, abs=0.1)


def test_spread_is_the_interquartile_range_over_the_median() -> None:
    assert spread([10.0, 20.0, 30.0, 40.0, 50.0]) == (40 - 20) / 30
    assert spread([10.0, 1000.0, 10.0, 10.0, 10.0]) == 0.0  # one bad round is not a spread
    assert spread([7.0]) == 0.0


@pytest.mark.parametrize(
    ("rates", "unstable"), [((100, 95, 105, 90, 110), False), ((100, 94, 106, 90, 110), True)]
)
def test_a_row_is_unstable_above_a_tenth(rates: tuple[float, ...], unstable: bool) -> None:
    published = figures(rounds(*rates), batch=1)
    assert published["decode_spread"] == pytest.approx(0.12 if unstable else 0.10)
    assert published["unstable"] is unstable


def test_a_ratio_is_taken_round_by_round() -> None:
    # Half as fast, four times, and four times; the medians of the rates are 2 apart.
    assert ratio(rounds(8, 16, 32), rounds(16, 4, 8)) == 4.0
    assert ratio(rounds(3, 5, 9), rounds(3, 5, 9)) == 1.0


@pytest.mark.parametrize(
    ("costs", "rows"),
    [
        ([1.0, 1.0], [[7, 7], [7, 7]]),  # stops early
        ([1.0, 1.0, 1.0], [[7, 7, 7], [7, 7]]),  # one row does
        ([1.0, 1.0, 1.0], [[7, 7, 7]]),  # a row is missing
        ([1.0, 1.0, 1.0, 1.0], [[7, 7, 7, 7], [7, 7, 7, 7]]),  # goes on too long
        ([1.0, 1.0], [[7, 7, 7], [7, 7, 7]]),  # two tokens under one time stamp
    ],
)
def test_a_wrong_number_of_tokens_is_refused(costs: list[float], rows: list[list[int]]) -> None:
    with pytest.raises(TokenCountError, match=r"expected 3 in each of 2 rows"):
        timed(costs, rows, batch=2, new_tokens=3)


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ([1.0, 1.0, -0.5], r"new token 2 was reported 0.5 s before new token 1, or at the same"),
        ([1.0, 0.0, 1.0], r"new token 1 was reported 0 s before new token 0, or at the same time"),
        ([0.0, 1.0, 1.0], r"new token 0 was reported 0 s before the call, or at the same time"),
        ([1.0, math.nan, 1.0], r"new token 1 has no finite time: nan s"),
        ([1.0, 1.0, math.inf], r"new token 2 has no finite time: inf s"),
    ],
)
def test_time_stamps_out_of_order_are_refused(costs: list[float], message: str) -> None:
    with pytest.raises(TimeStampError, match=message):
        timed(costs, [[7, 7, 7]], batch=1, new_tokens=3)


def test_a_call_does_not_return_before_its_last_token() -> None:
    for end in (1.5, math.nan):
        with pytest.raises(TimeStampError, match=r"the call returned at .* before its last token"):
            Timing.from_readings(0.0, [1.0, 2.0], end)


def test_one_new_token_has_no_decode_step() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Timing.from_readings(0.0, [1.0], 2.0)
