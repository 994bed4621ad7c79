"""The ways to ask an implementation for tokens: of one call, of several calls, of a die."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gpt2ref import EOS

from ..adapters.protocol import Judged
from ..outcomes import NotApplicable
from .asking import IDS
from .question import SEVERAL

FED = 5  # the prompt of a die, whose logits are the same after any token
ENDED = -1  # in the place of a token after a row's end
ALIKE = 8  # rows of one prompt, so many that two likely tokens show whether chance decides


class Frequencies(Counter[int]):
    """How often each token was drawn."""


# Greedy tokens.


def new(prompts: Tensor, n: int, judged: Judged, **options: Any) -> list[list[int]]:
    return judged.generate(prompts, max_new_tokens=n, **{"temperature": 0.0, "seed": 7} | options)


def greedy(prompts: Tensor, n: int, judged: Judged, **options: Any) -> Any:
    return _whatever_the_seed(lambda seed: new(prompts, n, judged, seed=seed, **options))


def in_turn(prompts: Sequence[Tensor], judged: Judged, **options: Any) -> Any:
    """Return two new tokens of each prompt. They are given one after the other."""
    return _whatever_the_seed(
        lambda seed: [row for each in prompts for row in new(each, 2, judged, seed=seed, **options)]
    )


def ragged(prompts: list[list[int]], judged: Judged, **options: Any) -> Any:
    options = {"max_new_tokens": 4, "temperature": 0.0} | options
    return _whatever_the_seed(lambda seed: judged.generate_ragged(prompts, seed=seed, **options))


def _whatever_the_seed(generate: Callable[[int], list[list[int]]]) -> Any:
    """Return the tokens, or SEVERAL if chance decides, as another generator has others."""
    rows = generate(7)
    return rows if generate(8) == rows else SEVERAL


def own_largest(prompts: Tensor, judged: Judged, **options: Any) -> Any:
    """Return whether the token after each prompt is the one with its own largest logit."""
    rows = greedy(prompts, 1, judged, **options)
    largest = judged.logits(prompts)[:, -1].argmax(-1, keepdim=True)
    return rows if rows == SEVERAL else rows == largest.tolist()


def all_tokens(n: int, judged: Judged, **options: Any) -> Any:
    """Return whether there are as many new tokens as were asked for."""
    rows = greedy(torch.tensor([[FED]]), n, judged, **options)
    return rows if rows == SEVERAL else [len(row) for row in rows] == [n]


def trace(judged: Judged) -> list[bool]:
    """Return whether logits are bit by bit the same after a call of generate.

    The second time, there is room for as many tokens again.
    """
    return [_traceless(judged, IDS, judged.generate, ids) for ids in (IDS, IDS[:, :3])]


def trace_of_ragged(judged: Judged) -> bool:
    prompts = [IDS[0, :1].tolist(), IDS[1, :3].tolist(), IDS[2, :2].tolist()]
    return _traceless(judged, IDS[:, :5], judged.generate_ragged, prompts)


def _traceless(
    judged: Judged, token_ids: Tensor, generate: Callable[..., Any], prompts: Any
) -> bool:
    before = judged.logits(token_ids)
    generate(prompts, max_new_tokens=3, temperature=1.0)
    return torch.equal(judged.logits(token_ids), before)


# Dice.


def draws(judged: Judged, top_k: int | None) -> bool:
    """Return whether anything is drawn."""
    return bool(_thrown(judged, rows=2, steps=2, temperature=5.0, top_k=top_k))


def drawn(judged: Judged, rows: int = 16, steps: int = 32, **options: Any) -> Frequencies:
    """Return how often each token was drawn. What shares a draw counts as one."""
    given = _rows(judged, rows, steps, **options)
    # Chance decides when a row ends, so what follows its end is counted, too.
    return Frequencies(_independent([row + [ENDED] * (steps - len(row)) for row in given]))


def drawn_of_halves(faces: Sequence[int], judged: Judged) -> Frequencies:
    """Return how often a face of each half was drawn, under the first face of that half."""
    half = len(faces) // 2
    first = dict.fromkeys(faces[:half], faces[0]) | dict.fromkeys(faces[half:], faces[half])
    frequencies = Frequencies()
    for token, n in drawn(judged, rows=8, temperature=1.0).items():
        frequencies[first.get(token, token)] += n
    return frequencies


def spread(judged: Judged) -> list[Any]:
    """Return how many tokens are of each half of the vocabulary, and how many came before.

    And whether any are of the last hundredth: by chance, none are once in 10^8. What shares a draw
    counts as one, and then there are too few to tell.
    """
    rows = _rows(judged, rows=32, steps=64)
    tokens = _independent(rows)
    halves = Frequencies(token < EOS // 2 for token in tokens)
    again = Frequencies({True: len(set(tokens)), False: len(tokens) - len(set(tokens))})
    few = len(tokens) < sum(map(len, rows))
    return [halves, again, few or any(token > 0.9905 * EOS for token in tokens)]


def all_alike_after_top_k(judged: Judged) -> bool:
    """Return whether all draws are alike after a call with top_k=1."""
    _thrown(judged, rows=2, steps=1, top_k=1)
    return len(set(_thrown(judged, rows=4, steps=4))) == 1


def _thrown(judged: Judged, rows: int, steps: int, **options: Any) -> list[int]:
    return [token for row in _rows(judged, rows, steps, **options) for token in row]


def _rows(judged: Judged, rows: int, steps: int, **options: Any) -> list[list[int]]:
    prompts = torch.full((rows, 1), FED)
    return judged.generate(prompts, max_new_tokens=steps, **{"temperature": 1.0} | options)


def _independent(rows: list[list[int]]) -> list[int]:
    """Return the tokens that do not share a draw: of one row, or the first of each row, or all.

    Likely tokens may make some rows alike by chance.
    """
    rows_alike = all(row == rows[0] for row in rows)
    steps_alike = all(len(set(row)) == 1 for row in rows)
    if rows_alike and not steps_alike:
        return rows[0]
    if steps_alike and not rows_alike:
        return [row[0] for row in rows]
    return [token for row in rows for token in row]


def largest(judged: Judged, *prompts: int) -> list[Any]:
    """Return the token that each prompt of one token is followed by, with top_k=1.

    It is SEVERAL where chance decides: where two tokens are left, or all logits are equal. Other
    random numbers then give other tokens.
    """
    rows = torch.tensor(prompts).repeat_interleave(12)[:, None]
    new = judged.generate(rows, max_new_tokens=1, temperature=5.0, top_k=1)
    groups = (new[start : start + 12] for start in range(0, len(new), 12))
    return [each[0] if all(row == each[0] for row in each) else SEVERAL for each in groups]


def larger_of_two(larger: int, smaller: int, judged: Judged) -> list[Any]:
    """Return what is chosen greedily and with top_k=1, if its own logits are apart."""
    own = judged.logits(torch.tensor([[FED]]))[0, -1]
    if own[larger] <= own[smaller]:
        raise NotApplicable("its own logits of the two tokens are not apart")
    return [greedy(torch.full((ALIKE, 1), FED), 1, judged), *largest(judged, FED)]


def seeds(judged: Judged) -> list[bool]:
    """Return which draws are alike. The die has so many faces that none are so by chance."""

    def draw(seed: int, rows: int = 4) -> list[list[int]]:
        prompts = torch.full((rows, 1), FED)
        return judged.generate(prompts, max_new_tokens=4, temperature=1.0, seed=seed)

    before = torch.get_rng_state()
    first = draw(11)
    moved = not torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    other, zero, nine = draw(12), draw(0), draw(11, rows=9)
    return [
        moved,
        draw(11) == first,
        other == first,
        draw(11 + 2**16) == first,
        draw(0) == zero,
        draw(42) == zero,
        [row[:1] for row in other] == [row[:1] for row in first],
        [row[-1:] for row in other] == [row[-1:] for row in first],
        all(row == first[0] for row in first),
        all(row[-1:] == first[0][-1:] for row in first),
        any(row[1:] == later[:-1] for row, later in pairwise(first)),
        nine[8] == nine[0],
        all(len(set(row)) == 1 for row in first),
    ]
