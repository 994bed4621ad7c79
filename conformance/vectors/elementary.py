"""exp, tanh, erf and others by sums, products and quotients alone.

Each processor and each library rounds the last digit of these functions otherwise, that of a square
root among them. IEEE 754 leaves no choice in a sum, a product, a quotient or its own root. So these
give the same bits everywhere. They are right to 5e-15, in proportion above 1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_LOG_2 = math.log(2)
_LOG_2_HIGH = float.fromhex("0x1.62e42fefp-1")  # 33 bits: its product with a power of 2 is exact
_LOG_2_LOW = float.fromhex("0x1.473de6af278edp-34")
_TERMS_OF_EXP = 14  # of an argument up to log(2) / 2: the next one is below 1e-18
_END_OF_ERF = 6.0  # from here on it is 1
_TERMS_OF_ERF = 160


def sqrt(x: Tensor) -> Tensor:
    """Return the root, rounded once. torch may take that of a library, which rounds otherwise."""
    return torch.from_numpy(np.asarray(np.sqrt(x.double().numpy()))).to(x.dtype)


def exp(x: Tensor) -> Tensor:
    bounded = x.double().clamp(-800, 800)
    power = (bounded / _LOG_2).round()
    rest = (bounded - power * _LOG_2_HIGH) - power * _LOG_2_LOW
    total = torch.zeros_like(rest)
    for term in reversed(range(_TERMS_OF_EXP)):
        total.mul_(rest).add_(1 / math.factorial(term))
    half = (power / 2).floor()  # a factor of 2^power itself may be out of range
    return (total * _power_of_2(half) * _power_of_2(power - half)).to(x.dtype)


def _power_of_2(power: Tensor) -> Tensor:
    return ((power.nan_to_num().long() + 1023) << 52).view(torch.float64)


def tanh(x: Tensor) -> Tensor:
    wide = x.double()
    small = exp(-2 * wide.abs())
    found = (1 - small) / (1 + small)
    return torch.where(wide < 0, -found, found).to(x.dtype)


def sigmoid(x: Tensor) -> Tensor:
    return (1 / (1 + exp(-x.double()))).to(x.dtype)


def erf(x: Tensor) -> Tensor:
    """Return erf by its series in which all terms have one sign."""
    wide = x.double().clamp(-_END_OF_ERF, _END_OF_ERF)
    term = total = wide
    for number in range(1, _TERMS_OF_ERF):
        term = term * (wide * wide) * 2 / (2 * number + 1)
        total = total + term
    found = total * exp(-wide * wide) * (2 / math.sqrt(math.pi))
    return found.clamp(-1, 1).to(x.dtype)
