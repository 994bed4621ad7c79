"""Times are impossible if the memory can't be read so fast. Here a step has to read for 10 ms."""

from __future__ import annotations

import pytest

from benchmarks.limits import Bandwidth
from benchmarks.measurement import confirmed_limit
from benchmarks.possible_times import AHEAD, impossible_times
from benchmarks.timing import Timing
from conformance.checkpoints.tensors import trained_like
from gpt2ref import GPT2, from_tensors
from tests.shared.benchmark_fakes import CONFIG, NEW_TOKENS, Clock, Costly, cell, measurement

MS = 1e-3
BANDWIDTH = 1e9
BYTES = 10_000_000  # of the weights, and of a step
HONEST = [12.0] * 31  # ms


def judged(steps: list[float], prefill: float = 100.0, tail: float = 0.1, ahead: int = 0) -> str:
    """Judge four honest rounds and one with these times, in milliseconds."""
    rounds = []
    honest = [max(12.0, min(steps))] * len(steps)
    for each in (honest, steps, honest, honest, honest):
        seconds = tuple(MS * step for step in each)
        prefill_seconds = MS * (prefill if each is steps else 100.0)
        end = prefill_seconds + sum(seconds) + MS * tail
        rounds.append(Timing(prefill_seconds, seconds, end))
    return impossible_times(rounds, BYTES, [BYTES] * len(steps), BANDWIDTH, ahead) or ""


@pytest.mark.parametrize(
    "steps",
    [
        HONEST,
        [9.2] * 31,  # 9% faster than the limit
        [12.0, 7.0] * 15 + [12.0],  # single steps vary more than their mean
        [500.0] + [9.2] * 30,
        [12.0] * 30 + [5.0],
    ],
)
def test_times_within_the_margin_are_possible(steps: list[float]) -> None:
    assert judged(steps) == ""


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ([12.0] * 30 + [0.01], "round 2: new token 31 came 0.01 ms after new token 30"),
        ([12.0] * 30 + [4.0], "round 2: new token 31 came 4 ms after new token 30"),
        ([30.0] * 29 + [5.0, 5.0], "round 2: 2 new tokens came 10 ms after new token 29"),
        ([30.0] * 21 + [7.0] * 10, "round 2: 10 new tokens came 70 ms after new token 21"),
        ([900.0] + [8.0] * 30, "round 2: 30 new tokens came 240 ms after new token 1"),
        ([8.5] * 31, "round 2: 31 new tokens came 264 ms after new token 0"),
        ([0.001] * 31, "round 2: 31 new tokens came 0.031 ms after new token 0"),
    ],
)
def test_a_burst_in_one_round_is_named(steps: list[float], named: str) -> None:
    reason = judged(steps)
    assert reason.startswith(named), reason
    assert reason.endswith("tokens were reported in a burst")


@pytest.mark.parametrize("ahead", AHEAD.values())
def test_rates_above_the_margin_are_impossible(ahead: int) -> None:
    rounds = [Timing(0.1, (8.9 * MS,) * 31, 0.1 + 31 * 8.9 * MS)] * 3
    reason = impossible_times(rounds, BYTES, [BYTES] * 31, BANDWIDTH, ahead)
    assert reason == (
        "decode steps took 8.9 ms in the mean, but a step has to read for 10 ms at the 1.0 GB/s "
        "measured: 112% of the bandwidth, so the tokens were not computed in these steps"
    )
    pairs = [Timing(0.1, (24 * MS, 1e-6) * 15, 0.1 + 15 * 24 * MS + 2e-5)] * 3
    reason = impossible_times(pairs, BYTES, [BYTES] * 30, BANDWIDTH, ahead)
    assert reason is not None
    assert "tokens were computed earlier than they were reported" in reason


def test_on_cuda_the_host_may_read_several_tokens_at_once() -> None:
    held_up = [12.0] * 10 + [100.0] + [0.01] * 8 + [12.0] * 12
    assert judged(held_up, ahead=AHEAD["cuda"]) == ""
    assert "tokens were reported in a burst" in judged(held_up, ahead=AHEAD["cpu"])
    longer = [12.0] * 10 + [100.0] + [0.01] * 9 + [12.0] * 11
    assert "9 new tokens came" in judged(longer, ahead=AHEAD["cuda"])


def test_a_prefill_reads_every_weight_once() -> None:
    assert judged(HONEST, prefill=5.0) == ""  # one of five, as a single step
    assert judged(HONEST, prefill=4.0).startswith(
        "a prefill took 4 ms, but it has to read every weight once, for 10 ms at the 1.0 GB/s"
    )
    rounds = [Timing(8.9 * MS, (12 * MS,), 21 * MS)] * 3
    assert "its prompt was not computed" in str(impossible_times(rounds, BYTES, [BYTES], BANDWIDTH))


def test_a_call_that_goes_on_after_its_last_token_computed_late() -> None:
    assert judged(HONEST, tail=19.0) == ""
    assert "the call went on for 21 ms after its last token" in judged(HONEST, tail=21.0)
    long = [100.0] * 31
    assert judged(long, tail=21.0) == judged(long, tail=49.0) == ""
    assert "the call went on for 51 ms" in judged(long, tail=51.0)


@pytest.fixture(scope="module")
def reference() -> GPT2:
    return from_tensors(trained_like(CONFIG, seed=0), CONFIG)


def test_a_disturbed_bandwidth_is_measured_again(reference: GPT2) -> None:
    """A row that seems too fast is so only if further readings are no better."""
    clock = Clock()
    own = measurement(Costly.of(clock, [1.0] * NEW_TOKENS, reference), cell(), clock)
    for _ in range(3):
        own.generate()
    slow, fast = Bandwidth(1.0, "sum"), Bandwidth(1e9, "sum")
    found = iter([slow, fast])
    assert confirmed_limit([own], reference, slow, lambda: next(found)) == fast
    assert own.result(reference, fast)["valid"]
    unread = iter([slow] * 10)
    assert confirmed_limit([own], reference, fast, lambda: next(unread)) == fast
    assert len([*unread]) == 10
    assert confirmed_limit([own], reference, slow, lambda: slow) == slow
    assert "but a step has to read for" in own.result(reference, slow)["reason"]


@pytest.mark.parametrize("cost", [0.0, -1.0, float("nan")])
def test_a_row_with_time_stamps_out_of_order_is_invalid(reference: GPT2, cost: float) -> None:
    clock = Clock()
    costs = [1.0] * (NEW_TOKENS - 1) + [cost]
    own = measurement(Costly.of(clock, costs, reference), cell(), clock)
    with pytest.raises(RuntimeError) as raised:
        own.generate()
    own.error = raised.value  # as `take_turns` does
    row = own.result(reference)
    assert not row["valid"]
    assert row["reason"].startswith(f"new token {NEW_TOKENS - 1} ")
    assert row["decode_tokens_per_second"] is row["bandwidth_percent"] is None
