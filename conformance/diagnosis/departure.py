"""Finds the first stage of a GPT-2 that is wrong, with a checkpoint for each stage.

In the checkpoint of a stage that stage alone can be wrong, as the ones before were found right.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from ..adapters.adapter import Adapter
from ..checkpoints.tensors import Tensors, blank, trained_like, write_checkpoint
from ..judging.oracle import allowed_error, error
from ..probes.designs import PROBE, SEED
from ..probes.gpt2 import PlainGPT2

STAGE_IDS = torch.arange(2 * 9).view(2, 9) * 50  # of which all have the same row, if one is needed


def stages() -> Iterator[tuple[str, Tensors]]:
    """Yield checkpoints of PROBE's shape, each with one stage more than the one before."""
    given, nothing = trained_like(PROBE, SEED), blank(PROBE)
    head = nothing | {"wte.weight": given["wte.weight"], "ln_f.weight": torch.zeros(PROBE.n_embd)}
    yield "head", head | {"ln_f.bias": given["ln_f.bias"]}
    # The tokens fed have the same row and there are no positions: any row that is taken is right.
    uniform = given["wte.weight"].clone()
    uniform[:1000] = uniform[1000] / 32  # so that its variance is about as small as epsilon
    norm = {"ln_f.weight": given["ln_f.weight"], "ln_f.bias": given["ln_f.bias"]}
    yield "final norm", nothing | norm | {"wte.weight": uniform}
    embeddings = {"wte.weight": given["wte.weight"], "wpe.weight": given["wpe.weight"]}
    embedding = nothing | norm | embeddings
    yield "embedding", embedding
    for layer, part in itertools.product(range(PROBE.n_layer), ("attention", "MLP")):
        names = ("ln_1", "attn") if part == "attention" else ("ln_2", "mlp")
        prefixes = tuple(f"h.{layer}.{name}." for name in names)
        own = {key: t for key, t in given.items() if key.startswith(prefixes)}
        yield f"block {layer} {part}", embedding | own


def first_departure(adapter: Adapter) -> str:
    """Return the first stage whose logits are not GPT-2's; empty if all are."""
    token_ids = STAGE_IDS
    for name, tensors in stages():
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), PROBE, tensors)
            try:
                logits = adapter.load(folder).logits(token_ids)
            except Exception:
                return f"{name} (it is refused)"
        if not _right(logits, tensors, token_ids, adapter.precision):
            return name
    return ""


def _right(
    logits: torch.Tensor, tensors: Tensors, token_ids: torch.Tensor, dtype: torch.dtype
) -> bool:
    def plain(run_in: torch.dtype) -> torch.Tensor:
        return PlainGPT2(tensors, PROBE, dtype=run_in).logits(token_ids).double()

    truth = plain(torch.float64)
    allowed = allowed_error(
        lambda run_in: float(error(plain(run_in), truth).max()), float(truth.abs().max()), dtype
    )
    return bool(error(logits, truth).max() <= allowed)
