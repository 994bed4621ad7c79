"""The textbook's generation loop: the oracle for every faster one.

Source: *Learn Generative AI with PyTorch*, chapter 11. There is no cache: each step feeds the whole
sequence of one row, cropped to the last `n_positions` tokens. The sampler follows its definition,
in float64, and shares no code with `gpt2ref.sampling`.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def generate(
    logits: Callable[[Tensor], Tensor],
    token_ids: Sequence[int],
    *,
    n_positions: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    eos_token_id: int | None = 50256,
) -> list[int]:
    """Return the new ids of one row, without EOS.

    `logits` maps int64 [1, time] to float [1, time, vocab].
    """
    sequence = list(token_ids) or [50256]
    uniform = random.Random(seed)
    new: list[int] = []
    for _ in range(max_new_tokens):
        scores = logits(torch.tensor([sequence[-n_positions:]]))[0, -1].double().tolist()
        token_id = next_token(scores, uniform.random(), temperature=temperature, top_k=top_k)
        if token_id == eos_token_id:
            break
        sequence.append(token_id)
        new.append(token_id)
    return new


def next_token(
    scores: list[float], uniform: float, *, temperature: float, top_k: int | None
) -> int:
    """Draw by the inverse of the cumulative distribution. A `uniform` number is in [0, 1)."""
    if temperature == 0:
        return scores.index(max(scores))
    cumulative = list(
        itertools.accumulate(distribution(scores, temperature=temperature, top_k=top_k))
    )
    return bisect.bisect_right(cumulative, uniform * cumulative[-1])


def distribution(scores: list[float], *, temperature: float, top_k: int | None) -> list[float]:
    """Return the unnormalised probability of each token.

    top_k keeps every token that is tied with the k-th largest score.
    """
    threshold = -math.inf if top_k is None or top_k >= len(scores) else sorted(scores)[-top_k]
    largest = max(scores)
    return [
        math.exp((score - largest) / temperature) if score >= threshold else 0.0 for score in scores
    ]
