"""Attention weights that no entry has, as they were read."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from safetensors.torch import load_file
from torch import Tensor

from .complete import CompleteGPT2
from .curve import Curve
from .read import ReadFile

_SAID = 6  # the keys that a verdict shows


class ReadAttention(ReadFile):
    """Attention with a bias for each query and key, or with a function of each score.

    `file`: safetensors of float64. `bias.H`: the bias of each head in a model of H heads,
    [head, query, key], or [1, query, key] if it is the same for all; minus infinity hides a key. A
    number of heads that is not there has no bias. `x`, `y`: the points of the function, if there is
    one. `sink`: a number that is added to the sum of the exponentials.
    """

    name = "attention-read"
    like = "window-of-eight"
    family = "attention"
    steps = frozenset({"attention_weights"})

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.file)

    @cached_property
    def curve(self) -> Curve | None:
        return Curve(self.tensors["x"], self.tensors["y"]) if "x" in self.tensors else None

    @cached_property
    def sink(self) -> float:
        return float(self.tensors["sink"])

    def bias(self, n_head: int, seen: int) -> Tensor:
        """Return the bias, float64 [head or 1, seen, seen]. It goes on as it was read."""
        read = self.tensors.get(f"bias.{n_head}", causal(1)[None])
        return torch.stack([extended(each, seen) for each in read])

    @property
    def what(self) -> str:
        said = ["Attention is none of those that are known."]
        name = max(name for name in self.tensors if name.startswith("bias."))
        read = self.tensors[name]
        if not torch.equal(read, causal(read.size(-1)).expand_as(read)):
            last = [_number(bias) for bias in read[0, -1].tolist()]
            keys = ", ".join([*last[: _SAID // 2], "...", *last[-_SAID // 2 :]])
            said.append(f"The last of {len(last)} positions adds to the scores of its keys: {keys}")
            said[-1] += f" (in head 0 of {name[5:]})." if len(read) > 1 else "."
        if self.sink:
            said.append(f"{self.sink:.4g} is added to the sum of the exponentials.")
        if self.curve:
            said.append(f"A score becomes {self.curve.in_words()}.")
        return " ".join(said)

    @cached_property
    def kind(self) -> type[CompleteGPT2]:
        read = self

        class Attention(CompleteGPT2):
            def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
                time, seen = scores.shape[-2:]
                real = mask[..., -1:, :]  # the last query sees all that is no padding
                bias = read.bias(self.n_head, seen)[:, seen - time :].to(scores)
                biased = (read.curve(scores.double()).to(scores) if read.curve else scores) + bias
                hidden = ~real | bias.isneginf()
                biased = biased.masked_fill(hidden, torch.finfo(scores.dtype).min)
                if not read.sink:
                    return biased.softmax(-1)
                sink = torch.full_like(biased[..., :1], math.log(read.sink))
                return torch.cat([biased, sink], dim=-1).softmax(-1)[..., :-1]

        return Attention


def extended(bias: Tensor, n: int) -> Tensor:
    """Return the first n rows and columns of a bias [query, key], also of more than it has.

    If it depends on the distance alone, it goes on with the distance as a straight line. Otherwise
    what was not read is right.
    """
    read = len(bias)
    if n <= read:
        return bias[:n, :n]
    by_distance = torch.cat([bias[-1, :-1], bias[0]])  # from -(read - 1) on
    distance = torch.arange(n) - torch.arange(n)[:, None]
    inside = distance.clamp(1 - read, read - 1) + read - 1
    if not torch.allclose(by_distance[inside[:read, :read]], bias, rtol=0, atol=1e-6):
        whole = causal(n)
        whole[:read, :read] = bias
        return whole
    beyond = (distance.abs() - (read - 1)).clamp(min=0)
    first, last = by_distance[0] - by_distance[1], by_distance[-1] - by_distance[-2]
    slope = torch.where(distance < 0, first, last).nan_to_num(nan=0.0)  # of two that are hidden
    return by_distance[inside] + torch.where(beyond > 0, beyond * slope, 0.0)


def causal(n: int) -> Tensor:
    """Return the right bias of n positions, float64 [query, key]."""
    hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
    return torch.zeros(n, n, dtype=torch.float64).masked_fill(hidden, -math.inf)


def _number(bias: float) -> str:
    return "hidden" if bias == -math.inf else f"{bias + 0.0:.4g}"
