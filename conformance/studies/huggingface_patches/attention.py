"""Patches of attention: the scale, the mask, the softmax, the heads, the order of q, k and v."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from .parts import Patch, attentions

# The mask as it is, and the numbers of keys and of earlier keys -> which keys a query sees.
Mask = Callable[[Tensor, int, int], Tensor]
# The scaled scores, and which keys a query sees -> the weights.
Weights = Callable[[Tensor, Tensor], Tensor]


def scaled_by(factor: Callable[[Any], float]) -> Patch:
    """Return a patch that gives 1/sqrt(head width) a factor, where the config asks for a scale."""

    def patch(adapter: Any) -> None:
        for attention in attentions(adapter):
            if attention.scale_attn_weights:
                attention.scaling *= factor(attention)

    return patch


def scaled_by_layer(adapter: Any) -> None:
    for attention in attentions(adapter):
        attention.scaling /= attention.layer_idx + 1


SCALES = {
    "no-scale": scaled_by(lambda attention: math.sqrt(attention.head_dim)),
    "scale-by-n-embd": scaled_by(lambda attention: 1 / math.sqrt(attention.num_heads)),
    "scale-without-root": scaled_by(lambda attention: 1 / math.sqrt(attention.head_dim)),
    "scale-by-n-head": scaled_by(
        lambda attention: math.sqrt(attention.head_dim / attention.num_heads)
    ),
    "scale-by-layer": scaled_by_layer,
}


def masked(change: Mask) -> Patch:
    """Return a patch that changes the mask, which is 0 for a key that is seen."""

    def hidden(_: Any, given: Any, options: dict[str, Any]) -> Any:
        mask = options["attention_mask"]
        time, seen = mask.shape[-2:]
        visible = change(mask == 0, seen, seen - time)
        least = torch.finfo(mask.dtype).min
        changed = mask.new_zeros(visible.shape).masked_fill(~visible, least)
        return given, options | {"attention_mask": changed}

    def patch(adapter: Any) -> None:
        for attention in attentions(adapter):
            attention.register_forward_pre_hook(hidden, with_kwargs=True)

    return patch


def real(visible: Tensor) -> Tensor:
    """Return which keys are no padding: those that the last query sees."""
    return visible[..., -1:, :]


def triangle(change: Callable[[Tensor], Tensor]) -> Patch:
    """Return a patch with another set of visible keys than the lower triangle of ones."""

    def rows(visible: Tensor, seen: int, past: int) -> Tensor:
        ones = torch.ones(seen, seen, dtype=torch.bool, device=visible.device)
        return change(ones)[past:] & real(visible)

    return masked(rows)


def from_first_key(visible: Tensor, seen: int, past: int) -> Tensor:
    time = seen - past
    return torch.ones(time, seen, dtype=torch.bool).tril() & real(visible)


def none_when_cached(visible: Tensor, _: int, past: int) -> Tensor:
    return real(visible).expand_as(visible) if past else visible


def corner_beside_the_past(visible: Tensor, seen: int, past: int) -> Tensor:
    time = seen - past
    corner = torch.ones(time, time, dtype=torch.bool).tril() & visible[..., -1:, :time]
    earlier = torch.ones_like(visible[..., :past])
    return torch.cat([corner.expand(*visible.shape[:-1], time), earlier], dim=-1)


def every_other_bit_lost(visible: Tensor, seen: int, past: int) -> Tensor:
    even = torch.arange(seen) % 2 == 0
    return visible & even | torch.eye(seen, dtype=torch.bool)[past:]


def last_block_lost(visible: Tensor, seen: int, past: int) -> Tensor:
    if not past or seen % 64:
        return visible
    before = torch.arange(seen) < seen - 64
    return visible & (before | torch.eye(seen, dtype=torch.bool)[past:])


MASKS = {
    "no-causal-mask": triangle(lambda ones: ones),
    "mask-inverted": triangle(torch.triu),
    "mask-negated": triangle(lambda ones: ones.triu(1)),
    "mask-sees-next": triangle(lambda ones: ones.tril(1)),
    "mask-hides-self": triangle(lambda ones: ones.tril(-1)),
    "mask-flipped-keys": triangle(lambda ones: ones.tril().flip(1)),
    "window-of-eight": triangle(lambda ones: ones.tril().triu(-7)),
    "uninitialised-buffer": masked(every_other_bit_lost),
    "sdpa-causal-top-left": masked(from_first_key),
    "mask-none-when-cached": masked(none_when_cached),
    "mask-slice-rows-cols": masked(corner_beside_the_past),
    "block-of-64-lost": masked(last_block_lost),
}


def attention_function(name: str, attend: Callable[..., Tensor]) -> Patch:
    """Return a patch that registers another attention function, and uses it.

    It is given the query, key and value [batch, n_head, time, head_dim], the mask and the scale.
    """
    own = f"patched-{name}"

    def forward(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        scaling: float,
        **_: Any,
    ) -> tuple[Tensor, None]:
        del module
        return attend(query, key, value, mask, scaling).transpose(1, 2), None

    def patch(adapter: Any) -> None:
        AttentionInterface.register(own, forward)
        AttentionMaskInterface.register(own, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
        adapter.model.config._attn_implementation = own

    return patch


def weighted(name: str, weights: Weights) -> Patch:
    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        return weights(query @ key.mT * scaling, mask == 0) @ value

    return attention_function(name, attend)


def with_past(name: str, change: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> Patch:
    """Return a patch that changes copies of keys and values, given how many are in the cache."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        if past := key.size(2) - query.size(2):
            key, value = change(key.clone(), value.clone(), past)
        return (query @ key.mT * scaling + mask).softmax(-1) @ value

    return attention_function(name, attend)


def filled(scores: Tensor, visible: Tensor) -> Tensor:
    return scores.masked_fill(~visible, torch.finfo(scores.dtype).min)


def past_zeroed(key: Tensor, value: Tensor, past: int) -> tuple[Tensor, Tensor]:
    key[:, :, :past], value[:, :, :past] = 0.0, 0.0
    return key, value


def past_in_half(key: Tensor, value: Tensor, past: int) -> tuple[Tensor, Tensor]:
    for each in (key, value):
        each[:, :, :past] = each[:, :, :past].bfloat16().to(each.dtype)
    return key, value


SOFTMAX: dict[str, Weights] = {
    "mask-after-softmax": lambda scores, visible: scores.softmax(-1) * visible,
    "mask-multiplied": lambda scores, visible: (scores * visible).softmax(-1),
    "softmax-wrong-axis": lambda scores, visible: filled(scores, visible).softmax(-2),
    "softmax-over-heads": lambda scores, visible: filled(scores, visible).softmax(1),
}
PAST = {
    "cache-silently-unused": past_zeroed,
    "cache-in-half": past_in_half,
}


def number_of_heads(number: Callable[[int], int]) -> Patch:
    def patch(adapter: Any) -> None:
        for attention in attentions(adapter):
            width = attention.embed_dim // number(attention.num_heads)
            if attention.scale_attn_weights:
                attention.scaling *= math.sqrt(attention.head_dim / width)
            attention.head_dim = width

    return patch


def projected(rearrange: Callable[[Tensor, int], Tensor]) -> Patch:
    """Return a patch that puts c_attn's output in another order, given the number of heads."""

    def patch(adapter: Any) -> None:
        for attention in attentions(adapter):
            attention.c_attn.register_forward_hook(
                lambda _, __, qkv, heads=attention.num_heads: rearrange(qkv, heads)
            )

    return patch


def each_third(rearrange: Callable[[Tensor, int], Tensor]) -> Patch:
    return projected(
        lambda qkv, heads: torch.cat([rearrange(x, heads) for x in qkv.chunk(3, dim=-1)], dim=-1)
    )


def merged(rearrange: Callable[[Tensor], Tensor]) -> Patch:
    """Return a patch that merges [batch, n_head, time, head_dim] in another way."""

    def patch(adapter: Any) -> None:
        for attention in attentions(adapter):
            attention.c_proj.register_forward_pre_hook(
                lambda _, given, heads=attention.num_heads: rearrange(
                    given[0].unflatten(-1, (heads, -1)).transpose(1, 2)
                )
            )

    return patch


def order(names: str) -> Callable[[Tensor, int], Tensor]:
    def ordered(qkv: Tensor, _: int) -> Tensor:
        thirds = dict(zip(names, qkv.chunk(3, dim=-1), strict=True))
        return torch.cat([thirds["q"], thirds["k"], thirds["v"]], dim=-1)

    return ordered


def in_first_block(adapter: Any) -> None:
    first, change = attentions(adapter)[0], order("qvk")
    first.c_attn.register_forward_hook(lambda _, __, qkv: change(qkv, first.num_heads))


def split_by_view(x: Tensor, heads: int) -> Tensor:
    return x.reshape(len(x), heads, x.size(1), -1).transpose(1, 2).flatten(2)


def interleaved(qkv: Tensor, heads: int) -> Tensor:
    return qkv.unflatten(-1, (heads, 3, -1)).transpose(-3, -2).flatten(-3)


HEADS = {
    "n-head-wrong": number_of_heads(lambda n: n // 2 if n % 2 == 0 else 1),
    "n-head-twice": number_of_heads(lambda n: 2 * n),
    "n-head-one": number_of_heads(lambda _: 1),
    "heads-split-by-view": each_third(split_by_view),
    "head-dims-interleaved": each_third(
        lambda x, heads: x.unflatten(-1, (-1, heads)).transpose(-1, -2).flatten(-2)
    ),
    "head-merge-by-view": merged(lambda x: x.reshape(len(x), x.size(2), -1)),
    "head-merge-interleaved": merged(lambda x: x.permute(0, 2, 3, 1).flatten(2)),
    "qkv-order": projected(order("kqv")),
    "qkv-order-vkq": projected(order("vkq")),
    "qkv-order-qvk": projected(order("qvk")),
    "qkv-order-kvq": projected(order("kvq")),
    "qkv-order-vqk": projected(order("vqk")),
    "qkv-order-qvk-in-first-block": in_first_block,
    "qkv-interleaved": projected(interleaved),
}
PATCHES: dict[str, Patch] = (
    SCALES
    | MASKS
    | {name: weighted(name, weights) for name, weights in SOFTMAX.items()}
    | {name: with_past(name, change) for name, change in PAST.items()}
    | HEADS
)
