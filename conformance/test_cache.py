"""Incremental decoding: a cache may change the speed, never the logits.

The logits of the steps are compared with the implementation's own, of all tokens fed at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from .adapters.adapter import Adapter
from .adapters.own_answers import own_answer
from .adapters.protocol import Judged
from .adapters.refusal import accepted, may_refuse
from .checkpoints.tensors import SMALL, random_token_ids
from .judging.oracle import Expected, check_logits, expected
from .outcomes import Failure
from .requirements import requirement

TIME = 6
PROMPT = random_token_ids(SMALL, batch=2, time=TIME, seed=5)
OTHER = random_token_ids(SMALL, batch=3, time=TIME, seed=6)


@pytest.fixture(scope="module")
def judged(adapter: Adapter, small: Path) -> Judged:
    return adapter.load(small)


@pytest.fixture(scope="module")
def at_once(adapter: Adapter, small: Path, judged: Judged) -> Callable[[Tensor], Expected]:
    """Return the logits of tokens that are fed at once, by a second GPT-2 that has no cache."""
    judged.prefill(PROMPT)  # raises NotApplicable if there is no cache
    other = adapter.load(small)

    def logits(token_ids: Tensor) -> Expected:
        right = expected(str(small), token_ids, adapter.precision, adapter.device)
        return own_answer(other, token_ids, right)

    return logits


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
def test_every_split(judged: Judged, at_once: Callable[[Tensor], Expected]) -> None:
    truth, allowed = at_once(PROMPT)
    for sizes in splits(TIME):
        check_logits(
            in_pieces(judged, PROMPT, sizes),
            truth,
            allowed,
            f"{TIME} tokens fed as {'+'.join(map(str, sizes))}",
        )


@requirement("cache.splits")
def test_up_to_the_last_position(judged: Judged, at_once: Callable[[Tensor], Expected]) -> None:
    token_ids = random_token_ids(SMALL, batch=1, time=SMALL.n_positions)
    truth, allowed = at_once(token_ids)
    for sizes in [(SMALL.n_positions - 1, 1), (1, SMALL.n_positions - 1), (1,) * SMALL.n_positions]:
        logits = in_pieces(judged, token_ids, sizes)
        check_logits(
            logits, truth, allowed, f"{SMALL.n_positions} tokens fed in {len(sizes)} pieces"
        )


@requirement("cache.splits")
@pytest.mark.parametrize("rows", [9, 17])
def test_many_rows(judged: Judged, at_once: Callable[[Tensor], Expected], rows: int) -> None:
    """More rows than a block of 8 or 16 holds."""
    token_ids = random_token_ids(SMALL, batch=rows, time=4, seed=7)
    truth, allowed = at_once(token_ids)
    logits = in_pieces(judged, token_ids, (2, 1, 1))
    check_logits(logits, truth, allowed, f"{rows} rows of 4 tokens fed as 2+1+1")


@requirement("cache.bfloat16")
def test_pieces_in_bfloat16(adapter: Adapter, small: Path) -> None:
    judged = adapter.load(small, dtype=torch.bfloat16)
    judged.prefill(PROMPT)  # raises NotApplicable if there is no cache
    right = expected(str(small), PROMPT, torch.bfloat16, adapter.device)
    truth, allowed = own_answer(judged, PROMPT, right)
    for sizes in [(2, 1, TIME - 3), (1, TIME - 1)]:
        with accepted(f"{TIME} tokens fed as {'+'.join(map(str, sizes))} in bfloat16"):
            logits = in_pieces(judged, PROMPT, sizes)
        check_logits(logits, truth, allowed, f"{TIME} tokens fed as {'+'.join(map(str, sizes))}")


@requirement("cache.branches")
def test_branches_of_one_prefix(judged: Judged, at_once: Callable[[Tensor], Expected]) -> None:
    prefix, first, second = PROMPT[:, :3], PROMPT[:, 3:], OTHER[:2, 3:]
    _, cache = judged.prefill(prefix)
    _, branch = judged.step(first[:, :1], cache)
    for name, ids in [("the second branch", second), ("the first branch, after the second", first)]:
        truth, allowed = at_once(torch.cat([prefix, ids], dim=1))
        logits, _ = judged.step(ids, cache)
        check_logits(logits, truth[:, 3:], allowed, name)
    truth, allowed = at_once(PROMPT)
    logits, _ = judged.step(first[:, 1:], branch)
    check_logits(logits, truth[:, 4:], allowed, "the branch of one step, continued last")


@requirement("cache.second-prompt")
def test_second_prompt(judged: Judged, at_once: Callable[[Tensor], Expected]) -> None:
    for batch in (1, 3, 1):
        for token_ids in (OTHER[:batch], OTHER[:batch].flip(1)):
            truth, allowed = at_once(token_ids)
            logits = in_pieces(judged, token_ids, (2, 1, TIME - 3))
            check_logits(logits, truth, allowed, f"{batch} row(s), after other prompts")
    # The same last token of the first piece, after another one.
    token_ids = torch.cat([OTHER[1:, :1], OTHER[:2, 1:]], dim=1)
    for ids, what in [(OTHER[:2], "two rows"), (token_ids, "two rows that go on alike")]:
        truth, allowed = at_once(ids)
        logits = in_pieces(judged, ids, (2, 1, TIME - 3))
        check_logits(logits, truth, allowed, f"{what}, after other prompts")
    check_logits(judged.logits(ids), truth, allowed, "a prompt fed at once, after cached steps")


@requirement("cache.too-long")
@pytest.mark.parametrize("size", [1, 2], ids=["a-step", "a-piece-over-the-end"])
def test_a_step_past_the_last_position(judged: Judged, size: int) -> None:
    n = SMALL.n_positions
    token_ids = random_token_ids(SMALL, batch=1, time=n + 1)
    _, cache = judged.prefill(token_ids[:, : n - 1])
    _, full = judged.step(token_ids[:, n - 1 : n], cache)
    with may_refuse() as refusal:
        judged.step(token_ids[:, -size:], full if size == 1 else cache)
    if not refusal:
        raise Failure(f"a step to token {n + 1} was accepted by a model of {n} positions")
