"""Incremental decoding: a cache may change the speed, never the logits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from .adapters.adapter import Adapter
from .adapters.protocol import Judged
from .adapters.refusal import accepted
from .checkpoints.tensors import SMALL, random_token_ids
from .judging.oracle import Expected, check_logits, expected
from .requirements import requirement

TIME = 6
PROMPT = random_token_ids(SMALL, batch=2, time=TIME, seed=5)
OTHER = random_token_ids(SMALL, batch=3, time=TIME, seed=6)


@pytest.fixture(scope="module")
def judged(adapter: Adapter, small: Path) -> Judged:
    return adapter.load(small)


def truth_of(adapter: Adapter, small: Path, token_ids: Tensor) -> Expected:
    return expected(str(small), token_ids, adapter.precision, adapter.device)


def in_pieces(judged: Judged, token_ids: Tensor, sizes: tuple[int, ...]) -> Tensor:
    first, *rest = token_ids.split(list(sizes), dim=1)
    logits, cache = judged.prefill(first)
    pieces = [logits]
    for piece in rest:
        logits, cache = judged.step(piece, cache)
        pieces.append(logits)
    return torch.cat(pieces, dim=1)


def splits(total: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to write `total` as an ordered sum: 2 ** (total - 1) of them."""
    for cuts in itertools.product([False, True], repeat=total - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [total]
        yield tuple(end - start for start, end in zip([0, *ends], ends, strict=False))


@requirement("cache.splits")
def test_every_split(adapter: Adapter, judged: Judged, small: Path) -> None:
    truth, allowed = truth_of(adapter, small, PROMPT)
    for sizes in splits(TIME):
        check_logits(
            in_pieces(judged, PROMPT, sizes),
            truth,
            allowed,
            f"{TIME} tokens fed as {'+'.join(map(str, sizes))}",
        )


@requirement("cache.splits")
def test_up_to_the_last_position(adapter: Adapter, judged: Judged, small: Path) -> None:
    token_ids = random_token_ids(SMALL, batch=1, time=SMALL.n_positions)
    truth, allowed = truth_of(adapter, small, token_ids)
    for sizes in [(SMALL.n_positions - 1, 1), (1, SMALL.n_positions - 1), (1,) * SMALL.n_positions]:
        logits = in_pieces(judged, token_ids, sizes)
        check_logits(
            logits, truth, allowed, f"{SMALL.n_positions} tokens fed in {len(sizes)} pieces"
        )


@requirement("cache.bfloat16")
def test_pieces_in_bfloat16(adapter: Adapter, small: Path) -> None:
    judged = adapter.load(small, dtype=torch.bfloat16)
    truth, allowed = expected(str(small), PROMPT, torch.bfloat16, adapter.device)
    check_logits(judged.logits(PROMPT), truth, allowed, f"{TIME} tokens at once")
    for sizes in [(2, 1, TIME - 3), (1, TIME - 1)]:
        with accepted(f"{TIME} tokens fed as {'+'.join(map(str, sizes))} in bfloat16"):
            logits = in_pieces(judged, PROMPT, sizes)
        check_logits(logits, truth, allowed, f"{TIME} tokens fed as {'+'.join(map(str, sizes))}")


@requirement("cache.branches")
def test_branches_of_one_prefix(adapter: Adapter, judged: Judged, small: Path) -> None:
    prefix, first, second = PROMPT[:, :3], PROMPT[:, 3:], OTHER[:2, 3:]
    _, cache = judged.prefill(prefix)
    _, branch = judged.step(first[:, :1], cache)
    for name, ids in [("the second branch", second), ("the first branch, after the second", first)]:
        truth, allowed = truth_of(adapter, small, torch.cat([prefix, ids], dim=1))
        logits, _ = judged.step(ids, cache)
        check_logits(logits, truth[:, 3:], allowed, name)
    truth, allowed = truth_of(adapter, small, PROMPT)
    logits, _ = judged.step(first[:, 1:], branch)
    check_logits(logits, truth[:, 4:], allowed, "the branch of one step, continued last")


@requirement("cache.second-prompt")
def test_second_prompt(adapter: Adapter, judged: Judged, small: Path) -> None:
    for batch in (1, 3, 1):
        for token_ids in (OTHER[:batch], OTHER[:batch].flip(1)):
            truth, allowed = truth_of(adapter, small, token_ids)
            logits = in_pieces(judged, token_ids, (2, 1, TIME - 3))
            check_logits(logits, truth, allowed, f"{batch} row(s), after other prompts")
