"""Sums in the order of their terms, so that every version of torch gives the same digits.

A product of matrices is rounded otherwise by each library, processor and number of threads. Within
`InOrder`, products, means and softmaxes add up their terms one by one, as the plainest loop in any
language does. That is also the sound implementation whose error the allowed error is a multiple of.
What is left to the machine is exp and tanh, which are computed in float64 and then rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _sum_type(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of a sum: half precision is added up in float32, as everybody does."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _product(a: Tensor, b: Tensor) -> Tensor:
    kind = _sum_type(a.dtype)
    wide_a, wide_b = a.to(kind), b.to(kind)
    total = wide_a[..., :, 0, None] * wide_b[..., 0, None, :]
    for term in range(1, a.size(-1)):
        total = total + wide_a[..., :, term, None] * wide_b[..., term, None, :]
    return total.to(a.dtype)


def _sum(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    terms = x.to(_sum_type(x.dtype)).movedim(dim, 0).contiguous()
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    total = total.to(x.dtype)
    return total.unsqueeze(dim) if keepdim else total


def _mean(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    return _sum(x, dim, keepdim) / x.size(dim)


def _softmax(x: Tensor, dim: int) -> Tensor:
    wide = x.to(_sum_type(x.dtype))
    terms = (wide - wide.amax(dim, keepdim=True)).double().exp().to(wide.dtype)
    return (terms / _sum(terms, dim, keepdim=True)).to(x.dtype)


def _tanh(x: Tensor) -> Tensor:
    return x.double().tanh().to(x.dtype)


_IN_ORDER: dict[Any, Callable[..., Tensor]] = {
    torch.matmul: _product,
    torch.Tensor.matmul: _product,
    torch.Tensor.__matmul__: _product,
    torch.softmax: _softmax,
    torch.Tensor.softmax: _softmax,
    F.softmax: _softmax,
    torch.Tensor.mean: _mean,
    torch.mean: _mean,
    torch.tanh: _tanh,
    torch.Tensor.tanh: _tanh,
}


class InOrder(TorchFunctionMode):
    """The mode. What it can't do, such as a mean of all numbers, torch does as it does."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        own = _IN_ORDER.get(func)
        if own is not None and isinstance(args[0], Tensor) and args[0].is_floating_point():
            try:
                return own(*args, **kwargs or {})
            except (TypeError, IndexError):  # other arguments than those of a GPT-2
                pass
        return func(*args, **kwargs or {})
