"""Patches of the stack of blocks: residual stream, order of the layers, shared parts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .parts import Patch, blocks, output_changed

# A block, a function that is its attention, and the residual stream -> the stream after the block.
Forward = Callable[[Any, Callable[[Tensor], Tensor], Tensor], Tensor]


def block(forward: Forward) -> Patch:
    def patch(adapter: Any) -> None:
        for each in blocks(adapter):
            each.forward = with_attention(each, forward)

    return patch


def with_attention(each: Any, forward: Forward) -> Callable[..., Tensor]:
    def replaced(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return forward(each, lambda normed: each.attn(normed, *arguments, **options)[0], x)

    return replaced


def post_norm(each: Any, attend: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = each.ln_1(x + attend(x))
    return each.ln_2(x + each.mlp(x))


def from_normalised(each: Any, attend: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = each.ln_1(x)
    x = each.ln_2(x + attend(x))
    return x + each.mlp(x)


def no_residual(each: Any, attend: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return each.mlp(each.ln_2(attend(each.ln_1(x))))


def parallel(each: Any, attend: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return x + attend(each.ln_1(x)) + each.mlp(each.ln_2(x))


def norms_exchanged(adapter: Any) -> None:
    for each in blocks(adapter):
        each.ln_1.forward, each.ln_2.forward = each.ln_2.forward, each.ln_1.forward


def one_norm(kept: str, other: str) -> Patch:
    def patch(adapter: Any) -> None:
        for each in blocks(adapter):
            getattr(each, other).forward = getattr(each, kept).forward

    return patch


def layers(order: Callable[[int], list[int]]) -> Patch:
    """Return a patch that runs the blocks in another order.

    Each place has a cache of its own, so the blocks are copied, before any of them is changed.
    """

    def patch(adapter: Any) -> None:
        given = blocks(adapter)
        copies = [copy.deepcopy(given[number]) for number in order(len(given))]
        for place, copied in enumerate(copies):
            copied.attn.layer_idx = place
            given[place].forward = copied.forward

    return patch


def last_missing(adapter: Any) -> None:
    blocks(adapter)[-1].forward = lambda x, *_, **__: x


def attention_shared(adapter: Any) -> None:
    first, *others = blocks(adapter)
    for each in others:
        shared = copy.copy(first.attn)  # its weights are the same, and its place in the cache not
        shared.layer_idx = each.attn.layer_idx
        each.attn.forward = shared.forward


def mlp_shared(adapter: Any) -> None:
    first, *others = blocks(adapter)
    for each in others:
        each.mlp.forward = first.mlp.forward


def branches_divided(factor: int) -> Patch:
    def patch(adapter: Any) -> None:
        root = math.sqrt(factor * len(blocks(adapter)))
        output_changed("c_proj", change=lambda _, output: output / root)(adapter)

    return patch


PATCHES: dict[str, Patch] = {
    "post-ln": block(post_norm),
    "residual-from-normalised": block(from_normalised),
    "residual-missing": block(no_residual),
    "parallel-residual": block(parallel),
    "branches-scaled": branches_divided(2),
    "branches-scaled-by-n_layer": branches_divided(1),
    "ln1-ln2-swapped": norms_exchanged,
    "ln_1-for-both": one_norm("ln_1", "ln_2"),
    "ln_2-for-both": one_norm("ln_2", "ln_1"),
    "layers-reversed": layers(lambda n: list(range(n))[::-1]),
    "layer-order-lexicographic": layers(lambda n: sorted(range(n), key=str)),
    "first-layer-shared": layers(lambda n: [0] * n),
    "last-layer-shared": layers(lambda n: [n - 1] * n),
    "last-layer-missing": last_missing,
    "attention-shared": attention_shared,
    "mlp-shared": mlp_shared,
}
