"""Without time stamps, the decode rate is the difference between calls of several lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.implementations import TokenIds
from benchmarks.lengths import from_calls, lengths
from benchmarks.limits import Bandwidth
from benchmarks.measurement import take_turns
from benchmarks.possible_times import impossible_times
from benchmarks.timing import TimeStampError, Timing
from conformance.checkpoints.tensors import trained_like
from gpt2ref import GPT2, from_tensors
from tests.shared.benchmark_fakes import (
    CONFIG,
    GREEDY,
    NEW_TOKENS,
    Clock,
    Costly,
    cell,
    measurement,
    right_tokens,
)

HALF = NEW_TOKENS // 2


@pytest.fixture(scope="module")
def reference() -> GPT2:
    return from_tensors(trained_like(CONFIG, seed=0), CONFIG)


def test_all_are_asked_for_first_then_half_then_one() -> None:
    assert [lengths(count) for count in (2, 3, 32, 33)] == [
        [2, 1],
        [3, 2, 1],
        [32, 16, 1],
        [33, 17, 1],
    ]


def test_what_every_call_costs_is_not_in_the_steps() -> None:
    timing = from_calls({1: 107.0, 8: 121.0, 16: 137.0})
    assert timing == Timing(107.0, (2.0,) * 15, 137.0, ((1, 107.0), (8, 121.0), (16, 137.0)))


def test_the_slower_half_counts() -> None:
    assert from_calls({1: 1.0, 3: 3.0, 5: 9.0}).decode_seconds == (3.0,) * 4
    assert from_calls({1: 1.0, 3: 7.0, 5: 9.0}).decode_seconds == (3.0,) * 4


def test_more_tokens_in_less_time_mean_nothing() -> None:
    with pytest.raises(TimeStampError, match=r"took no longer: 1 in 9 s, 3 in 9 s, 5 in 8 s"):
        from_calls({1: 9.0, 3: 9.0, 5: 8.0})


class Calls(Costly):
    """Generates right tokens and reports no steps. A prefill costs 5 seconds, and a step one."""

    foretold = True
    reports_steps = False

    def __init__(self, clock: Clock, model: GPT2) -> None:
        super().__init__()
        self.clock, self.model = clock, model
        self.asked: list[TokenIds] = []

    def generate(
        self,
        prompts: TokenIds,
        sampling: Any = GREEDY,
        *,
        on_step: Callable[[], None],  # noqa: ARG002
        seed: int = 0,
        max_new_tokens: int = 0,
        **_: Any,
    ) -> TokenIds:
        self.asked.append([list(row) for row in prompts])
        self.clock.now += self.seconds(max_new_tokens)
        return right_tokens(self.model, prompts, sampling, seed, max_new_tokens)

    def seconds(self, count: int) -> float:
        return 4.0 + count


class SlowForOne(Calls):
    """Waits where a single token is asked for, so that the rest seems to take less."""

    def seconds(self, count: int) -> float:
        return super().seconds(count) + 10.0 * (count == 1)


class SlowWhenShort(Calls):
    """Waits wherever fewer than all tokens are asked for."""

    def seconds(self, count: int) -> float:
        return super().seconds(count) + 7.0 * (count < NEW_TOKENS)


class ComputesAll(Calls):
    """Always computes all tokens, and returns as many as are asked for."""

    def seconds(self, count: int) -> float:  # noqa: ARG002
        return super().seconds(NEW_TOKENS)


class KeepsAnswers(Calls):
    """Answers a prompt that it knows at once: a longer call would prepare the shorter one."""

    def generate(self, prompts: TokenIds, sampling: Any = GREEDY, **more: Any) -> TokenIds:
        kept = self.__dict__.setdefault("kept", {})
        key = str(prompts)
        if key not in kept:
            kept[key] = super().generate(prompts, sampling, **more)
        return [row[: more["max_new_tokens"]] for row in kept[key]]


class LosesToken(Calls):
    """Returns one token fewer in the call for half of them."""

    def generate(self, prompts: TokenIds, sampling: Any = GREEDY, **more: Any) -> TokenIds:
        rows = super().generate(prompts, sampling, **more)
        return [row[: -(len(row) == HALF) or None] for row in rows]


class WrongWhenShort(Calls):
    """Returns other tokens where fewer than all are asked for."""

    def generate(self, prompts: TokenIds, sampling: Any = GREEDY, **more: Any) -> TokenIds:
        rows = super().generate(prompts, sampling, **more)
        short = len(rows[0]) < NEW_TOKENS
        return [[(token + short) % CONFIG.vocab_size for token in row] for row in rows]


def row_of(kind: type[Calls], reference: GPT2, batch: int = 1) -> tuple[dict[str, Any], Calls]:
    clock = Clock()
    engine = kind(clock, reference)
    own = measurement(engine, cell(batch=batch), clock)
    take_turns([own], rounds=2)
    return own.result(reference), engine


@pytest.mark.parametrize("kind", [Calls, SlowForOne, SlowWhenShort, KeepsAnswers])
def test_an_engine_gains_nothing_from_being_slow_when_little_is_asked(
    kind: type[Calls], reference: GPT2
) -> None:
    row, engine = row_of(kind, reference, batch=2)
    assert row["valid"], row["reason"]
    assert row["decode_tokens_per_second"] == 2.0  # an honest step takes a second for two rows
    assert row["end_to_end_seconds"] == 4.0 + NEW_TOKENS
    assert row["first_call_seconds"] == 4.0 + NEW_TOKENS
    begun = [prompt[0] for prompts in engine.asked for prompt in prompts]
    assert len(set(begun)) == len(begun) == 3 * 3 * 2


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (ComputesAll, "more new tokens took no longer: 1 in 20 s, 8 in 20 s, 16 in 20 s"),
        (LosesToken, f"[{HALF - 1}] new tokens, expected {HALF} in each of 1 rows"),
        (WrongWhenShort, f"the warm-up, the call for {HALF}: row 0, new token 0: "),
    ],
)
def test_calls_that_mean_nothing_are_invalid(
    kind: type[Calls], reason: str, reference: GPT2
) -> None:
    row, _ = row_of(kind, reference)
    assert not row["valid"]
    assert row["reason"].startswith(reason), row["reason"]


def test_the_rate_and_the_prefill_are_held_to_the_limit() -> None:
    """A step has to read for 10 ms, and a prefill as long."""

    def judged(prefill: float, step: float) -> str:
        calls = {1: prefill, 8: prefill + 7 * step, 16: prefill + 15 * step}
        rounds = [from_calls(calls)] * 3
        return impossible_times(rounds, 10_000_000, [10_000_000] * 15, 1e9) or ""

    assert judged(prefill=0.1, step=0.0095) == ""
    assert "so the tokens were not computed in these steps" in judged(prefill=0.1, step=0.008)
    assert "its prompt was not computed in that time" in judged(prefill=0.004, step=0.012)


def test_one_disturbed_round_is_no_burst() -> None:
    """Two disturbed short calls make a round seem fast. The median round does not."""
    honest, disturbed = {1: 0.1, 8: 0.19, 16: 0.28}, {1: 0.2, 8: 0.25, 16: 0.28}
    rounds = [from_calls(each) for each in (honest, disturbed, honest)]
    limit = Bandwidth(1e9, "sum")
    assert impossible_times(rounds, 10_000_000, [10_000_000] * 15, limit.bytes_per_second) is None
