"""The four matrices of a block whose orientation a port has to change, each by itself.

The other matrices of the block are zero or the identity, which no transposition or reshaping of a
square alters. The MLP's hidden units are pushed to 30 and above, where every activation in use
passes its input on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import pytest
import torch
from torch import Tensor

from gpt2ref import GPT2Config

from .adapters.adapter import Adapter
from .checkpoints.tensors import Tensors, blank, random_token_ids, trained_like
from .conftest import WriteCheckpoint
from .defects import defects_of, defects_of_facts
from .judging.oracle import check_logits, error, expected
from .outcomes import Failure
from .probes.experiment import Kind
from .probes.gpt2 import PlainGPT2
from .requirements import requirement

CONFIG = GPT2Config(n_positions=8, n_embd=24, n_layer=2, n_head=3)
TOKEN_IDS = random_token_ids(CONFIG, batch=2, time=5)
PUSH = 64.0
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def alone(matrix: str) -> Tensors:
    """Return a checkpoint in which `matrix` is the only one whose orientation matters."""
    given, tensors = trained_like(CONFIG, seed=2), blank(CONFIG)
    for key in tensors:
        if f"{matrix}.weight" in key or not any(f"{other}.weight" in key for other in MATRICES):
            tensors[key] = given[key]
    for layer in range(CONFIG.n_layer):
        block = f"h.{layer}"
        # The matrix after it in its branch passes everything on.
        if matrix == "attn.c_attn":
            tensors[f"{block}.attn.c_proj.weight"] = torch.eye(CONFIG.n_embd)
        if matrix == "mlp.c_fc":
            tensors[f"{block}.mlp.c_proj.weight"] = torch.eye(CONFIG.mlp_width, CONFIG.n_embd)
            # Large enough not to be lost beside the push in half precision.
            tensors[f"{block}.mlp.c_fc.weight"] *= 10
            tensors[f"{block}.mlp.c_fc.bias"].fill_(PUSH)
            tensors[f"{block}.mlp.c_proj.bias"] -= PUSH
        if matrix == "mlp.c_proj":
            tensors[f"{block}.mlp.c_fc.bias"].abs_().mul_(10).add_(30)
    return tensors


def wrong_logits(
    tensors: Tensors, kinds: Mapping[str, Kind], shown: Tensor | slice = PlainGPT2.shown
) -> Iterator[tuple[str, Tensor]]:
    """Yield the logits of each mistake that can be made in this shape."""
    for name, kind in kinds.items():
        with suppress(RuntimeError):
            model = kind(tensors, CONFIG, dtype=torch.float64)
            model.shown = shown
            yield name, model.logits(TOKEN_IDS)


def explained_by_another(tensors: Tensors, logits: Tensor, allowed: float) -> bool:
    """Return whether a mistake of another fact gives just these logits."""
    kinds, few = defects_of_facts(), slice(0, None, 523)  # first few logits, then all
    near = [
        name
        for name, wrong in wrong_logits(tensors, kinds, few)
        if error(logits[..., few], wrong).max() <= 2 * allowed
    ]
    likely = wrong_logits(tensors, {name: kinds[name] for name in near})
    return any(error(logits, wrong).max() <= allowed for _, wrong in likely)


@pytest.mark.parametrize(
    "matrix",
    [pytest.param(matrix, marks=requirement(f"transpose.{matrix}")) for matrix in MATRICES],
)
def test_orientation(adapter: Adapter, matrix: str, write: WriteCheckpoint) -> None:
    tensors = alone(matrix)
    checkpoint = write(f"{matrix} alone", CONFIG, lambda: tensors)
    truth, allowed = expected(str(checkpoint), TOKEN_IDS, adapter.precision, adapter.device)
    own = defects_of(f"transpose.{matrix}")
    mistaken = dict(wrong_logits(tensors, own))
    for name, wrong in mistaken.items():
        assert error(wrong, truth).max() > 10 * allowed, f"{name} would not show"

    logits = adapter.load(checkpoint).logits(TOKEN_IDS)
    found = tuple(name for name in mistaken if error(logits, mistaken[name]).max() <= allowed)
    if found:
        right = f"{matrix}.weight multiplying from the right, x @ w"
        raise Failure(" or ".join(found), expected=right, mistakes=found, own=True)
    off = bool(error(logits, truth).max() > allowed) and adapter.precision.itemsize >= 4
    if off and explained_by_another(tensors, logits, allowed):
        return  # another mistake, which is granted (see probes.check)
    check_logits(logits, truth, allowed, f"a checkpoint in which {matrix}.weight alone matters")
