"""The suite on a device without float64, which is emulated."""

from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.adapters.protocol import Judged
from conformance.checkpoints.tensors import SMALL, trained_like, write_checkpoint
from conformance.defects.complete import CompleteGPT2
from conformance.judging.oracle import hugging_face_logits
from tests.shared.judging import judge
from tests.shared.mps_emulation import emulated_mps

TOKEN_IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def test_the_reference_passes_the_suite() -> None:
    """One part of each family: all of them take two minutes in the emulation."""
    some = "round_trip or curve or second_prompt or middle or test_greedy or ragged or test_seed"
    some += " or test_small and (float32-36 or float64-1]) or test_repeatable"
    with emulated_mps():
        run = judge("conformance", "--device", "mps", "-k", f"({some}) and not published_sizes")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "gpt2ref: no deviation from GPT-2 found" in run.stdout
    assert "no torch.float64 on mps" in run.stdout


def test_logits_become_float64_on_the_cpu() -> None:
    class OneMethod:
        def logits(self, token_ids: torch.Tensor) -> torch.Tensor:
            assert token_ids.device == torch.device("mps", 0)
            return token_ids[..., None] * torch.ones(7, device="mps")

    with emulated_mps():
        implementation: Any = OneMethod()
        logits = Judged(implementation, "mps").logits(TOKEN_IDS)
    assert (type(logits), logits.dtype) == (torch.Tensor, torch.float64)
    assert logits[..., 6].tolist() == TOKEN_IDS.tolist()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_oracle_s_logits_are_the_cpu_s(tmp_path: Path, attention: str) -> None:
    folder = write_checkpoint(tmp_path / "small", SMALL, trained_like(SMALL, seed=0))
    with emulated_mps():
        found = hugging_face_logits(str(folder), TOKEN_IDS, torch.float32, attention, "mps")
    expected = hugging_face_logits(str(folder), TOKEN_IDS, torch.float32, attention)
    assert (type(found), found.dtype) == (torch.Tensor, torch.float64)
    torch.testing.assert_close(found, expected)


def test_a_complete_gpt2_of_the_catalogue_generates_what_it_does_on_the_cpu(
    tmp_path: Path,
) -> None:
    folder = str(write_checkpoint(tmp_path / "small", SMALL, trained_like(SMALL, seed=0)))
    options: dict[str, Any] = {"max_new_tokens": 4, "top_k": 40, "seed": 1}
    with emulated_mps():
        there = CompleteGPT2.load(folder, device="mps")
        found = there.generate_ragged([[1, 2], [3]], **options)
    assert found == CompleteGPT2.load(folder).generate_ragged([[1, 2], [3]], **options)


@pytest.mark.parametrize("device", ["hip", "cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_one_line(device: str) -> None:
    run = judge("conformance", "--device", device)
    assert run.returncode == 4
    line = f"ERROR: --device='{device}': this torch has no such device"
    assert run.stderr.strip().startswith(line)
    assert len(run.stderr) < 300
