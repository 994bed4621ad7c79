"""Sums in the order of their terms, so that every machine gives the same digits.

A product of matrices is rounded otherwise by each library, processor and number of threads. Within
`InOrder`, products, means and softmaxes add up their terms one by one, as the plainest loop in any
language does. That is also the sound implementation whose error the allowed error is a multiple of.
exp, tanh and their like are computed in float64, by sums and products too (see `elementary`), and
then rounded. So nothing is left to the machine but what IEEE 754 lays down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from . import elementary


def _sum_type(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of a sum: half precision is added up in float32, as everybody does."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _product(a: Tensor, b: Tensor) -> Tensor:
    kind = _sum_type(a.dtype)
    wide_a, wide_b = a.to(kind), b.to(kind)
    total = wide_a[..., :, 0, None] * wide_b[..., 0, None, :]
    product = torch.empty_like(total)
    for term in range(1, a.size(-1)):
        torch.mul(wide_a[..., :, term, None], wide_b[..., term, None, :], out=product)
        total += product
    return total.to(a.dtype)


def _einsum(equation: str, a: Tensor, b: Tensor) -> Tensor:
    if equation != "bhqd,bhkd->bhqk":
        raise TypeError(equation)
    return _product(a, b.mT)


def _sum(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    sums = np.add.accumulate(x.to(_sum_type(x.dtype)).numpy(), dim)
    total = torch.from_numpy(sums).select(dim, -1).to(x.dtype)
    return total.unsqueeze(dim) if keepdim else total


def _mean(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    return _sum(x, dim, keepdim) / x.size(dim)


def _variance(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    squares = (x - _mean(x, dim, keepdim=True)).pow(2)
    return _sum(squares, dim, keepdim) / (x.size(dim) - 1)


def _softmax(x: Tensor, dim: int) -> Tensor:
    wide = x.to(_sum_type(x.dtype))
    terms = elementary.exp(wide - wide.amax(dim, keepdim=True))
    return (terms / _sum(terms, dim, keepdim=True)).to(x.dtype)


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate != "none":
        raise TypeError(approximate)
    return 0.5 * x * (1 + elementary.erf(x / math.sqrt(2)))


_IN_ORDER: dict[Any, Callable[..., Tensor]] = {
    torch.matmul: _product,
    torch.Tensor.matmul: _product,
    torch.Tensor.__matmul__: _product,
    torch.einsum: _einsum,
    torch.softmax: _softmax,
    torch.Tensor.softmax: _softmax,
    F.softmax: _softmax,
    F.gelu: _gelu,
    torch.Tensor.sum: _sum,
    torch.Tensor.mean: _mean,
    torch.mean: _mean,
    torch.Tensor.var: _variance,
    **{
        getattr(place, name): getattr(elementary, name)
        for name in ("sqrt", "exp", "tanh", "sigmoid", "erf")
        for place in (torch, torch.Tensor)
    },
}


class InOrder(TorchFunctionMode):
    """The mode. What it can't do, such as a mean of all numbers, torch does as it does.

    `drew`: whether a generator of torch's was drawn from, whose numbers differ between machines.
    """

    drew = False

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.drew |= bool(kwargs and kwargs.get("generator"))
        own = _IN_ORDER.get(func)
        if own is not None and isinstance(args[0], (Tensor, str)):
            try:
                return own(*args, **kwargs or {})
            except (TypeError, IndexError):  # other arguments than those of a GPT-2
                pass
        return func(*args, **kwargs or {})
