"""From logits to the next token: temperature, then top-k, then a draw.

These are pure functions that change nothing in place. The order, and the treatment of ties, are
those of OpenAI's `sample.py`. Probabilities and their cumulative sums are float64, so that the draw
depends on the logits alone. A Mac's device has no float64: give `logits.cpu()`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .arguments import check_sampling


def next_token(
    logits: Tensor, uniform: Tensor, *, temperature: float = 1.0, top_k: int | None = None
) -> Tensor:
    """Choose one token a row: float [batch, vocab], float64 [batch] in [0, 1) -> int64 [batch].

    Temperature 0 is greedy: it takes the first of equal maxima and ignores `uniform`. Raises
    ValueError if a row's largest logit is not a finite number, and what `check_sampling` raises.
    """
    temperature, top_k = check_sampling(temperature, top_k)
    token_ids = choose(logits, uniform, temperature=temperature, top_k=top_k)
    check_chosen(dict(enumerate(token_ids.tolist())))
    return token_ids


def choose(
    logits: Tensor, uniform: Tensor, *, temperature: float | Tensor, top_k: int | None
) -> Tensor:
    """Choose as `next_token` does, with -1 for a row whose largest logit is not a finite number.

    Checks nothing, and never waits for the device. A `temperature` given as a tensor is above 0.
    """
    possible = logits.amax(dim=-1).isfinite()
    if not isinstance(temperature, Tensor) and temperature == 0:
        chosen = logits.argmax(dim=-1)
    else:
        chosen = draw(probabilities(logits, temperature=temperature, top_k=top_k), uniform)
    return torch.where(possible, chosen, -1)


def check_chosen(token_ids: Mapping[int, int]) -> None:
    """Raise ValueError if `choose` found no token for some of the rows: row number -> token id."""
    if rows := [row for row, token_id in token_ids.items() if token_id < 0]:
        raise ValueError(
            f"logits: the largest one is not a finite number in row(s) {rows}, "
            "so no token can be chosen"
        )


def probabilities(
    logits: Tensor, *, temperature: float | Tensor = 1.0, top_k: int | None = None
) -> Tensor:
    """softmax(logits / temperature) over the top_k largest: [..., vocab] -> float64 [..., vocab].

    Every token tied with the k-th largest logit stays in. `temperature` must be above 0.
    """
    # The maximum is subtracted first, so that the quotient can't overflow at tiny temperatures.
    scaled = (logits.double() - logits.double().amax(-1, keepdim=True)) / temperature
    if top_k is not None and top_k < logits.size(-1):
        kth_largest = logits.topk(top_k).values[..., -1:]
        scaled = scaled.masked_fill(logits < kth_largest, float("-inf"))
    return scaled.softmax(-1)


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Invert the cumulative distribution: [batch, vocab], [batch] in [0, 1) -> int64 [batch].

    Returns the first token whose cumulative probability exceeds `uniform`, both float64. A token of
    probability 0 is never drawn.
    """
    cumulative = probabilities.cumsum(-1)
    drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    drawn.clamp_(max=probabilities.size(-1) - 1)  # NaN would lead beyond
    # A device that sums in parallel rounds differently from place to place, so a sum may rise a
    # little at a token of probability 0. A draw that falls there takes the first possible token.
    first = torch.searchsorted(cumulative, torch.zeros_like(cumulative[:, -1:]), right=True)
    return torch.where(probabilities.gather(-1, drawn) > 0, drawn, first)[:, 0]
