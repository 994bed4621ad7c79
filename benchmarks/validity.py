"""Judge whether the tokens that were timed are right.

One plain forward pass of the reference, without a cache, over a row's prompt and its new tokens
gives the logits that each new token should have been chosen from. A token is right if logits within
the rounding error of these would have given it. So each token is judged by its own past, and a near
tie is no failure.
"""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import torch
from torch import Tensor

from gpt2ref import EOS, GPT2

from .implementations import TokenIds
from .sampling import Sampling

# The rounding error of a logit, in units of the dtype's epsilon at the row's largest logit.
# Measured on trained-like weights, between one-token steps with a cache and the plain forward pass:
# up to 11, 12 and 15 in float32 for 124M, 355M and 774M, up to 2.0 in bfloat16, and up to 1.7 in
# float16 (the two smaller). A little more than twice that is allowed.
ERROR_UNITS = {torch.float32: 40, torch.bfloat16: 4, torch.float16: 4}

# Where the draws can't be predicted, tokens are invalid if a uniform draw, of them all or of one of
# them, explains them this many times better than the model does. For a right implementation the
# probability of that is below 1 in as many, since the mean of such a ratio is 1 (Markov's
# inequality).
ODDS = 1e9


class Verdict(NamedTuple):
    valid: bool
    reason: str | None  # why it is not valid
    tokens_checked: int
    near_ties: int  # tokens that are right within the rounding error alone


def judge(
    model: GPT2, prompts: TokenIds, new: TokenIds, sampling: Sampling, seed: int | None
) -> Verdict:
    """Judge the new ids of each row, and stop at the first wrong one.

    `seed` predicts the draws (see `Implementation.foretold`). It is None if they can't be
    predicted.
    """
    checked, near_ties, log_ratios = 0, 0, []
    for row, (prompt, ids) in enumerate(zip(prompts, new, strict=True)):
        logits = plain_logits(model, prompt, ids)
        chosen = torch.tensor(ids, device=logits.device)
        uniform = None if seed is None else _uniform(seed + row, len(ids)).to(logits.device)
        # Without EOS, whose logit the weights make far lower (`weights.never_eos`).
        largest = float(logits[:, :EOS].abs().max())
        error = ERROR_UNITS[model.dtype] * torch.finfo(model.dtype).eps * largest
        right = admitted(logits, chosen, sampling, uniform, error)
        checked += len(ids)
        if not right.all():
            step = int(right.int().argmin())
            gap = float(logits[step].max() - logits[step, ids[step]])
            token = f"row {row}, new token {step}: {ids[step]}"
            reason = (
                f"{token}, with a logit {gap:.3g} below the largest, "
                f"is not {_right_token(sampling, seed)}"
            )
            return Verdict(False, reason, checked, near_ties)
        near_ties += int((~admitted(logits, chosen, sampling, uniform, 0.0)).sum())
        if uniform is None and not sampling.greedy:
            log_ratios.append(log_uniform_over_model(logits, chosen, sampling, error))
    if log_ratios and (log_odds := log_evidence(torch.cat(log_ratios))) > math.log(ODDS):
        reason = (
            f"a uniform draw explains them, or one of them, e^{log_odds:.0f} times better "
            "than the model does"
        )
        return Verdict(False, reason, checked, near_ties)
    return Verdict(True, None, checked, near_ties)


@torch.inference_mode()
def plain_logits(model: GPT2, prompt: list[int], new: list[int]) -> Tensor:
    """Return the logits that each new token is chosen from: float64 [len(new), vocab]."""
    fed = torch.tensor([prompt + new[:-1]], device=model.device)
    return model.head(model.transformer(fed)[0, len(prompt) - 1 :]).double()


# The functions below take the time steps of a row: logits [time, vocab]; chosen (token ids),
# uniform and what is returned [time].


def admitted(
    logits: Tensor, chosen: Tensor, sampling: Sampling, uniform: Tensor | None, error: float
) -> Tensor:
    """Return whether logits within `error` of these may have given each chosen token."""
    if sampling.greedy:
        return in_top_k(logits, chosen, 1, error)
    if uniform is None:
        return in_top_k(logits, chosen, sampling.top_k, error)
    return drawn(logits, chosen, uniform, sampling, error)


def in_top_k(logits: Tensor, chosen: Tensor, top_k: int | None, error: float) -> Tensor:
    """Return whether each chosen token may be among the `top_k` largest, ties included."""
    own = logits.gather(-1, chosen[:, None])
    return (own >= _kth_largest(logits, top_k) - 2 * error)[:, 0]  # each of the two has an error


def drawn(
    logits: Tensor, chosen: Tensor, uniform: Tensor, sampling: Sampling, error: float
) -> Tensor:
    """Return whether each chosen token may be the first with a cumulative probability > `uniform`.

    Logits that are off by up to `error` change the odds of any set of tokens by a factor of at most
    exp(2 error / temperature), and may bring tokens within 2 error of the k-th largest logit into
    the top k, or out of it.
    """
    kth_largest = _kth_largest(logits, sampling.top_k)
    weight = ((logits - logits.amax(-1, keepdim=True)) / sampling.temperature).exp()
    certain = weight * (logits >= kth_largest + 2 * error)
    possible = weight * (logits >= kth_largest - 2 * error)

    token_ids = torch.arange(logits.size(-1), device=logits.device)
    earlier, later = token_ids < chosen[:, None], token_ids > chosen[:, None]
    stretch = math.exp(2 * error / sampling.temperature)
    # P(earlier) <= uniform < P(earlier or chosen), with each side written as odds, a / b <= u / (1
    # - u), and multiplied out.
    below, not_below = (certain * earlier).sum(-1), (possible * ~earlier).sum(-1)
    above, not_above = (certain * later).sum(-1), (possible * ~later).sum(-1)
    lower = below * (1 - uniform) <= stretch * uniform * not_below
    upper = above * uniform < stretch * (1 - uniform) * not_above
    return lower & upper & in_top_k(logits, chosen, sampling.top_k, error)


def log_uniform_over_model(
    logits: Tensor, chosen: Tensor, sampling: Sampling, error: float
) -> Tensor:
    """Return the log of how many times likelier a uniform draw from the top k gives each token.

    All rounding counts in favour of the model.
    """
    support = logits >= _kth_largest(logits, sampling.top_k) - 2 * error
    log_model = (logits / sampling.temperature).masked_fill(~support, -math.inf).log_softmax(-1)
    most = log_model.gather(-1, chosen[:, None])[:, 0] + 2 * error / sampling.temperature
    return -support.sum(-1).log() - most


def log_evidence(log_ratios: Tensor) -> float:
    """Return the log of the mean of two ratios: all tokens drawn uniformly, and any one of them."""
    every, any_one = log_ratios.sum(), log_ratios.logsumexp(0) - math.log(len(log_ratios))
    return float(torch.logaddexp(every, any_one)) - math.log(2)


def _kth_largest(logits: Tensor, top_k: int | None) -> Tensor:
    """Return the k-th largest logit, [time, 1], or minus infinity without a restriction."""
    if top_k is None or top_k >= logits.size(-1):
        return torch.full_like(logits[:, :1], -math.inf)
    return logits.topk(top_k).values[:, -1:]


def _uniform(seed: int, steps: int) -> Tensor:
    generator = random.Random(seed)
    return torch.tensor([generator.random() for _ in range(steps)], dtype=torch.float64)


def _right_token(sampling: Sampling, seed: int | None) -> str:
    if sampling.greedy:
        return "the likeliest token"
    return f"among the top {sampling.top_k}" if seed is None else "the token that the seed draws"
