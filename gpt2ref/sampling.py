"""From logits to the next token: temperature, then top-k, then a draw. Pure functions that change nothing in place.

The order and the treatment of ties are those of OpenAI's `sample.py`. Probabilities and their cumulative sums are
float64, so that the draw depends on the logits alone.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor


def next_token(
    logits: Tensor, uniform: Tensor, *, temperature: float = 1.0, top_k: int | None = None
) -> Tensor:
    """One token a row: logits float [batch, vocab] and uniform float64 [batch] in [0, 1) -> int64 [batch].

    Temperature 0 is greedy (the first of equal maxima) and does not look at `uniform`. Raises ValueError if a row has
    a NaN, an infinite maximum or nothing but minus infinity, and for arguments that `check_sampling` refuses.
    """
    check_sampling(temperature, top_k)
    token_ids = choose(logits, uniform, temperature=temperature, top_k=top_k)
    refuse((token_ids < 0).nonzero().flatten().tolist())
    return token_ids


def choose(
    logits: Tensor, uniform: Tensor, *, temperature: float | Tensor, top_k: int | None
) -> Tensor:
    """As `next_token`, with -1 for a row in which no token can be chosen. Checks nothing, and never waits for the device."""
    if logits.dtype.itemsize < 4:
        logits = (
            logits.float()
        )  # the same numbers, in which the CPU looks for the largest five times as fast
    if logits.device.type == "cpu":
        rows = zip(logits, uniform.tolist(), strict=True)
        return torch.tensor(
            [_choose_alone(row, number, float(temperature), top_k) for row, number in rows],
            dtype=torch.int64,
        )
    possible = logits.amax(dim=-1).isfinite()
    if not isinstance(temperature, Tensor) and temperature == 0:
        return torch.where(possible, logits.argmax(dim=-1), -1)
    return torch.where(
        possible, draw(probabilities(logits, temperature=temperature, top_k=top_k), uniform), -1
    )


def _choose_alone(logits: Tensor, uniform: float, temperature: float, top_k: int | None) -> int:
    """The same for one row on the CPU, logits [vocab], in as few operations as will do.

    When all weights have just gone through the caches, each takes 10 to 100 us, and rows at once take longer than one by one.
    What top_k leaves is looked at by itself, which elsewhere would have to wait for how much that is.
    """
    if temperature == 0:
        found = logits.max(0)  # the first of equal ones
        return int(found.indices) if math.isfinite(found.values) else -1
    if top_k is not None and top_k < len(logits):
        token_ids = _largest(logits, top_k)
        place = _choose_alone(logits[token_ids], uniform, temperature, None)
        return place if place < 0 else int(token_ids[place])
    largest = float(logits.amax())
    if not math.isfinite(largest):
        return -1
    cumulative = (
        logits.to(torch.float64, copy=True).sub_(largest).div_(temperature).exp_().cumsum_(0)
    )
    return int(torch.searchsorted(cumulative, uniform * float(cumulative[-1]), right=True))


def _largest(logits: Tensor, k: int) -> Tensor:
    """The places of the k largest of [vocab] and of those tied with the last, in order; a NaN counts as the largest.

    To look for a thousand among all takes longer than a step can wait; the k-th largest of a few is a bound for that of all.
    """
    some = logits[: len(logits) // 16 * 16].view(16, -1).amax(0)
    bound = _kth_largest(some, k) if k <= len(some) else logits.amin()
    places = _not_below(logits, bound).nonzero()[:, 0]
    logits = logits[places]
    return places[_not_below(logits, _kth_largest(logits, k))]


def _kth_largest(logits: Tensor, k: int) -> Tensor:
    return logits.topk(k, sorted=False).values.amin()  # to sort them takes as long again


def _not_below(logits: Tensor, bound: Tensor) -> Tensor:
    return (logits < bound).logical_not_()  # nor is NaN


def refuse(rows: list[int]) -> None:
    """Raises ValueError if there are any rows in which no token could be chosen."""
    if rows:
        raise ValueError(
            f"logits: the largest one is not a finite number in row(s) {rows}, so no token can be chosen"
        )


def probabilities(
    logits: Tensor, *, temperature: float | Tensor = 1.0, top_k: int | None = None
) -> Tensor:
    """softmax(logits / temperature) over the top_k largest logits: [..., vocab] -> float64 [..., vocab].

    Every token tied with the k-th largest logit stays in. `temperature` must be above 0.
    """
    # A copy of our own, so what follows may be in place. Subtracting the maximum first keeps the quotient from
    # overflowing at tiny temperatures.
    scaled = (
        logits.to(torch.float64, copy=True).sub_(logits.amax(-1, keepdim=True)).div_(temperature)
    )
    if top_k is not None and top_k < logits.size(-1):
        kth_largest = logits.topk(top_k).values[..., -1:]
        scaled.masked_fill_(logits < kth_largest, float("-inf"))
    return scaled.softmax(-1)


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse of the cumulative distribution: float64 [batch, vocab], float64 [batch] in [0, 1) -> int64 [batch].

    The first token whose cumulative probability exceeds `uniform`. A token of probability 0 is never drawn.
    """
    cumulative = probabilities.cumsum(-1)
    drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    drawn.clamp_(max=probabilities.size(-1) - 1)  # beyond which NaN would lead
    # A device that sums in parallel rounds here and there, so a sum may rise a little at a token of probability 0. Should
    # the draw fall just there, the first token that is possible stands in for it.
    first = torch.searchsorted(cumulative, torch.zeros_like(cumulative[:, -1:]), right=True)
    return torch.where(probabilities.gather(-1, drawn) > 0, drawn, first)[:, 0]


def check_sampling(temperature: float, top_k: int | None) -> None:
    """Raises TypeError or ValueError, naming the argument, its value and what is allowed."""
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise TypeError(f"temperature={temperature!r}: expected a number")
    if not 0 <= temperature <= sys.float_info.max:
        raise ValueError(f"temperature={temperature}: expected a finite number of at least 0")
    if top_k is not None:
        if isinstance(top_k, bool) or not isinstance(top_k, int):
            raise TypeError(f"top_k={top_k!r}: expected an integer or None")
        if top_k < 1:
            raise ValueError(f"top_k={top_k}: expected at least 1, or None for no restriction")
