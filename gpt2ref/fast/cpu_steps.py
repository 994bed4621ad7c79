"""Decode steps on the CPU: the step in C, if the model has one, and a sampler for single rows.

When all weights have just gone through the caches, each of torch's operators takes 10 to 100 us,
and an operator over several rows takes longer than one operator a row.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from ..generation import DecodeSteps
from ..model import KVCache
from .compiled_step import CompiledStep, compiled_step


class CPUDecodeSteps(DecodeSteps):
    @cached_property
    def compiled(self) -> CompiledStep | None:
        return None if self.cache is None else compiled_step(self.model, self.cache)

    def prefill(self, rows: list[list[int]], cache: KVCache) -> Tensor:
        if self.compiled and self.compiled.is_faster(sum(map(len, rows))):
            cache.lengths = [0] * len(rows)
            return self.compiled.feed(rows)
        return super().prefill(rows, cache)

    def feed(self, token_ids: list[int], cache: KVCache) -> Tensor:
        if self.compiled and self.compiled.is_faster(len(token_ids)):
            return self.compiled(token_ids)
        return super().feed(token_ids, cache)

    def choose(self, logits: Tensor, uniform: Tensor) -> Tensor:
        return choose_by_row(logits, uniform, temperature=self.temperature, top_k=self.top_k)


def choose_by_row(
    logits: Tensor, uniform: Tensor, *, temperature: float, top_k: int | None
) -> Tensor:
    """Choose as `sampling.choose` does, one row after the other, on the CPU."""
    if logits.dtype.itemsize < 4:
        logits = logits.float()  # the same numbers; torch finds their maximum five times as fast
    rows = zip(logits, uniform.tolist(), strict=True)
    chosen = [_choose_in_row(row, number, temperature, top_k) for row, number in rows]
    return torch.tensor(chosen, dtype=torch.int64, device="cpu")  # whatever the default is


def _choose_in_row(logits: Tensor, uniform: float, temperature: float, top_k: int | None) -> int:
    """Choose one token from logits [vocab], in as few operators as possible."""
    if temperature == 0:
        found = logits.max(0)  # the first of equal ones
        return int(found.indices) if math.isfinite(found.values) else -1
    if top_k is not None and top_k < len(logits):
        token_ids = _largest(logits, top_k)
        chosen = _choose_in_row(logits[token_ids], uniform, temperature, None)
        return chosen if chosen < 0 else int(token_ids[chosen])
    largest = float(logits.amax())
    if not math.isfinite(largest):
        return -1
    cumulative = (
        logits.to(torch.float64, copy=True).sub_(largest).div_(temperature).exp_().cumsum_(0)
    )
    return int(torch.searchsorted(cumulative, uniform * float(cumulative[-1]), right=True))


def _largest(logits: Tensor, k: int) -> Tensor:
    """Return, in order, the ids of the k largest of [vocab] and of those tied with the k-th.

    A NaN counts as the largest. To find the k-th largest of all logits takes too long, so most are
    dropped first: those below the k-th largest of the maxima of 16 logits each.
    """
    maxima = logits[: len(logits) // 16 * 16].view(16, -1).amax(0)
    bound = _kth_largest(maxima, k) if k <= len(maxima) else logits.amin()
    token_ids = _not_below(logits, bound).nonzero()[:, 0]
    logits = logits[token_ids]
    return token_ids[_not_below(logits, _kth_largest(logits, k))]


def _kth_largest(logits: Tensor, k: int) -> Tensor:
    return logits.topk(k, sorted=False).values.amin()  # sorting them would take as long again


def _not_below(logits: Tensor, bound: Tensor) -> Tensor:
    return (logits < bound).logical_not_()  # true for NaN too
