"""The activation, read point by point out of the logits of one token.

With `c_fc.weight` zero, hidden unit j sees its bias alone, a point of the grid. `c_proj` adds the
activation of it to one residual channel and subtracts it from the next, so the mean stays zero. The
token's embedding has +LOUD and -LOUD in the first two channels, which makes the final LayerNorm
nearly linear; the rest of its non-linearity is undone exactly. For each value there is a reader
token whose embedding is the unit vector of its channel, so its logit is the value. A wider shape
leaves its other channels zero, and a deeper one its other layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import Tensors, blank
from .designs import PROBE
from .experiment import Kind
from .numbers import FIRST_READER, TOKEN, NumberProbe

GRID = sorted(
    [step * 0.15 for step in range(-40, 41)]
    + [sign * x for x in (2.7, 7, 8, 10, 12, 16, 20) for sign in (-1, 1)]
)
LOUD = 30.0

SMALL_SHAPE = GPT2Config(n_positions=8, n_embd=2 + 2 * len(GRID), n_layer=1, n_head=4)


class ActivationCurve(NumberProbe):
    """The activation at GRID, [point]."""

    quantity = "activation"
    right_words = "tanh-GELU"

    def __init__(
        self,
        shape: GPT2Config = PROBE,
        dtype: torch.dtype = torch.float32,
        kinds: Mapping[str, Kind] = MappingProxyType({}),
    ) -> None:
        super().__init__(SMALL_SHAPE if shape == PROBE else shape, dtype, kinds)

    def cut(self) -> ActivationCurve:
        config = replace(self.config, n_layer=1, vocab_size=FIRST_READER + len(GRID))
        return ActivationCurve(config, self.dtype, self.kinds)

    def tensors(self) -> Tensors:
        made = blank(self.config)
        made["wte.weight"][TOKEN, :2] = torch.tensor([LOUD, -LOUD])
        for point, x in enumerate(GRID):
            channel = 2 + 2 * point
            made["wte.weight"][FIRST_READER + point, channel] = 1.0
            made["h.0.mlp.c_fc.bias"][point] = x
            pair = torch.tensor([1.0, -1.0])
            made["h.0.mlp.c_proj.weight"][point, channel : channel + 2] = pair
        return made

    @property
    def token_ids(self) -> Tensor:
        return torch.tensor([[TOKEN]])

    def read(self, logits: Tensor) -> Tensor:
        """Return the activation at GRID.

        A logit is r = v / s, where s^2 = (2 LOUD^2 + 2 sum v^2) / n_embd + epsilon is the variance
        of the residual stream. With sum v^2 = s^2 sum r^2 this gives s^2, and with it v = r s.
        """
        last = logits[0, 0].double()
        # The logit of a token whose embedding is zero is subtracted: logits may be centred.
        r = last[FIRST_READER : FIRST_READER + len(GRID)] - last[FIRST_READER - 1]
        n = self.config.n_embd
        rest = max(1 - 2 * float(r.pow(2).sum()) / n, 1e-12)
        return r * math.sqrt((2 * LOUD**2 / n + self.config.layer_norm_epsilon) / rest)

    @property
    def expected(self) -> Tensor:
        """GELU at the points as a float32 bias holds them."""
        points = torch.tensor(GRID, dtype=torch.float32).double()
        return F.gelu(points, approximate="tanh")

    def allowed(self, expected: Tensor, dtype: torch.dtype) -> Tensor:
        """Allow some roundings of the value itself, and two of the embedding beside it.

        The LayerNorm's mean and variance are sums that contain LOUD, whose rounding error spreads
        over all channels. A shift is rounded in two logits, by half a unit in the last place each.
        """
        beside = 2 * LOUD + self.shift * LOUD * math.sqrt(2 / self.config.n_embd)
        return torch.finfo(dtype).eps * (8 * expected.abs() + beside)

    def reading(self, numbers: Tensor) -> tuple[Any, Any]:
        points = torch.tensor(GRID)
        return (
            torch.stack([points, numbers], -1).tolist(),
            torch.stack([points, self.expected], -1).tolist(),
        )

    def describe(self, numbers: Tensor) -> str:
        worst = int(self.errors(numbers).argmax())
        return (
            f"at {GRID[worst]:.4g} the activation is {float(numbers[worst]):.6g}, should be "
            f"{float(self.expected[worst]):.6g}. No known mistake gives this curve; the nearest is "
            f"{self.nearest(numbers)}"
        )

    def nearest(self, numbers: Tensor) -> str:
        """Return the id of the mistake with the smallest root mean square difference."""

        def mean_square(name: str) -> float:
            difference = numbers - self.numbers_of(self.kinds[name])
            return float(difference.nan_to_num(nan=math.inf).pow(2).mean())

        return min(self.kinds, key=mean_square)
