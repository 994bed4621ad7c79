"""The forward pass of a captured step, compiled by torch.compile on request.

torch then makes kernels of its own, each of which does the work of several operators, and tries
which products are fastest on the device. That takes minutes for each new shape: a number of rows, a
size of the cache, and the bucket of positions that is read.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..model import GPT2, KVCache
from .compiled_step import wants_compiled_step
from .slower import warn_slower

# The graph is captured with all else that a step does, so torch captures none.
OPTIONS: dict[str, Any] = {
    "mode": "max-autotune-no-cudagraphs",
    "fullgraph": True,
    "dynamic": False,
}

Forward = Callable[[GPT2, Tensor, Tensor, int, KVCache], Tensor]

_compiled: WeakKeyDictionary[GPT2, dict[Hashable, Forward]] = WeakKeyDictionary()


def next_logits(
    model: GPT2, token_ids: Tensor, positions: Tensor, seen: int, cache: KVCache
) -> Tensor:
    """Feed each row one token: int64 [batch, 1], twice -> logits of the next ones [batch, vocab].

    The mask and the cache end at position `seen`.
    """
    return model.head(model.transformer.run(token_ids, positions, seen, cache)[:, -1])


def fastest_next_logits(model: GPT2, cache: KVCache, seen: int) -> Forward:
    """Return `next_logits`, compiled for these shapes if `compile_step(model)` was called."""
    if not wants_compiled_step(model):
        return next_logits
    made = _compiled.setdefault(model, {})
    shapes = model.dtype, cache.keys.shape, seen
    if shapes not in made:
        made[shapes] = _or_plain(made, shapes, _compile())
    return made[shapes]


def _compile() -> Forward:
    # torch compiles a function for eight shapes at most, and counts by its code. So each gets its
    # own.
    code = next_logits.__code__.replace()
    compiled: Forward = torch.compile(types.FunctionType(code, globals()), **OPTIONS)
    return compiled


def _or_plain(made: dict[Hashable, Forward], shapes: Hashable, compiled: Forward) -> Forward:
    """Return a function that computes plainly from the first time that compiling fails."""

    def forward(
        model: GPT2, token_ids: Tensor, positions: Tensor, seen: int, cache: KVCache
    ) -> Tensor:
        try:
            return compiled(model, token_ids, positions, seen, cache)
        except Exception as error:  # no compiler, or one that torch can't use
            made[shapes] = next_logits
            warn_slower("torch.compile failed", error)
            return next_logits(model, token_ids, positions, seen, cache)

    return forward
