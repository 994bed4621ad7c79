"""Any adapter of the conformance suite is measured, in the loop that its methods allow."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.implementations import RefusedError
from benchmarks.implementations.adapter import CACHED, CALLS, TEXTBOOK, FromAdapter, adapter_class
from benchmarks.implementations.pipe import echoing
from benchmarks.notes import OWN_LOOP, notes
from benchmarks.sampling import Sampling
from benchmarks.test_generation_speed import test_generation as run_test
from benchmarks.weights import Weights
from conformance.checkpoints.tensors import trained_like
from tests.shared.benchmark_fakes import (
    CONFIG,
    CPU,
    GREEDY,
    NEW_TOKENS,
    SAMPLINGS,
    TickingClock,
    cell,
    generated,
    measurement,
)
from tests.shared.model_files import NANO

ROOT = Path(__file__).parents[2]
# An adapter of the reference that has only some methods, and one that answers in a changed way.
ADAPTER = """
from types import SimpleNamespace

from conformance.adapters.gpt2ref import load as load_reference


def load(checkpoint, *, device, dtype):
    right = load_reference(checkpoint, device=device, dtype=dtype)

    def stream(token_ids, **options):
        yield from zip(*right.generate(token_ids, **options))

    def reporting(token_ids, *, on_step, **options):
        for _ in range(options["max_new_tokens"]):
            on_step()
        return right.generate(token_ids, **options)

    def without_greedy(token_ids, *, temperature, **options):
        if temperature == 0:
            raise ValueError("temperature must be above 0")
        return right.generate(token_ids, temperature=temperature, **options)

    def without_top_k(token_ids, *, top_k, **options):
        if top_k is not None:
            raise NotImplementedError("it has no top_k")
        return right.generate(token_ids, **options)

    def wrong(token_ids):
        return right.logits(token_ids).roll(1, -1)

    return SimpleNamespace(logits=METHODS)
"""
METHODS = {
    "stream": "right.logits, stream=stream, generate=right.generate",
    "on_step": "right.logits, generate=reporting",
    "generate": "right.logits, generate=right.generate, prefill=right.prefill, step=right.step",
    "steps": "right.logits, prefill=right.prefill, step=right.step",
    "logits": "right.logits",
    "without_greedy": "right.logits, generate=without_greedy",
    "without_top_k": "right.logits, generate=without_top_k",
    "wrong": "wrong",
}
LOOPS = {
    "stream": (OWN_LOOP, True, False),
    "on_step": (OWN_LOOP, True, False),
    "generate": (CALLS, False, False),
    "steps": (CACHED, True, True),
    "logits": (TEXTBOOK, True, True),
}  # the loop, whether it reports its steps, and whether its draws can be predicted


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    weights = Weights(CONFIG, CPU, torch.float32, tensors=trained_like(CONFIG, seed=0))
    yield weights
    weights.free()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return a function from a key of METHODS to the name of an adapter."""
    folder = tmp_path_factory.mktemp("adapters")

    def write(kind: str) -> str:
        path = folder / f"{kind}.py"
        path.write_text(ADAPTER.replace("METHODS", METHODS[kind]), encoding="utf-8")
        return str(path)

    return write


class CallsTakeTime:
    """Lets a call of a model's `generate` take 5 seconds, and one for each token."""

    def __init__(self, implementation: Any, clock: TickingClock) -> None:
        self.generate, self.clock = implementation.model.generate, clock
        implementation.model = SimpleNamespace(generate=self)

    def __call__(self, token_ids: Any, **options: Any) -> Any:
        self.clock.now += 4.0 + options["max_new_tokens"]  # reading the clock takes the fifth
        return self.generate(token_ids, **options)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("kind", LOOPS)
def test_each_kind_of_adapter_is_valid_in_its_loop(
    weights: Weights, adapter: Callable[[str], str], kind: str, sampling: Sampling
) -> None:
    clock = TickingClock()
    implementation = adapter_class(adapter(kind))(weights.checkpoint, CPU, torch.float32)
    loop, reports, foretold = LOOPS[kind]
    assert (implementation.loop, implementation.reports_steps, implementation.foretold) == (
        loop,
        reports,
        foretold,
    )
    if not reports:
        CallsTakeTime(implementation, clock)
    own = measurement(implementation, cell(sampling, batch=3), clock)
    for _ in range(3):
        own.generate()
    verdict = own.verdict(weights.judge)
    assert verdict.valid, verdict.reason
    tokens = NEW_TOKENS if reports else NEW_TOKENS + NEW_TOKENS // 2 + 1
    assert verdict.tokens_checked == 3 * 3 * tokens
    row = own.result(weights.judge)
    assert (row["loop"], row["measured_by"]) == (loop, "steps" if reports else "lengths")
    if not reports:
        assert row["valid"], row["reason"]
        assert (row["prefill_seconds"], row["end_to_end_seconds"]) == (6.0, 5.0 + NEW_TOKENS)
        assert row["decode_tokens_per_second"] == 3.0
        assert row["ms_per_token"] == {"p5": None, "p50": 1000.0, "p95": None, "p99": None}
        calls = [[1, 6.0], [NEW_TOKENS // 2, 13.0], [NEW_TOKENS, 21.0]]
        assert row["samples"][0]["call_seconds"] == calls
    assert [line.partition("the loop is ")[2] for line in notes([row | {"valid": True}])] == (
        [loop] if loop != OWN_LOOP else []
    )


def test_wrong_logits_make_an_invalid_row(weights: Weights, adapter: Callable[[str], str]) -> None:
    wrong = adapter_class(adapter("wrong"))(weights.checkpoint, CPU, torch.float32)
    own = measurement(wrong, cell(), TickingClock())
    own.generate()
    own.generate()
    row = own.result(weights.judge)
    assert not row["valid"]
    assert "is not the likeliest token" in row["reason"]


def test_who_refuses_temperature_0_by_name_is_asked_for_top_k_1(
    weights: Weights, adapter: Callable[[str], str]
) -> None:
    implementation = adapter_class(adapter("without_greedy"))(
        weights.checkpoint, CPU, torch.float32
    )
    clock = TickingClock()
    CallsTakeTime(implementation, clock)
    own = measurement(implementation, cell(GREEDY), clock)
    own.generate()
    own.generate()
    row = own.result(weights.judge)
    assert row["valid"], row["reason"]
    assert row["greedy_by_top_k"]
    assert any("asked for top-k 1 instead" in line for line in notes([row]))
    sampled = measurement(implementation, cell(Sampling(1.0, None)), clock)
    sampled.generate()
    sampled.generate()
    assert not sampled.result(weights.judge)["greedy_by_top_k"]


def test_what_an_adapter_cannot_do_is_refused_with_its_reason(
    weights: Weights, adapter: Callable[[str], str]
) -> None:
    implementation = adapter_class(adapter("without_top_k"))(weights.checkpoint, CPU, torch.float32)
    assert generated(implementation, [[1, 2, 3]], GREEDY)
    with pytest.raises(RefusedError, match="it has no top_k"):
        generated(implementation, [[1, 2, 3]], Sampling(1.0, 40))
    outcome = SimpleNamespace(error=RefusedError("it has no top_k"))
    run: Any = SimpleNamespace(refusal=lambda _cell: None, outcome=lambda *_: outcome)
    benchmark: Any = None
    with pytest.raises(pytest.skip.Exception, match=r"x\.py refuses: it has no top_k"):
        run_test(benchmark, run, cell(), "x.py")


def test_logits_that_are_not_finite_are_an_error(weights: Weights) -> None:
    broken = SimpleNamespace(logits=lambda ids: torch.full((*ids.shape, 1000), float("nan")))
    implementation = FromAdapter.__new__(FromAdapter)
    right = adapter_class("conformance.adapters.gpt2ref")(weights.checkpoint, CPU, torch.float32)
    vars(implementation).update(vars(right) | {"model": broken})
    implementation.run = implementation._textbook
    with pytest.raises(ValueError, match="the logits of new token 0 are not finite"):
        generated(implementation, [[1, 2, 3]], GREEDY)


def test_a_file_without_an_adapter_is_measured(weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(NANO, encoding="utf-8")
    for name in ("model.py", "model.py:GPT"):
        made = adapter_class(str(tmp_path / name))
        assert made.adapter.found.said.startswith("judging GPT of model.py")
        implementation = made(weights.checkpoint, CPU, torch.float32)
        clock = TickingClock()
        CallsTakeTime(implementation, clock)
        for sampling in (GREEDY, Sampling(1.0, 40)):
            own = measurement(implementation, cell(sampling), clock)
            own.generate()
            own.generate()
            row = own.result(weights.judge)
            assert row["valid"], row["reason"]
            assert row["greedy_by_top_k"] == (sampling == GREEDY)


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_a_program_is_measured_and_so_are_its_messages(weights: Weights, tmp_path: Path) -> None:
    program = tmp_path / "gpt2"
    subprocess.run(
        ["cc", "-O1", "-o", program, ROOT / "conformance/vectors/runners/c/gpt2.c", "-lm"],
        check=True,
        timeout=60,
    )
    before = os.environ.get("OMP_NUM_THREADS")
    implementation = adapter_class(f"command: {program}")(weights.checkpoint, CPU, torch.float32)
    assert os.environ.get("OMP_NUM_THREADS") == before
    clock = TickingClock()
    CallsTakeTime(implementation, clock)
    own = measurement(implementation, cell(batch=2), clock)
    own.generate()
    own.generate()
    own._pipe_seconds = lambda: 0.125  # type: ignore[method-assign]
    row = own.result(weights.judge)
    assert row["valid"], row["reason"]
    assert re.search(r"messages take up to 125\.00 ms of a call, 0\.6%", notes([row])[-1])


@pytest.mark.parametrize("methods", [["generate", "prefill", "step"], ["prefill", "step"], []])
def test_messages_are_measured_in_the_loop_of_the_program(
    weights: Weights, methods: list[str]
) -> None:
    echo = adapter_class(echoing(methods))(weights.checkpoint, CPU, torch.float32)
    loops = {0: TEXTBOOK, 2: CACHED, 3: CALLS}
    assert echo.loop == loops[len(methods)]
    assert generated(echo, [[1, 2], [3, 4]], GREEDY, 3) == [[0, 0, 0]] * 2
    seconds = echo.pipe_seconds([[1, 2], [3, 4]], 3)
    assert seconds is not None
    assert seconds > 0
