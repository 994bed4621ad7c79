"""The tokens of the generation loop, against the textbook's, which has no cache and recomputes everything."""

from __future__ import annotations

from pathlib import Path

import torch

from .checkpoints import SMALL, random_token_ids
from .oracle import expected
from .protocol import Adapter
from .requirements import requirement


def check_greedy(adapter: Adapter, checkpoint: Path, prompts: torch.Tensor, max_new_tokens: int) -> None:
    """Checks greedy tokens one by one: each must have the largest logit after all the tokens before it.

    So a near tie, which rounding may decide either way, is no mistake, and what follows a difference is judged too.
    """
    new = adapter.load(checkpoint).generate(prompts, max_new_tokens=max_new_tokens, temperature=0.0)
    lengths = [len(row) for row in new]
    assert lengths == [max_new_tokens] * len(prompts), f"{lengths} new tokens in the rows, not {max_new_tokens}"
    sequences = torch.cat([prompts, torch.tensor(new)], dim=1)
    for step in range(max_new_tokens):
        seen = sequences[:, : prompts.size(1) + step]
        truth, allowed = expected(str(checkpoint), seen[:, -SMALL.n_positions :], adapter.precision, adapter.device)
        for row, scores in enumerate(truth[:, -1]):
            token_id = new[row][step]
            # Both logits may be off by what is allowed.
            assert scores[token_id] >= scores.max() - 2 * allowed, (
                f"row {row}, step {step}: token {token_id} has logit {float(scores[token_id]):.6g}, "
                f"token {int(scores.argmax())} has {float(scores.max()):.6g}"
            )


@requirement("generation.greedy")
def test_greedy(adapter: Adapter, small: Path) -> None:
    check_greedy(adapter, small, random_token_ids(SMALL, batch=3, time=5, seed=8), max_new_tokens=12)


@requirement("generation.greedy")
def test_up_to_the_last_position(adapter: Adapter, small: Path) -> None:
    check_greedy(adapter, small, random_token_ids(SMALL, batch=2, time=SMALL.n_positions - 3, seed=9), max_new_tokens=4)


@requirement("generation.window")
def test_past_the_last_position(adapter: Adapter, small: Path) -> None:
    check_greedy(adapter, small, random_token_ids(SMALL, batch=2, time=SMALL.n_positions - 2, seed=10), max_new_tokens=8)


@requirement("generation.window")
def test_prompt_longer_than_the_context(adapter: Adapter, small: Path) -> None:
    check_greedy(adapter, small, random_token_ids(SMALL, batch=2, time=SMALL.n_positions + 4, seed=11), max_new_tokens=3)
