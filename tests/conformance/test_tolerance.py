"""The comparison of logits: which errors are allowed, and which fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance.adapters.adapter import Adapter
from conformance.checkpoints.tensors import SMALL, random_token_ids, trained_like, write_checkpoint
from conformance.defects import DEFECTS, CompleteGPT2
from conformance.judging.oracle import (
    FACTOR,
    FLOOR_ULPS,
    allowed_error,
    check_logits,
    expected,
)
from conformance.outcomes import Failure
from conformance.studies.tolerance import SMALLEST
from conformance.test_parity import check_parity
from gpt2ref import load_checkpoint
from tests.shared.blocks import block

TOKEN_IDS = random_token_ids(SMALL, batch=2, time=11)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("tolerance") / "right", SMALL, trained_like(SMALL, seed=3)
    )


def test_one_ulp_on_every_logit_passes(checkpoint: Path) -> None:
    truth, allowed = expected(str(checkpoint), TOKEN_IDS, torch.float32)
    one_ulp_up = torch.nextafter(truth.float(), torch.tensor(torch.inf)).double()
    check_logits(one_ulp_up, truth, allowed, "one ulp")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("defect", SMALLEST)
def test_the_smallest_known_defects_fail(checkpoint: Path, defect: str, dtype: torch.dtype) -> None:
    truth, allowed = expected(str(checkpoint), TOKEN_IDS, dtype)
    logits = DEFECTS[defect].kind.load(str(checkpoint), dtype=dtype).logits(TOKEN_IDS).double()
    with pytest.raises(Failure, match="times the allowed"):
        check_logits(logits, truth, allowed, defect)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_allowed_error_is_between_the_dtypes_rounding_and_a_visible_deviation(
    checkpoint: Path, dtype: torch.dtype
) -> None:
    truth, allowed = expected(str(checkpoint), TOKEN_IDS, dtype)
    ulp = torch.finfo(dtype).eps * float(truth.abs().max())
    assert FLOOR_ULPS * ulp <= allowed <= 100 * ulp


def test_the_allowed_error_is_a_multiple_of_the_oracles_with_a_floor() -> None:
    eps = torch.finfo(torch.float32).eps
    assert allowed_error(lambda _: 1e-3, 8.0, torch.float32) == FACTOR * 1e-3
    assert allowed_error(lambda _: 0.0, 8.0, torch.float32) == FLOOR_ULPS * eps * 8.0


def test_float64_is_allowed_float32s_error_in_proportion() -> None:
    ratio = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    errors = {
        torch.float32: 1e-3
    }  # asked for in float64, where the oracle would be compared with itself, it raises
    assert allowed_error(errors.__getitem__, 8.0, torch.float64) == pytest.approx(
        FACTOR * 1e-3 * ratio
    )


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1.001])
def test_a_single_wrong_number_fails_and_is_located(wrong: float) -> None:
    truth = torch.ones(2, 3, 5, dtype=torch.float64)
    logits = truth.clone()
    logits[1, 2, 4] = wrong
    with pytest.raises(Failure, match=r"token 4 at row 1, position 2 .* 1 of 6 positions are off"):
        check_logits(logits, truth, 1e-4, "a change")


def test_another_shape_fails() -> None:
    with pytest.raises(Failure, match=r"shape \[1, 3, 5\], expected \[2, 3, 5\]"):
        check_logits(torch.ones(1, 3, 5), torch.ones(2, 3, 5), 1.0, "one row")


def test_trained_like_weights_exercise_softmax_and_gelu(checkpoint: Path) -> None:
    """Scores and GELU inputs have a standard deviation of about one. No bias is zero."""
    model = load_checkpoint(checkpoint)
    inputs: list[Tensor] = []
    queries_keys: list[Tensor] = []

    def watch(layer: nn.Linear, outputs: list[Tensor]) -> None:
        layer.register_forward_hook(lambda _module, _args, output: outputs.append(output))

    for layer in range(SMALL.n_layer):
        watch(block(model, layer).mlp.c_fc, inputs)
        watch(block(model, layer).attn.c_attn, queries_keys)
    model(TOKEN_IDS)
    width = SMALL.head_width
    for output in queries_keys:
        q, k, _ = output[1].split(SMALL.n_embd, dim=-1)
        scores = q[:, :width] @ k[:, :width].t() / width**0.5
        assert 0.5 < float(scores.std()) < 4
    assert all(0.5 < float(output.std()) < 3 for output in inputs)
    assert all(
        float(tensor.abs().min()) > 0
        for name, tensor in model.state_dict().items()
        if name.endswith("bias")
    )


class InHalf(CompleteGPT2):
    """Computes in float16 where float32 is asked for, and declares what it computes in."""

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def test_each_load_is_judged_in_the_precision_that_it_declares(checkpoint: Path) -> None:
    def load(folder: str, *, device: str, dtype: torch.dtype) -> Any:
        dtype = torch.float16 if dtype == torch.float32 else dtype
        return InHalf.load(folder, device=device, dtype=dtype)

    adapter = Adapter("lower", "cpu", torch.float32, load)
    adapter.try_out()
    for dtype in (torch.float32, torch.bfloat16):
        check_parity(adapter, checkpoint, TOKEN_IDS, dtype, str(dtype))
