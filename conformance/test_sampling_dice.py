"""Dice with very many, very rare and very close faces: what a draw must not leave out or confuse.

The chances are those of the implementation's own logits (see `test_sampling` for the other dice).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from gpt2ref import EOS

from .adapters.adapter import Adapter
from .adapters.protocol import Judged
from .checkpoints.scripts import dice
from .checkpoints.tensors import DICE
from .conftest import WriteCheckpoint
from .judging.frequencies import check_frequency, largest_count
from .naming import Named, named_by, naming
from .naming.penalties import penalty
from .naming.restrictions import restriction
from .outcomes import Failure, NotApplicable, check
from .requirements import requirement
from .test_sampling import (
    FED,
    LARGEST,
    check_possible,
    check_tokens_drawn,
    loaded,
    throw,
    throw_or_refuse,
)

# Every token but EOS, the first e times as likely as the last: a restriction has an order.
MANY = {token: -token / EOS for token in range(EOS)}
RARE_SHARE = 0.0095  # 3,200 draws without any of it have a chance of (1 - 0.0095)^3200 < e^-30
RARE = range(1000, 41000, 1000)


def chances(judged: Judged) -> Tensor:
    """Return the probability of each token, by the implementation's own logits."""
    return judged.logits(torch.tensor([[FED]]))[0, -1].softmax(-1)


@pytest.fixture(scope="module")
def many(adapter: Adapter, write: WriteCheckpoint) -> tuple[Tensor, list[int]]:
    """The probabilities of a die of 50,256 faces, and the tokens of 1,536 draws."""
    judged = loaded(adapter, write("dice-many", DICE, lambda: dice(MANY)), MANY)
    throw_or_refuse(judged, rows=1, steps=2, temperature=1.0, top_k=40)
    rows = throw(judged, temperature=1.0, top_k=None, seed=3)
    return chances(judged), list(itertools.chain(*rows))


Naming = Callable[[], Named | None]


@pytest.fixture(scope="module")
def name_restriction(adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Naming:
    """Read which tokens a draw leaves out, once for all tests that fail."""
    return cache(lambda: restriction(adapter, tmp_path_factory.mktemp("restriction")))


@pytest.fixture(scope="module")
def name_penalty(adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Naming:
    """Read what is lost by what was said, once for all tests that fail."""
    return cache(lambda: penalty(adapter, tmp_path_factory.mktemp("penalty")))


def less_likely(tokens: list[int]) -> list[int]:
    return [token for token in tokens if token >= EOS // 2]


@requirement("sampling.top-k-none")
def test_top_k_none_of_many_tokens(
    many: tuple[Tensor, list[int]], name_restriction: Naming
) -> None:
    probabilities, tokens = many
    drawn = less_likely(tokens)
    share, restricted = float(probabilities[EOS // 2 :].sum()), "" if drawn else ", none at all,"
    what = f"the less likely half of the vocabulary{restricted} with top_k None"
    with named_by(name_restriction):
        check_frequency(len(drawn), len(tokens), share, what)


@requirement("sampling.many-tokens")
def test_many_tokens(many: tuple[Tensor, list[int]]) -> None:
    """The n-th draw repeats one of those before with a chance of at most (n - 1) max(p).

    So repeats are no more than a sum of independent draws, which Chernoff's bound limits.
    """
    probabilities, tokens = many
    if not less_likely(tokens):
        raise NotApplicable("half of the tokens are never drawn, which is another mistake")
    mean = math.comb(len(tokens), 2) * float(probabilities.max())
    different, fewest = len(set(tokens)), len(tokens) - largest_count(mean)
    check(
        different >= fewest,
        f"{different} different tokens in {len(tokens)} draws from {EOS} that are nearly alike, "
        "as with probabilities, sums or random numbers in half precision",
        expected=f"at least {fewest}",
    )


@requirement("sampling.rare-tokens")
def test_rare_tokens(adapter: Adapter, name_restriction: Naming, write: WriteCheckpoint) -> None:
    """A nucleus (top-p) of up to 0.99 would leave out all 40 tokens that share a percent."""
    faces = {LARGEST: math.log(1 - RARE_SHARE)}
    faces |= {token: math.log(RARE_SHARE / len(RARE)) for token in RARE}
    judged = loaded(adapter, write("dice-rare", DICE, lambda: dice(faces)), faces)
    throw_or_refuse(judged, rows=1, steps=2, temperature=1.0, top_k=40)
    tokens: list[int] = []
    for seed in (5, 105):  # the second only if it is needed, which is once in 4 million runs
        tokens += itertools.chain(*throw(judged, steps=100, temperature=1.0, seed=seed))
        if drawn := [token for token in tokens if token != LARGEST]:
            break
    check_possible(tokens, set(faces))
    restricted = "" if drawn else ", none at all, as top-p or min-p leave out rare tokens,"
    what = f"tokens of 0.02 percent each{restricted}"
    share = float(chances(judged)[list(RARE)].sum())
    with named_by(name_restriction):
        check_frequency(len(drawn), len(tokens), share, what)


@requirement("sampling.close-logits")
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "top-k-one"])
def test_close_logits(adapter: Adapter, write: WriteCheckpoint, temperature: float) -> None:
    """The logits of two tokens are 2^-12 apart, which float16 and bfloat16 lose at 2."""
    close = {LARGEST: 2.0, 17: 2.0 - 2**-12, 31000: 1.0}
    judged = loaded(adapter, write("dice-closest", DICE, lambda: dice(close)), close)
    own = judged.logits(torch.tensor([[FED]]))[0, -1]
    if own[LARGEST] <= own[17]:
        raise NotApplicable("its own logits of the two tokens are not apart")
    top_k = 1 if temperature else None
    new = throw_or_refuse(judged, rows=2, steps=32, temperature=temperature, top_k=top_k)
    what = f"logits 2^-12 apart, temperature {temperature} and top_k {top_k}"
    check_tokens_drawn(new, {LARGEST}, what)


@requirement("sampling.repetition")
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "top-k-one"])
def test_repetition(
    adapter: Adapter, name_penalty: Naming, write: WriteCheckpoint, temperature: float
) -> None:
    """The logits of two tokens are 1/64 apart: a penalty for the first one gives the second."""
    close = {LARGEST: 2.0, 17: 2.0 - 1 / 64, 31000: 1.0}
    judged = loaded(adapter, write("dice-close", DICE, lambda: dice(close)), close)
    top_k = 1 if temperature else None
    new = throw_or_refuse(judged, rows=2, steps=48, temperature=temperature, top_k=top_k)
    for row in new:
        wrong = [step for step, token in enumerate(row) if token != LARGEST]
        if wrong:
            said, other = row[: wrong[0]], row[wrong[0]]
            unsaid = ", which was not said before" if other not in said else ""
            failure = Failure(
                f"token {other}{unsaid}, after {len(said)} times the token with the largest logit: "
                "a penalty for what was said, or n-grams that are blocked",
                expected=f"{LARGEST} at each step",
            )
            raise naming(failure, name_penalty)
