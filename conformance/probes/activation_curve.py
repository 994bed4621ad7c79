"""The activation, read point by point out of one token's logits.

With `c_fc.weight` zero, hidden unit j sees its bias alone, a point of the grid. `c_proj` adds what the activation makes
of it to one residual channel and takes it from the next, so that the mean stays zero. The token's embedding has +LOUD
and -LOUD in the first two channels, which makes the final LayerNorm nearly linear, and what is left of its non-linearity
is undone exactly. One reader token a channel has that channel's unit vector as its embedding: its logit is the value.
A wider shape leaves its other channels zero, and a deeper one its other layers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import Tensors, blank
from .forward import ACTIVATIONS

GRID = sorted(
    [step * 0.15 for step in range(-40, 41)]
    + [sign * x for x in (2.7, 7, 8, 10, 12, 16, 20) for sign in (-1, 1)]
)
LOUD = 30.0
TOKEN, FIRST_READER = 5, 1000

CURVE = GPT2Config(n_positions=8, n_embd=2 + 2 * len(GRID), n_layer=1, n_head=4)


def tensors(config: GPT2Config = CURVE) -> Tensors:
    made = blank(config)
    made["wte.weight"][TOKEN, :2] = torch.tensor([LOUD, -LOUD])
    for point, x in enumerate(GRID):
        channel = 2 + 2 * point
        made["wte.weight"][FIRST_READER + point, channel] = 1.0
        made["h.0.mlp.c_fc.bias"][point] = x
        made["h.0.mlp.c_proj.weight"][point, channel : channel + 2] = torch.tensor([1.0, -1.0])
    return made


def read(logits: Tensor, config: GPT2Config = CURVE) -> Tensor:
    """The activation at GRID, float64, from the logits [vocab] that follow TOKEN.

    A logit is r = v / s, where s^2 = (2 LOUD^2 + 2 sum v^2) / n_embd + epsilon is the variance of the residual stream.
    With sum v^2 = s^2 sum r^2 this gives s^2, and with it v = r s.
    """
    # Less the logit of a token whose embedding is zero, so that it does not matter whether logits are centred.
    r = logits[FIRST_READER : FIRST_READER + len(GRID)].double() - logits[FIRST_READER - 1].double()
    n = config.n_embd
    return r * math.sqrt(
        (2 * LOUD**2 / n + config.layer_norm_epsilon)
        / max(1 - 2 * float(r.pow(2).sum()) / n, 1e-12)
    )


def expected(name: str = "tanh-GELU") -> Tensor:
    """At the points that a float32 bias can hold."""
    return ACTIVATIONS[name](torch.tensor(GRID, dtype=torch.float32).double())


def allowed(dtype: torch.dtype) -> Tensor:
    """How far off each point may be: some roundings of the value itself, and two of the embedding beside it.

    The LayerNorm's mean and variance are sums that contain LOUD, whose rounding error spreads over all channels.
    """
    return torch.finfo(dtype).eps * (8 * expected().abs() + 2 * LOUD)


def nearest(values: Tensor) -> str:
    """The known activation with the smallest root mean square difference."""
    return min(
        ACTIVATIONS,
        key=lambda name: float((values - expected(name)).nan_to_num(nan=math.inf).pow(2).mean()),
    )
