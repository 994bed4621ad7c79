"""Compiled decode steps for tests."""

from collections.abc import Sequence

from gpt2ref import GPT2, KVCache, compile_step
from gpt2ref.conversion import Layout
from gpt2ref.fast.compiled_step import CompiledStep, compiled_step
from gpt2ref.generation import prefill

Rows = Sequence[list[int]]


def with_step(model: GPT2) -> GPT2:
    """Return the model with its step compiled."""
    compile_step(model)
    return model


def stored(model: GPT2, order: Layout) -> GPT2:
    """Return the model with the matrices of its blocks stored in this order."""
    for parameter in model.transformer.h.parameters():
        if parameter.dim() == 2:
            matrix = parameter.data
            in_out = order == "in_out"
            parameter.data = matrix.t().contiguous().t() if in_out else matrix.contiguous()
    return model


def step_of(model: GPT2, cache: KVCache) -> CompiledStep:
    """Return the compiled step of a model that must have one for this cache."""
    step = compiled_step(model, cache)
    assert step is not None
    return step


def filled(model: GPT2, rows: Rows) -> KVCache:
    """Make a cache that holds all tokens of each row but the last."""
    cache = model.make_cache(len(rows), max(map(len, rows)))
    prefill(model, [row[:-1] or [0] for row in rows], cache)
    cache.lengths = [len(row) - 1 for row in rows]
    return cache


def last(rows: Rows) -> list[int]:
    """Return the last token of each row."""
    return [row[-1] for row in rows]
