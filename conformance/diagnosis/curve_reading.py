"""Reads an unknown activation out of an implementation, whatever else is known to be wrong in it.

Each token gives every hidden unit another input, and each unit's output goes to a channel of its
own, which a reader shows (see `solving`). Two loud channels make the final LayerNorm nearly linear.
No bias is needed, since an implementation may have none.
"""

from __future__ import annotations

import json
import math

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import Tensors, blank
from ..defects.complete import CompleteGPT2
from ..defects.curve import ReadCurve
from .solving import FIRST_READER, Reading, Subject, solved

UNITS, TOKENS = 32, 48  # inputs read at once: of each token, one by each hidden unit
REACH = 14.0  # the curve is read between this and its negative
SHAPE = GPT2Config(n_positions=TOKENS, n_embd=4 + 2 * UNITS, n_layer=1, n_head=2)
LOUD = 300.0
# The largest angle a of a token. The input of a unit is first * cos(a) + rise * sin(a). It rises
# from token to token while tan(a) < rise / first, which is 0.37 or more. tan(0.3) is 0.31.
WIDEST = 0.3
FIRST_TOKEN = 5
IDS = torch.arange(FIRST_TOKEN, FIRST_TOKEN + TOKENS)[None]
READERS = torch.arange(FIRST_READER, FIRST_READER + UNITS)


def tensors() -> Tensors:
    """Return the checkpoint: its unit j has the inputs from -REACH + j cells to the next cell."""
    made, cell = blank(SHAPE), 2 * REACH / UNITS
    # ln_2 turns the channels LOUD and tan(a) * LOUD into cos(a) * scale and sin(a) * scale.
    scale = (SHAPE.n_embd / 2) ** 0.5
    offset = (WIDEST * torch.arange(TOKENS) / TOKENS).tan() * LOUD
    loud = torch.full((TOKENS,), LOUD)
    made["wte.weight"][IDS[0], :4] = torch.stack([loud, -loud, offset, -offset], dim=1)
    unit = torch.arange(UNITS)
    first = -REACH + cell * unit
    rise = (first + cell - first * math.cos(WIDEST)) / math.sin(WIDEST)
    made["h.0.mlp.c_fc.weight"][[0, 2], :UNITS] = torch.stack([first, rise]) / scale
    channel = 4 + 2 * unit
    made["wte.weight"][READERS, channel] = 1.0
    made["h.0.mlp.c_proj.weight"][unit, channel] = 1.0
    made["h.0.mlp.c_proj.weight"][unit, channel + 1] = -1.0
    return made


def read_curve(subject: Subject) -> ReadCurve | None:
    """Return the activation's curve, or None if it can't be read."""
    reading = Reading(subject, SHAPE, tensors(), READERS)
    found = reading.found(IDS)
    if found is None:
        return None
    outputs, inputs = torch.empty(0), torch.empty(0)

    class Given(CompleteGPT2):
        def activation(self, x: Tensor) -> Tensor:
            nonlocal inputs
            inputs = x[0, :, :UNITS]
            return torch.cat([outputs, torch.zeros_like(x[..., UNITS:])], dim=-1)

    logits = reading.model(Given)

    def logits_of(numbers: Tensor) -> Tensor:
        nonlocal outputs
        outputs = numbers
        return logits(IDS.expand(len(numbers), -1))

    read = solved(found[0], logits_of, UNITS)
    if read is None:
        return None
    order = inputs.flatten().argsort()
    x, y = inputs.flatten()[order], read.flatten()[order]
    file = reading.folder / "curve.json"
    file.write_text(json.dumps({"x": x.tolist(), "y": y.tolist()}), encoding="utf-8")
    return ReadCurve(file)
