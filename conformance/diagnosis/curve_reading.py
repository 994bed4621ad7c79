"""Reads an unknown activation out of an implementation, whatever else is known to be wrong in it.

Each token gives every hidden unit another input, and each unit's output goes to a channel of its
own, where a reader token's logit shows it. A GPT-2 with the mistakes that are granted says what
those logits are for given outputs of the activation. Newton's method finds the outputs with which
it gives the implementation's logits. Two loud channels make the final LayerNorm nearly linear.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..adapters.protocol import Judged
from ..checkpoints.tensors import Tensors, blank, write_checkpoint
from ..defects.catalogue import Mistake
from ..defects.complete import CompleteGPT2
from ..defects.curve import ReadCurve

UNITS, TOKENS = 32, 48  # inputs read at once: of each token, one by each hidden unit
REACH = 14.0  # the curve is read between this and its negative
SHAPE = GPT2Config(n_positions=TOKENS, n_embd=4 + 2 * UNITS, n_layer=1, n_head=2)
LOUD = 300.0
FIRST_TOKEN, FIRST_READER = 5, 1000
IDS = torch.arange(FIRST_TOKEN, FIRST_TOKEN + TOKENS)[None]
READERS = torch.arange(FIRST_READER, FIRST_READER + UNITS)
STEP, ITERATIONS = 1e-5, 40  # of Newton's method


def tensors() -> Tensors:
    """Return the checkpoint: its unit j has the inputs from -REACH + j cells to the next cell."""
    made, cell, widest = blank(SHAPE), 2 * REACH / UNITS, 0.7
    # ln_2 turns a channel of tan(a) * LOUD, beside the loud ones, into sin(a) * scale.
    scale = (SHAPE.n_embd / 2) ** 0.5
    offset = (widest * torch.arange(TOKENS) / TOKENS).asin().tan() * LOUD
    loud = torch.full((TOKENS,), LOUD)
    made["wte.weight"][IDS[0], :4] = torch.stack([loud, -loud, offset, -offset], dim=1)
    made["h.0.mlp.c_fc.weight"][2, :UNITS] = cell / (widest * scale)
    unit = torch.arange(UNITS)
    channel = 4 + 2 * unit
    made["wte.weight"][READERS, channel] = 1.0
    made["h.0.mlp.c_fc.bias"][:UNITS] = -REACH + cell * unit
    made["h.0.mlp.c_proj.weight"][unit, channel] = 1.0
    made["h.0.mlp.c_proj.weight"][unit, channel + 1] = -1.0
    return made


def read_curve(
    load: Callable[..., Judged], granted: tuple[Mistake, ...], folder: Path
) -> ReadCurve | None:
    """Return the activation's curve, or None if it can't be read."""
    write_checkpoint(folder, SHAPE, tensors())
    try:
        found = load(folder, dtype=torch.float64).logits(IDS).double()
    except Exception:  # another mistake may be in the way
        return None
    found = found[0][:, READERS] - found[0][:, :1]  # logits may be centred

    def logits_of(outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [row, token, unit], and the activation's inputs, for its given outputs."""
        inputs: list[Tensor] = []

        class Given(CompleteGPT2):
            def activation(self, x: Tensor) -> Tensor:
                inputs.append(x[0, :, :UNITS])
                return torch.cat([outputs, torch.zeros_like(x[..., UNITS:])], dim=-1)

        kind: type[CompleteGPT2] = type("Given", (Given, *(each.kind for each in granted)), {})
        logits = kind.load(str(folder), dtype=torch.float64).logits(IDS.expand(len(outputs), -1))
        return logits[..., READERS] - logits[..., :1], inputs[0]

    outputs = torch.zeros_like(found)
    moves = torch.cat([torch.zeros(1, UNITS), STEP * torch.eye(UNITS)]).double()[:, None]
    for _ in range(ITERATIONS):
        (now, *moved), inputs = logits_of(outputs + moves)
        slopes = torch.stack([(logits - now) / STEP for logits in moved], dim=-1)
        if not slopes.isfinite().all() or (torch.linalg.det(slopes) == 0).any():
            return None
        change = torch.linalg.solve(slopes, found - now)
        outputs = outputs + change
        if change.abs().max() < 1e-11:
            break
    if not outputs.isfinite().all():
        return None
    order = inputs.flatten().argsort()
    x, y = inputs.flatten()[order], outputs.flatten()[order]
    file = folder / "curve.json"
    file.write_text(json.dumps({"x": x.tolist(), "y": y.tolist()}), encoding="utf-8")
    return ReadCurve(file)
