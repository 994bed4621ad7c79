"""torch.compile within the captured step: one compilation for each shape, with the same tokens.

The kernels that torch makes need a GPU. Here torch compiles for a backend of these tests.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from gpt2ref import GPT2, compile_step, generation, sample
from gpt2ref.fast import captured_step, slower, step_buffers, torch_compiled
from gpt2ref.fast.step_buffers import StepBuffers
from tests.shared.calls import recorded
from tests.shared.cuda_emulation import emulated_cuda

OPTIONS: dict[str, Any] = {"max_new_tokens": 9, "seed": 1, "eos_token_id": None}
PROMPTS = [[1, 2], [3]]


@pytest.fixture(autouse=True)
def few_positions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(step_buffers, "BUCKET", 4)
    monkeypatch.setattr(slower, "_said", set())
    yield
    captured_step._idle.clear()


@pytest.fixture
def here(tiny: GPT2, monkeypatch: pytest.MonkeyPatch) -> GPT2:
    """Copy the model of 97 tokens and 13 positions, which generates by captured steps."""
    monkeypatch.setattr(generation, "make_steps", captured_step.CapturedDecodeSteps)
    return copy.deepcopy(tiny)


def test_each_shape_is_compiled_once(here: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        torch_compiled, "OPTIONS", torch_compiled.OPTIONS | {"mode": None, "backend": backend}
    )
    expected = sample(here, PROMPTS, **OPTIONS)
    compile_step(here)
    with torch._dynamo.config.patch(cache_size_limit=1):  # for each function
        assert sample(here, PROMPTS, **OPTIONS) == expected
    assert len(graphs) == 3  # the buckets of 4, 8 and 11 positions
    sample(here, PROMPTS, **OPTIONS, top_k=9)
    assert len(graphs) == 3
    assert len(torch_compiled._compiled[here]) == 3


def test_the_compiled_step_is_captured(here: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def compiled(function: Any, **options: Any) -> Any:
        given.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compiled)
    captures: list[tuple[Any, ...]] = []
    monkeypatch.setattr(StepBuffers, "_capture", recorded(StepBuffers._capture, captures))
    with emulated_cuda():
        there = copy.deepcopy(here).to("cuda")
        expected = sample(there, PROMPTS, **OPTIONS)
        assert (len(captures), given) == (3, [])
        compile_step(there)
        assert sample(there, PROMPTS, **OPTIONS) == expected
    assert given == [torch_compiled.OPTIONS] * 3
    assert len(captures) == 6


def test_a_compiler_that_fails_is_told_once_and_changes_no_token(
    here: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(_function: Any, **_options: Any) -> Any:
        def fails(*_: Any) -> None:
            raise RuntimeError("no gcc\nand more lines")

        return fails

    monkeypatch.setattr(torch, "compile", compiled)
    captures: list[tuple[Any, ...]] = []
    monkeypatch.setattr(StepBuffers, "_capture", recorded(StepBuffers._capture, captures))
    with emulated_cuda(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        there = copy.deepcopy(here).to("cuda")
        compile_step(there)
        assert sample(there, PROMPTS, **OPTIONS) == sample(here, PROMPTS, **OPTIONS)
    assert [str(each.message) for each in told] == [
        "torch.compile failed (RuntimeError: no gcc), so generation is slower. "
        "The tokens are the same."
    ]
    assert len(captures) == 3


def test_the_mode_is_one_that_torch_has() -> None:
    assert torch_compiled.OPTIONS["mode"] in torch._inductor.list_mode_options()
