"""The four matrices a block whose orientation a port has to change, each by itself.

The other matrices of the block are zero or the identity, which no transposition or reshaping alters, and the MLP is as
wide as the model, so that every matrix but c_attn is square and a mistake raises no shape error: only values can tell.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpt2ref import GPT2Config

from .checkpoints import Tensors, blank, random_token_ids, trained_like, write_checkpoint
from .oracle import check_logits, expected, hugging_face_logits
from .protocol import Adapter
from .requirements import requirement

SQUARE = GPT2Config(n_positions=8, n_embd=24, n_layer=2, n_head=3, n_inner=24)
TOKEN_IDS = random_token_ids(SQUARE, batch=2, time=5)

CASES = [
    pytest.param("attn.c_attn", 24, marks=requirement("transpose.attn.c_attn")),
    pytest.param("attn.c_proj", 24, marks=requirement("transpose.attn.c_proj")),
    pytest.param("mlp.c_fc", 24, marks=requirement("transpose.mlp.c_fc")),
    pytest.param("mlp.c_proj", 24, marks=requirement("transpose.mlp.c_proj")),
    pytest.param("mlp.c_proj", 96, marks=requirement("transpose.mlp.c_proj")),
]


def alone(matrix: str, config: GPT2Config) -> Tensors:
    """A checkpoint in which `matrix` is the only one whose orientation matters."""
    given, tensors = trained_like(config, seed=2), blank(config)
    for key in tensors:
        if f"{matrix}.weight" in key or not any(f"{other}.weight" in key for other in ("c_attn", "c_proj", "c_fc")):
            tensors[key] = given[key]
    # What follows the matrix in its branch lets everything through.
    following = {"attn.c_attn": "attn.c_proj", "mlp.c_fc": "mlp.c_proj"}.get(matrix)
    if following:
        for layer in range(config.n_layer):
            tensors[f"h.{layer}.{following}.weight"] = torch.eye(config.n_embd)
    return tensors


def mistaken(w: Tensor) -> Tensor:
    """What `nn.Linear` makes of a matrix [in, out] that was copied into [out, in] by its shape and not by its meaning."""
    return w.reshape(w.shape[::-1]).t().contiguous()


@pytest.mark.parametrize(("matrix", "n_inner"), CASES)
def test_orientation(adapter: Adapter, matrix: str, n_inner: int, tmp_path: Path) -> None:
    config = replace(SQUARE, n_inner=n_inner)
    tensors = alone(matrix, config)
    right = write_checkpoint(tmp_path / "right", config, tensors)
    wrong = {key: mistaken(tensor) if f"{matrix}.weight" in key else tensor for key, tensor in tensors.items()}
    mistake = hugging_face_logits(str(write_checkpoint(tmp_path / "wrong", config, wrong)), TOKEN_IDS, torch.float64, "eager")
    truth, allowed = expected(str(right), TOKEN_IDS, adapter.precision, adapter.device)
    assert (mistake - truth).abs().max() > 10 * allowed, "the mistake would not show"

    logits = adapter.load(right).logits(TOKEN_IDS)
    if (logits - mistake).abs().max() <= allowed:
        kind = (
            "reshaped to its transpose's shape, not transposed"
            if matrix == "attn.c_attn" or n_inner != 24
            else "not transposed"
        )
        pytest.fail(f"{matrix}.weight is {kind}: the logits are exactly those of that mistake")
    check_logits(logits, truth, allowed, f"a checkpoint in which {matrix}.weight alone matters")
