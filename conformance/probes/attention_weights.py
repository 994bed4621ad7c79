"""The attention weights of every head of a layer, read as numbers.

Attention is in one layer alone, where c_attn's bias makes every channel of each query and each key
the same, SAME: all scores are equal, and the mask alone decides. Each position that is read has a
code in wpe, +LOUD in one channel and -LOUD in the next, which ln_1 makes +-sqrt(n_embd / 2) but for
epsilon. c_attn turns the code of position p into a value in channel p of each head, and any other
code into 0, so channel p of a head's output is the weight of p times that value. c_proj writes it
to a pair of residual channels of its own, + and -, so the mean stays zero. For each pair there is a
reader token with +1/2 and -1/2 there as its embedding. Its logit is the weight, but for the final
LayerNorm, which is undone exactly. A mean that is off by rounding is so in both channels alike and
cancels. Every number in the checkpoint is a power of two, which no dtype rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import Tensors, blank
from .designs import PROBE
from .experiment import Kind
from .numbers import FIRST_READER, TOKEN, NumberProbe

LOUD, SAME = 32.0, 0.5
PAIR = torch.tensor([1.0, -1.0])

SMALL_SHAPE = GPT2Config(n_positions=16, n_embd=96, n_layer=2, n_head=2)


class AttentionWeights(NumberProbe):
    """The weights [head, query, key] of a layer, of the positions that are read."""

    right_words = "position i sees 0..i, 1/(i+1) each"

    def __init__(
        self,
        shape: GPT2Config = PROBE,
        layer: int = 0,
        dtype: torch.dtype = torch.float32,
        kinds: Mapping[str, Kind] = MappingProxyType({}),
    ) -> None:
        super().__init__(SMALL_SHAPE if shape == PROBE else shape, dtype, kinds)
        self.layer = layer % self.config.n_layer
        self.quantity = f"attention, layer {self.layer}"
        self.positions = self._positions()

    def _positions(self) -> list[int]:
        """All positions if there is room; else a third first, a third last, the others between."""
        c = self.config
        room = min(c.n_positions, c.head_width, c.n_embd // (2 * (c.n_head + 1)))
        edge, last = room // 3, c.n_positions
        between = torch.linspace(edge, last - edge - 1, room - 2 * edge).round().int().tolist()
        return [*range(edge), *between, *range(last - edge, last)]

    def cut(self) -> AttentionWeights:
        n_readers = self.config.n_head * len(self.positions)
        config = replace(self.config, n_layer=1, vocab_size=FIRST_READER + n_readers)
        return AttentionWeights(config, 0, self.dtype, self.kinds)

    @property
    def value(self) -> float:
        """The size of a code's channels after ln_1, and so of a position's value."""
        return LOUD / math.sqrt(2 * LOUD**2 / self.config.n_embd + self.config.layer_norm_epsilon)

    @property
    def gain(self) -> float:
        """The gain of value and c_proj together.

        The squares of what the first position writes, once a head, add up to about 2 LOUD^2.
        """
        wanted = LOUD * math.sqrt(2 / self.config.n_head) / self.value
        return float(2 ** round(math.log2(wanted))) * self.value

    @property
    def token_ids(self) -> Tensor:
        """A token whose embedding is zero, at every position."""
        return torch.full((1, self.config.n_positions), TOKEN)

    def tensors(self) -> Tensors:
        config, count, made = self.config, len(self.positions), blank(self.config)
        attn = f"h.{self.layer}.attn"
        made[f"{attn}.c_attn.bias"][: 2 * config.n_embd] = SAME
        for code, position in enumerate(self.positions):
            channels = slice(2 * code, 2 * code + 2)
            made["wpe.weight"][position, channels] = LOUD * PAIR
            for head in range(config.n_head):
                reader = head * count + code
                channel, first = head * config.head_width + code, 2 * (count + reader)
                pair = slice(first, first + 2)
                made[f"{attn}.c_attn.weight"][channels, 2 * config.n_embd + channel] = PAIR / 2
                made[f"{attn}.c_proj.weight"][channel, pair] = self.gain / self.value * PAIR
                made["wte.weight"][FIRST_READER + reader, pair] = PAIR / 2
        return made

    def read(self, logits: Tensor) -> Tensor:
        """Return the weights of the positions that are read.

        A logit is r = v / s with v = gain w, where s^2 = (2 LOUD^2 + 2 sum v^2) / n_embd + epsilon
        is the variance of the residual stream. With sum v^2 = s^2 sum r^2 this gives s^2, and with
        it w = r s / gain.
        """
        config, at = self.config, self.positions
        rows = logits[0, at].double()
        readers = rows[:, FIRST_READER : FIRST_READER + config.n_head * len(at)]
        # The logit of a token whose embedding is zero is subtracted: logits may be centred.
        r = readers - rows[:, FIRST_READER - 1 : FIRST_READER]  # [query, head and key]
        n = config.n_embd
        rest = (1 - 2 * r.pow(2).sum(-1, keepdim=True) / n).clamp(min=1e-12)
        s = ((2 * LOUD**2 / n + config.layer_norm_epsilon) / rest).sqrt()
        return (r * s / self.gain).view(len(at), config.n_head, len(at)).transpose(0, 1)

    @property
    def expected(self) -> Tensor:
        """1 / (i + 1) for the i + 1 positions up to i, of which those that are read are here."""
        at = torch.tensor(self.positions, dtype=torch.float64)
        weights = (1 / (at[:, None] + 1)).where(at <= at[:, None], 0.0)
        return weights.expand(self.config.n_head, -1, -1)

    def allowed(self, expected: Tensor, dtype: torch.dtype) -> Tensor:
        """Allow some roundings of the weight itself, and one of the code beside it.

        int8 rounds a whole row in steps of its largest number. `read` takes s from all of a row's
        logits: their error comes back as the (sum v^2 / LOUD^2)-fold in each weight.
        """
        beside = self.gain / LOUD
        carried = 1 + (beside * expected).pow(2).sum((0, 2), keepdim=True)[0]  # [query, 1]
        return torch.finfo(dtype).eps * (8 * expected + 1 / beside) * carried

    def reading(self, numbers: Tensor) -> tuple[Any, Any]:
        if self.right(numbers):
            off = float((numbers - self.expected).abs().max())
            return f"{self.right_words}, within {off:.1e}", self.right_words
        return self._first_wrong(numbers), self.right_words

    def describe(self, numbers: Tensor) -> str:
        return f"layer {self.layer}, {self._first_wrong(numbers)}"

    def _first_wrong(self, weights: Tensor) -> str:
        """Say what the first position whose weights are wrong sees, and what it should see."""
        errors = self.errors(weights)
        query, head = (errors > 1).any(-1).t().nonzero()[0].tolist()
        at, times = self.positions[query], float(errors[head, query].max())
        seen = self.errors(weights, 0 * self.expected)[head, query] > 1
        right = self.expected[head, query]
        return (
            f"head {head}: position {at} sees {self._in_words(weights[head, query], seen)}; "
            f"GPT-2's sees {self._in_words(right, right > 0)}. "
            f"{times:.3g} times as far off as is allowed"
        )

    def _in_words(self, weights: Tensor, seen: Tensor) -> str:
        """For example: 0..3 with 0.25 each.

        Positions that are not read count as seen between two that are.
        """
        runs: list[list[int]] = []
        for number, position in enumerate(self.positions):
            if seen[number]:
                if number == 0 or not seen[number - 1]:
                    runs.append([position, position])
                runs[-1][1] = position
        if not runs:
            return "none of those that are read"
        numbers = [f"{float(weight):.4g}" for weight in weights[seen]]
        if len(set(numbers)) == 1:
            size = numbers[0] + " each" * (len(numbers) > 1)
        else:
            size = "weights " + ", ".join(numbers[:6]) + ", ..." * (len(numbers) > 6)
        places = (f"{first}..{last}" if first < last else f"{first}" for first, last in runs)
        return f"{', '.join(places)} with {size}"
