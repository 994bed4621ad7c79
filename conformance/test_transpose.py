"""The four matrices a block whose orientation a port has to change, each by itself.

The other matrices of the block are zero or the identity, which no transposition or reshaping of a square alters. The
MLP's hidden units are pushed to 30 and above, where every activation that is in use passes its input on.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gpt2ref import GPT2Config

from .adapters.adapter import Adapter
from .checkpoints.tensors import Tensors, blank, random_token_ids, trained_like
from .conftest import WriteCheckpoint
from .judging.oracle import check_logits, error, expected
from .probes.forward import forward
from .requirements import requirement

CONFIG = GPT2Config(n_positions=8, n_embd=24, n_layer=2, n_head=3)
TOKEN_IDS = random_token_ids(CONFIG, batch=2, time=5)
PUSH = 64.0
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def alone(matrix: str) -> Tensors:
    """A checkpoint in which `matrix` is the only one whose orientation matters."""
    given, tensors = trained_like(CONFIG, seed=2), blank(CONFIG)
    for key in tensors:
        if f"{matrix}.weight" in key or not any(f"{other}.weight" in key for other in MATRICES):
            tensors[key] = given[key]
    for layer in range(CONFIG.n_layer):
        block = f"h.{layer}"
        # What follows the matrix in its branch lets everything through.
        if matrix == "attn.c_attn":
            tensors[f"{block}.attn.c_proj.weight"] = torch.eye(CONFIG.n_embd)
        if matrix == "mlp.c_fc":
            tensors[f"{block}.mlp.c_proj.weight"] = torch.eye(CONFIG.mlp_width, CONFIG.n_embd)
            tensors[f"{block}.mlp.c_fc.weight"] *= (
                10  # so that it is not lost beside the push, in half precision either
            )
            tensors[f"{block}.mlp.c_fc.bias"].fill_(PUSH)
            tensors[f"{block}.mlp.c_proj.bias"] -= PUSH
        if matrix == "mlp.c_proj":
            tensors[f"{block}.mlp.c_fc.bias"].abs_().mul_(10).add_(30)
    return tensors


def mistaken(w: Tensor) -> Tensor:
    """What `nn.Linear` makes of a matrix [in, out] that was copied into [out, in] by its shape and not by its meaning."""
    return w.reshape(w.shape[::-1]).t().contiguous()


@pytest.mark.parametrize(
    "matrix",
    [pytest.param(matrix, marks=requirement(f"transpose.{matrix}")) for matrix in MATRICES],
)
def test_orientation(adapter: Adapter, matrix: str, write: WriteCheckpoint) -> None:
    tensors = alone(matrix)
    right = write(f"{matrix} alone", CONFIG, lambda: tensors)
    wrong = {
        key: mistaken(tensor) if f"{matrix}.weight" in key else tensor
        for key, tensor in tensors.items()
    }
    mistake = forward(wrong, CONFIG, TOKEN_IDS)
    truth, allowed = expected(str(right), TOKEN_IDS, adapter.precision, adapter.device)
    assert error(mistake, truth).max() > 10 * allowed, "the mistake would not show"

    logits = adapter.load(right).logits(TOKEN_IDS)
    if error(logits, mistake).max() <= allowed:
        kind = (
            "not transposed"
            if matrix == "attn.c_proj"
            else "reshaped to its transpose's shape, not transposed"
        )
        pytest.fail(f"{matrix}.weight is {kind}: the logits are exactly those of that mistake")
    check_logits(logits, truth, allowed, f"a checkpoint in which {matrix}.weight alone matters")
