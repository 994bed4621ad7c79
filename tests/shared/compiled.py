"""Compiled decode steps for tests."""

from collections.abc import Sequence

import torch
from torch import Tensor

from conformance.judging.oracle import allowed_error
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


def logits_of(model: GPT2, rows: Rows, cache: KVCache | None = None) -> Tensor:
    """Compute the logits after the last token of each row with the model itself."""
    return model(
        torch.tensor(last(rows))[:, None], filled(model, rows) if cache is None else cache
    )[:, -1]


def furthest(logits: Tensor, truth: Tensor) -> float:
    return float((logits.double() - truth).abs().max())


def batch_outputs(model: GPT2) -> tuple[Tensor, Tensor, Tensor]:
    """Compute logits, keys and values of 32 rows of random tokens with torch."""
    shape = 32, model.config.n_positions
    token_ids = torch.randint(
        model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0)
    )
    cache = model.make_cache(len(token_ids))
    return model(token_ids, cache), cache.keys, cache.values


def allowed_errors(model: GPT2, exact: GPT2) -> list[float]:
    """Return the errors that the suite allows, given torch's in a batch.

    The errors of a single token may be tiny by chance.
    """
    pairs = zip(batch_outputs(model), batch_outputs(exact), strict=True)
    return [allowed(its, truth, model.dtype) for its, truth in pairs]


def allowed(its: Tensor, truth: Tensor, dtype: torch.dtype) -> float:
    return allowed_error(lambda _: furthest(its, truth), float(truth.abs().max()), dtype)
