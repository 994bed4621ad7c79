"""Weights from a seed and a counter, exact in any language.

The integer of a counter is, with all arithmetic modulo 2^32,

    x = counter * 0x9E3779B9 + seed
    x = (x xor x >> 16) * 0x85EBCA6B
    x = (x xor x >> 13) * 0xC2B2AE35
    k = (x xor x >> 16) >> 8                        24 bits, so a float32 holds it
    weight = float32(mean + half_range * (k - 2^23) / 2^23)

The mean and the half range are multiples of 2^-16, so a double holds the sum exactly. The rounding
to float32 is the one that there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import Tensors, shapes

_MASK = 2**32 - 1
_HALF = 2**23
LOW_ROW = 1 / 64  # the factor of row 0 of wte and of wpe, whose variance is then near epsilon
# The last part of a name, with its module -> mean and half range. A matrix has the range of its
# module divided by the root of its number of rows.
_RANGES = {
    "wte.weight": (0.0, 0.25),
    "wpe.weight": (0.0, 0.125),
    "ln_f.weight": (3.0, 0.75),
    "ln_f.bias": (0.0, 0.5),
    "ln_1.weight": (1.0, 0.5),
    "ln_1.bias": (0.0, 0.375),
    "ln_2.weight": (1.0, 0.5),
    "ln_2.bias": (0.0, 0.375),
    "c_attn.bias": (0.0, 0.5),
    "c_fc.bias": (0.0, 0.5),
    "c_proj.bias": (0.0, 0.1875),
}
_OF_MATRICES = {"c_attn": 2.0, "c_fc": 2.0, "c_proj": 0.875}


@dataclass(frozen=True)
class Rule:
    """How a tensor is made: `first` is the counter of its first value, in row-major order."""

    name: str
    shape: tuple[int, ...]
    first: int
    mean: float
    half_range: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"shape": list(self.shape)}


def integers(seed: int, first: int, n: int) -> Tensor:
    """Return the integers of n counters, int64 [n], each below 2^24."""
    # A product that leaves int64 keeps its lowest bits.
    x = (torch.arange(first, first + n) * 0x9E3779B9 + seed) & _MASK
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _MASK
    return (x ^ (x >> 16)) >> 8


def made(rule: Rule, seed: int) -> Tensor:
    """Return the float32 tensor of a rule."""
    k = integers(seed, rule.first, math.prod(rule.shape))
    return (rule.mean + rule.half_range * (k - _HALF).double() / _HALF).float().view(rule.shape)


def rules(config: GPT2Config) -> Iterator[Rule]:
    """Yield the rules of a checkpoint that is like a trained one (see `tensors.trained_like`)."""
    first = 0
    for name, shape in shapes(config).items():
        module = ".".join(name.split(".")[-2:])
        if module in _RANGES:
            mean, half_range = _RANGES[module]
        else:
            exact = _OF_MATRICES[name.split(".")[-2]] / math.sqrt(shape[0])
            mean, half_range = 0.0, round(exact * 1024) / 1024
        yield Rule(name, tuple(shape), first, mean, half_range)
        first += shape.numel()


def trained_like(config: GPT2Config, seed: int) -> Tensors:
    """Return weights under which mistakes show."""
    tensors = {rule.name: made(rule, seed) for rule in rules(config)}
    tensors["wte.weight"][0] *= LOW_ROW
    tensors["wpe.weight"][0] *= LOW_ROW
    return tensors


def token_ids(vocab_size: int, batch: int, time: int, seed: int) -> list[list[int]]:
    """Return ids [batch][time]. The first row begins with token 0, whose variance is low."""
    ids = (integers(seed, 0, batch * time) % vocab_size).view(batch, time)
    ids[0, 0] = 0
    return ids.tolist()
