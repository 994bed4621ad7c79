"""A Mac's device, emulated: tensors say `mps:0` and compute on the CPU.

As on a Mac, no tensor there is float64, operators refuse tensors of the CPU beside those of the
device, and `F.linear` fails with a weight that is a transposed view. Kernels, speed and memory are
the CPU's. A float64 within one of torch's functions goes unseen if its result is not float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, MPS = torch.device("cpu"), torch.device("mps", 0)
DEVICES = {"cpu": CPU, "mps": MPS, "mps:0": MPS}
NO_FLOAT64 = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
    "Please use float32 instead."
)
ATTRIBUTES: dict[Any, Any] = {
    Tensor.device.__get__: MPS,
    Tensor.is_cpu.__get__: False,  # type: ignore[attr-defined]
    Tensor.is_mps.__get__: True,  # type: ignore[attr-defined]
}


class MPSTensor(Tensor):
    """A tensor of the device. Its numbers are in `numbers`, on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> MPSTensor:
        if numbers.dtype in (torch.float64, torch.complex128):
            raise TypeError(NO_FLOAT64)
        made = Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=numbers.dtype, device=MPS)
        made.numbers = numbers
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ATTRIBUTES:
            return ATTRIBUTES[func]
        kwargs = kwargs or {}
        check(func, args, kwargs)
        result = func(*tree_map(on_cpu, args), **tree_map(on_cpu, kwargs))
        if func is Tensor.cpu or asked_for(args, kwargs) == CPU:
            return result.clone()
        if args and isinstance(args[0], Tensor) and result is on_cpu(args[0]):
            return args[0]  # changed in place, or not at all
        return tree_map(on_device, result)

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        raise NotImplementedError(
            f"{func}: called without a function of torch, which the emulation can't follow"
        )


class Factories(TorchFunctionMode):
    """Makes and moves the tensors that are asked for on the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.as_tensor and isinstance(args[0], MPSTensor):
            return args[0]  # torch does not ask the class
        if func is torch.device or asked_for(args, kwargs) != MPS:
            return func(*args, **kwargs)
        result = func(*map(on_cpu, args), **{key: on_cpu(each) for key, each in kwargs.items()})
        if not isinstance(result, Tensor):  # it only reads its arguments
            return func(*args, **kwargs)
        if args and result is on_cpu(args[0]):
            return args[0] if isinstance(args[0], MPSTensor) else MPSTensor(result.clone())
        return on_device(result)


def asked_for(args: Any, kwargs: Any) -> torch.device | None:
    """Return the device that is among the arguments."""
    for each in (*args, *kwargs.values()):
        if isinstance(each, torch.device):
            return MPS if each.type == "mps" else each
        if isinstance(each, str) and each in DEVICES:
            return DEVICES[each]
    return None


def check(func: Any, args: Any, kwargs: Any) -> None:
    """Raise what a Mac raises."""
    double = any(each is torch.float64 for each in (*args[1:], *kwargs.values()))
    if func is Tensor.to and double and asked_for(args, kwargs) == CPU:
        raise TypeError(NO_FLOAT64)  # by torch 2.13; by 2.14, the copy is full of zeros
    if func is Tensor.numpy:
        raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu()")
    if func is F.linear and not args[1].is_contiguous():
        raise RuntimeError("F.linear: the weight is a view, see pytorch #162730 and #197796")
    if func in (Tensor.__getitem__, Tensor.__setitem__):  # indices may be the CPU's
        args = args[0], *args[2:]
    elif func in (Tensor.copy_, torch._has_compatible_shallow_copy_type):
        return
    if any(each.dim() for each in tree_leaves((args, kwargs)) if is_of_the_cpu(each)):
        raise RuntimeError(
            f"{func.__name__}: Expected all tensors to be on the same device, "
            "but found at least two devices, mps:0 and cpu!"
        )


def on_cpu(each: Any) -> Any:
    if isinstance(each, MPSTensor):
        return each.numbers
    is_device = isinstance(each, torch.device) or (isinstance(each, str) and each in DEVICES)
    return CPU if is_device else each


def on_device(each: Any) -> Any:
    return MPSTensor(each) if is_of_the_cpu(each) else each


def is_of_the_cpu(each: Any) -> bool:
    return isinstance(each, Tensor) and not isinstance(each, MPSTensor)


@contextmanager
def emulated_mps() -> Iterator[None]:
    """Give torch the device `mps` in this thread. What a tensor of it does works in all threads."""
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            mock.patch.object(torch.backends.mps, "is_available", return_value=True),
            Factories(),
        ):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwritten)
