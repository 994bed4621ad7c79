"""The suite on a CUDA device, which is emulated: gpt2ref generates by captured steps there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conformance.adapters import gpt2ref as reference
from conformance.adapters import huggingface
from conformance.checkpoints.tensors import SMALL, trained_like, write_checkpoint
from gpt2ref.fast import captured_step
from gpt2ref.fast.step_buffers import StepBuffers
from tests.shared.calls import recorded
from tests.shared.cuda_emulation import emulated_cuda
from tests.shared.judging import judge


def test_the_reference_passes_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part of each family: all of them take minutes in the emulation."""
    captures: list[tuple[object, ...]] = []
    monkeypatch.setattr(StepBuffers, "_capture", recorded(StepBuffers._capture, captures))
    some = "round_trip or curve or middle or test_greedy or ragged or test_seed or test_repeatable"
    some += " or test_generation and second_prompt or test_small and (float32-36 or float64-1])"
    with emulated_cuda():
        run = judge("conformance", "--device", "cuda", "-k", f"({some}) and not published_sizes")
        captured_step._idle.clear()
    assert run.returncode == 0, run.stdout + run.stderr
    assert "gpt2ref: no deviation from GPT-2 found" in run.stdout
    assert "gpt2ref in float32 on cuda" in run.stdout
    assert captures


@pytest.mark.parametrize("load", [reference.load, reference.load_uncached, huggingface.load])
def test_an_adapter_generates_what_it_does_on_the_cpu(tmp_path: Path, load: Any) -> None:
    folder = str(write_checkpoint(tmp_path / "small", SMALL, trained_like(SMALL, seed=0)))
    options: dict[str, Any] = {"max_new_tokens": 3, "temperature": 0.7, "top_k": 40, "seed": 1}
    with emulated_cuda():
        found = load(folder, device="cuda").generate_ragged([[1, 2], [3]], **options)
        captured_step._idle.clear()
    assert found == load(folder).generate_ragged([[1, 2], [3]], **options)
