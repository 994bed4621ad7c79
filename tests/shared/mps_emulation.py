"""A Mac's device, emulated: tensors say `mps:0` and compute on the CPU.

As on a Mac, no tensor there is float64, operators refuse tensors of the CPU beside those of the
device, and `F.linear` goes wrong with a weight that is a transposed view. Kernels, speed and memory
are the CPU's.
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
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

CPU, MPS = torch.device("cpu"), torch.device("mps", 0)
NO_FLOAT64 = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
    "Please use float32 instead."
)
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
# The host waits for the numbers.
LOOKS: set[Any] = {
    Tensor.tolist,
    Tensor.__float__,
    Tensor.__int__,
    Tensor.__bool__,
    Tensor.__index__,
}
LOOKS |= {Tensor.__repr__, Tensor.__format__, Tensor.untyped_storage, Tensor.data_ptr}
# What torch computes only after it has found the device's library.
ASK_FOR_THE_LIBRARY: set[Any] = {Tensor.contiguous, Tensor.nonzero, F.scaled_dot_product_attention}
ASK_FOR_THE_LIBRARY |= {Tensor.__getitem__, Tensor.__setitem__}
TAKE_INDICES_FROM_THE_CPU = (
    aten.index.Tensor,
    aten.index_put_.default,
    Tensor.__getitem__,
    Tensor.__setitem__,
)


class MPSTensor(Tensor):
    """A tensor of the device. Its numbers are in `numbers`, on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> MPSTensor:
        if numbers.dtype in (torch.float64, torch.complex128):
            raise TypeError(NO_FLOAT64)
        made = Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=MPS,
        )
        made.numbers = numbers
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LOOKS:
            return func(args[0].numbers, *args[1:], **kwargs)
        if func is Tensor.numpy:
            raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu()")
        if func is F.linear and not args[1].is_contiguous():
            raise RuntimeError("F.linear: the weight is a view, see pytorch #162730 and #197796")
        if func in ASK_FOR_THE_LIBRARY:
            check_devices(func, args, [each for each in args if isinstance(each, Tensor)])
            return on_device(func(*tree_map(on_cpu, args), **tree_map(on_cpu, kwargs)))
        # Without gradients, which would ask for the library too.
        with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return compute(func, args, kwargs or {})


class Device(TorchFunctionMode):
    """Gives the device its number, for which torch would ask the device's library."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(numbered, (args, kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == MPS:
            return func(*args, **kwargs | {"device": CPU}).to(MPS)
        return func(*args, **kwargs)


class Factories(TorchDispatchMode):
    """Makes the tensors that are asked for on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    flat = tree_flatten((args, kwargs))[0]
    tensors = [each for each in flat if isinstance(each, Tensor)]
    to = next((each for each in flat if isinstance(each, torch.device)), None)
    if to != MPS and not any(isinstance(each, MPSTensor) for each in tensors):
        return func(*args, **kwargs)
    if func.has_kernel_for_dispatch_key(COMPOSITE):  # in inference mode; else torch has done it
        with Factories():
            return func.decompose(*args, **kwargs)
    if func not in COPIES:
        check_devices(func, args, tensors)
    elif to == CPU and kwargs.get("dtype") == torch.float64:
        raise TypeError(NO_FLOAT64)  # by torch 2.13; by 2.14, the copy is full of zeros
    out = func(*tree_map(on_cpu, args), **tree_map(on_cpu, kwargs))
    if to == CPU or (func is aten.copy_.default and not isinstance(args[0], MPSTensor)):
        return out
    out = tree_map(on_device, out)
    return return_and_correct_aliasing(func, args, kwargs, out)


def numbered(each: Any) -> Any:
    return MPS if isinstance(each, str | torch.device) and str(each) == "mps" else each


def check_devices(func: Any, args: Any, tensors: list[Tensor]) -> None:
    if func in TAKE_INDICES_FROM_THE_CPU:
        tensors = [each for each in (args[0], *args[2:]) if isinstance(each, Tensor)]
    if any(each.dim() and not isinstance(each, MPSTensor) for each in tensors):
        raise RuntimeError(
            f"{func}: Expected all tensors to be on the same device, "
            "but found at least two devices, mps:0 and cpu!"
        )


def on_cpu(each: Any) -> Any:
    if isinstance(each, MPSTensor):
        return each.numbers
    return CPU if isinstance(each, torch.device) else each


def on_device(each: Any) -> Any:
    return MPSTensor(each) if isinstance(each, Tensor) else each


@contextmanager
def emulated_mps() -> Iterator[None]:
    """Give torch the device `mps` in this thread. What a tensor of it does works in all threads."""
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            mock.patch.object(torch.backends.mps, "is_available", return_value=True),
            Device(),
            Factories(),
        ):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwritten)
