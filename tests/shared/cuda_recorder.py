"""Records the operators of a capture, and computes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
ATTENTION = aten.scaled_dot_product_attention.default
# The host waits for the results of these.
WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default}


class Step:
    """A recorded operator, its arguments and the memory of its results."""

    def __init__(self, func: Any, args: Any, kwargs: Any) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        self.results: list[Tensor] | None = None  # None: it writes into its arguments

    def replay(self) -> None:
        found = self.func(*self.args, **self.kwargs)
        if self.results is not None:
            for kept, new in zip(self.results, tensors_in(found), strict=True):
                kept.copy_(new)


class Recorder(TorchDispatchMode):
    """Records operators, which do not happen. In the memory of their results is no number yet."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import it for this, which takes a second

    def __init__(self, steps: list[Step], refuse: Callable[[str], None]) -> None:
        super().__init__()
        self.steps, self.refuse = steps, refuse

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        by_bool = func is aten.index.Tensor and any(
            i.dtype == torch.bool for i in args[1] if i is not None
        )
        if func in WAITS or by_bool:
            self.refuse(str(func))
        if func is not ATTENTION and func.has_kernel_for_dispatch_key(COMPOSITE):
            with self:
                return func.decompose(*args, **kwargs)
        aliases = [each.alias_info for each in (*func._schema.arguments, *func._schema.returns)]
        step = Step(func, args, kwargs)
        if any(alias is not None and alias.is_write for alias in aliases):
            self.steps.append(step)
            return args[0]
        if any(alias is not None for alias in aliases):
            return func(*args, **kwargs)  # a view
        results = func(*mapped(zeros_like, args), **mapped(zeros_like, kwargs))
        step.results = tensors_in(results)
        for each in step.results:
            poison(each)
        self.steps.append(step)
        return results


def tensors_in(values: Any) -> list[Tensor]:
    return [each for each in leaves(values) if isinstance(each, Tensor)]


def zeros_like(each: Any) -> Any:
    if not isinstance(each, Tensor):
        return each
    return torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device="cpu").zero_()


def mapped(change: Callable[[Any], Any], values: Any) -> Any:
    """Change what lies in tuples, lists and dicts. torch's `tree_map` takes ten times as long."""
    if isinstance(values, dict):
        return {key: mapped(change, each) for key, each in values.items()}
    if isinstance(values, (tuple, list)) and type(values) is not torch.Size:
        return type(values)([mapped(change, each) for each in values])
    return change(values)


def leaves(values: Any) -> list[Any]:
    """List what lies in tuples, lists and dicts."""
    found: list[Any] = []
    mapped(found.append, values)
    return found


def poison(tensor: Tensor) -> Tensor:
    """Fill with what no computation should see."""
    kind = tensor.dtype
    return tensor.fill_(float("nan") if kind.is_floating_point else kind == torch.bool or -7777)
