"""The parts of transformers' GPT-2 that patches change, and the hooks that change them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

# Changes a loaded adapter (see adapters/huggingface.py) in place. It is Any to the type checker, as
# methods are replaced.
Patch = Callable[[Any], None]
Change = Callable[[Any, Tensor], Tensor]  # a module and a tensor -> another tensor
NORMS = ("ln_1", "ln_2", "ln_f")
PROJECTIONS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def blocks(adapter: Any) -> list[Any]:
    return list(adapter.model.transformer.h)


def attentions(adapter: Any) -> list[Any]:
    return [block.attn for block in blocks(adapter)]


def modules(adapter: Any, *endings: str) -> list[Any]:
    """Return the modules whose names end so, such as `ln_1` or `mlp.c_proj`."""
    found = adapter.model.transformer.named_modules()
    return [
        module for name, module in found if f".{name}".endswith(tuple(f".{e}" for e in endings))
    ]


def output_changed(*endings: str, change: Change) -> Patch:
    """Return a patch that changes what these modules return."""

    def patch(adapter: Any) -> None:
        for module in modules(adapter, *endings):
            module.register_forward_hook(lambda module, _, output: change(module, output))

    return patch


def input_changed(*endings: str, change: Change) -> Patch:
    """Return a patch that changes what these modules are given."""

    def patch(adapter: Any) -> None:
        for module in modules(adapter, *endings):
            module.register_forward_pre_hook(lambda module, given: change(module, given[0]))

    return patch


def forward_replaced(*endings: str, forward: Change) -> Patch:
    """Return a patch that replaces the forward pass of these modules."""

    def patch(adapter: Any) -> None:
        for module in modules(adapter, *endings):
            module.forward = lambda x, module=module: forward(module, x)

    return patch


def set_to(tensor: Tensor, value: Tensor) -> None:
    """Give a parameter another value, of another shape if need be."""
    tensor.data = value.detach().clone()


def check_length(end: int, rows: int) -> None:
    """Raise IndexError beyond the table of positions, as the lookup in it does.

    It is transformers' only check of the length, so a patch of the positions must keep it.
    """
    if end > rows:
        raise IndexError(f"{end} positions are asked for, and wpe has {rows}")
