"""Questions about tokens: the generation loop, its end, and the draw."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2ref import EOS

from ..adapters.refusal import CONTEXT, TEMPERATURE, TOP_K
from ..checkpoints.scripts import FACES, SCRIPT, by_position, chain, dice
from ..checkpoints.tensors import DICE, random_token_ids
from . import asking
from . import asking_tokens as ask
from .asking import IDS, LONG, LONG_IDS, ROWS, SMALLEST
from .checkpoints import (
    ending,
    even_die,
    loud_positions,
    plain,
    script,
    unending,
    with_fields,
)
from .question import Question

A, B, C = 11, 262, 1135
SAYING = [13, A, B, C, B, EOS, A]  # the token at position p is followed by the p-th
LINES = [13, 198, 628, 220, 0, 13, 50255]  # line ends, a space, "!" and the last token before EOS
FOLLOWERS = {A: EOS, B: C, C: B, EOS: B}
DROPOUTS = ("resid_pdrop", "attn_pdrop", "embd_pdrop")
# Prompts that are not the same: in all tokens, in all but the last one, in all but the last two.
_FIRST, _OTHER = IDS[:1, :6], IDS[1:2, :6]
IN_TURN = [
    _FIRST,
    _OTHER,
    torch.cat([_OTHER[:, :5], _FIRST[:, 5:]], 1),
    torch.cat([_FIRST[:, :4], _OTHER[:, 4:]], 1),
]
DRAWN: tuple[dict[str, Any], ...] = (
    {"temperature": 0.5, "top_k": 40},
    {"temperature": 2.0, "top_k": 2},
    {"temperature": 5.0, "top_k": 4},  # the third and the fourth face are tied
)
COLD: tuple[dict[str, Any], ...] = ({"temperature": 0.0}, {"temperature": 0.0, "top_k": 3})
# Without the rarest face, 0.956 of the probability is left. It has 0.049 of the likeliest one's.
RARE = {17: math.log(0.9), 300: math.log(0.056), 31000: math.log(0.044)}
Asking = dict[str, Any]  # the fields `ask` and `otherwise` of a question
# A hundred faces, the likeliest first. Bfloat16 has each logit, and none is rare.
HUNDRED = {token: 2.0 - 2**-7 * place for place, token in enumerate(range(250, 50250, 500))}
# A prompt of a die that says one token once, and one that says it twelve times.
ONCE, OFTEN = [9] * 11 + [17], [17] * 12
BY_TOP_K = {"temperature": 1.0, "top_k": 1}  # greedy, if temperature 0 fails


def _greedy(prompts: Tensor, n: int) -> Asking:
    """Return the ways to ask for greedy tokens: of all rows, or of the first alone."""
    rows = (prompts, prompts[:1]) if len(prompts) > 1 else (prompts,)
    return _and_by_top_k(*(partial(ask.greedy, each, n) for each in rows))


def _and_by_top_k(*asking: partial[Any]) -> Asking:
    """Return the ways to ask, each by temperature 0 and then by top_k=1."""
    ways = [way for each in asking for way in (each, partial(each, **BY_TOP_K))]
    return {"ask": ways[0], "otherwise": tuple(ways[1:])}


def of_generation() -> Iterator[Question]:
    yield Question("greedy", plain, **_greedy(IDS, 5))
    # The largest logit after the first prompt is below thousands of those after the second.
    yield Question("top_k=1 of each row", plain, lambda judged: ask.largest(judged, 292, 349))
    yield Question("the context filled", plain, **_greedy(IDS[:, :6], 7))
    yield Question("past the context", plain, **_greedy(IDS[:2], 9), about=CONTEXT)
    yield Question(
        "a prompt past the context",
        plain,
        **_greedy(random_token_ids(SMALLEST, 2, 15), 2),
        about=CONTEXT,
    )
    yield Question("no prompt", plain, **_greedy(torch.zeros(1, 0, dtype=torch.int64), 9))
    yield Question("seventeen rows", plain, **_greedy(ROWS[:, :3], 3))
    in_turn = _and_by_top_k(partial(ask.in_turn, IN_TURN))
    yield Question("a prompt after another", plain, **in_turn)
    for name, row in (("a ragged batch", [7, 300, 41]), ("a ragged batch with EOS", [7, EOS, 41])):
        ragged = partial(ask.ragged, [row, IDS[0].tolist(), [9]])
        yield Question(name, loud_positions, **_and_by_top_k(ragged))
    for field in DROPOUTS:
        dropping = partial(with_fields, {field: 0.5})
        yield Question(f"greedy with {field}", dropping, **_greedy(IDS, 5))
    dropping = partial(with_fields, dict.fromkeys(DROPOUTS, 0.5))
    # So many rows that they are not alike by chance.
    token = _and_by_top_k(partial(ask.greedy, ROWS[:, :3], 1))
    yield Question("a token with dropout", dropping, **token)
    yield Question("a trace", plain, ask.trace)
    yield Question("a trace of a ragged batch", plain, ask.trace_of_ragged)
    yield Question("a trace with dropout", dropping, ask.trace, slow=True)
    long = partial(plain, config=LONG)
    # Whole passes show what the loop should say: it is another token where the first ones differ.
    far_back = _and_by_top_k(partial(ask.own_largest, _far_back()))
    yield Question("tokens far back", long, **far_back, slow=True)


def _far_back() -> Tensor:
    """Return prompts that begin with 64 times a token of their own, and end with 258 others."""
    first = torch.tensor([[7], [3000], [20000]]).expand(-1, 64)
    return torch.cat([first, LONG_IDS[:, :258].expand(3, -1)], dim=1)


def of_stopping() -> Iterator[Question]:
    said, lines = (
        partial(script, by_position(words + [A] * (SCRIPT.n_positions - len(words))), SCRIPT)
        for words in (SAYING, LINES)
    )
    for n in (0, 1, 5, 6):
        yield Question(
            f"a script for {n} tokens", said, partial(ask.new, torch.tensor([[2, 3]]), n)
        )
    yield Question("a script of lines", lines, partial(ask.new, torch.tensor([[2, 3]]), 7))
    followed = partial(script, chain(FOLLOWERS), SCRIPT)
    yield Question(
        "rows that end",
        followed,
        partial(ask.new, torch.tensor([[C, A], [A, B], [B, C]]), 4),
    )
    yield Question("EOS in the prompt", followed, partial(ask.new, torch.tensor([[EOS, B]]), 4))
    yield Question("rows that end by chance", ending, **_greedy(ROWS[:, :3], 5))


def _die(folder: Path) -> Path:
    return script(dice(FACES), DICE, folder)


# The logits that the questions of sampling are asked with.
_FED = torch.tensor([[5, 50255, 17], [5, 0, 31000]])  # faces, too, as they follow each other
DIE = Question("a die's logits", _die, partial(asking.logits, _FED))


def of_sampling() -> Iterator[Question]:
    for options in DRAWN:
        dice_with = partial(ask.drawn, **options)
        yield Question(f"dice with {options}", _die, dice_with, slow=True)
    drawn = partial(ask.drawn, rows=32, temperature=1.0)
    yield Question("a die with rare faces", partial(script, dice(RARE), DICE), drawn, slow=True)
    halves = partial(ask.drawn_of_halves, [*HUNDRED])
    hundred = partial(script, dice(HUNDRED), DICE)
    yield Question("a die with a hundred faces", hundred, halves, slow=True)
    largest = partial(ask.own_largest, torch.arange(0, 50000, 400)[:, None])
    yield Question("its own largest logits", plain, **_and_by_top_k(largest), slow=True)
    short = partial(ask.greedy, torch.tensor([[5], [5]]), 4, greedy_by_top_k=False)
    for options in COLD:
        yield Question(f"dice with {options}", _die, partial(short, **options), about=TEMPERATURE)
    coldest = partial(ask.greedy, torch.full((ask.ALIKE, 1), 5), 2, temperature=1e-6)
    yield Question("dice with temperature=1e-6", _die, coldest)
    yield Question("dice with temperature=1e-6 in float16", _die, coldest, torch.float16, slow=True)
    yield Question("dice with top_k=1", _die, lambda judged: ask.largest(judged, 5))
    for top_k in (0, 50257, 50258, None):
        yield Question(
            f"dice with top_k={top_k}", _die, partial(ask.draws, top_k=top_k), about=TOP_K
        )
    few = partial(ask.drawn, rows=8, steps=16)
    yield Question(
        "dice with temperature=20",
        # No logit is 0: a token of zeros has no variance, and without an epsilon no norm.
        partial(script, dice({17: 11.0, 300: 1.0}), DICE),
        partial(few, temperature=20.0, top_k=2),
        slow=True,
    )
    yield Question(
        "dice far below zero",
        partial(script, dice(FACES, offset=-120.0), DICE),
        partial(few, temperature=1.0),
    )
    for below in (2**-12, 2**-9):  # float16 has no number between the two, or bfloat16 has none
        yield Question(
            f"logits {below} apart",
            partial(script, dice({50255: 2.0, 17: 2.0 - below}), DICE),
            partial(ask.larger_of_two, 50255, 17),
        )
    yield Question(
        "tokens said before",
        partial(script, dice({17: 3.0, 300: 2.9, EOS: 1.0}), DICE),
        partial(ask.greedy, torch.tensor([ONCE, OFTEN] * (ask.ALIKE // 2)), 1),
    )
    many = _and_by_top_k(partial(ask.all_tokens, 200))
    yield Question("two hundred tokens", unending, **many, slow=True)
    yield Question("an even die", even_die, ask.spread, slow=True)
    yield Question("an even die after top_k=1", even_die, ask.all_alike_after_top_k)
    yield Question("seeds", even_die, ask.seeds, slow=True)
    yield Question(
        "NaN",
        partial(script, dice({17: 1.0, 300: math.nan}), DICE),
        partial(ask.drawn, temperature=1.0),
    )
