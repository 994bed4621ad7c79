"""Names what a draw leaves out unasked: top-k, top-p, min-p or epsilon."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..adapters.adapter import Adapter
from ..checkpoints.scripts import dice
from ..checkpoints.tensors import DICE, write_checkpoint
from . import Named, id_with_number

SMALL_DICE = replace(DICE, vocab_size=8192)  # with fewer tokens, a draw is cheaper
LIKELY, FED = 8191, 5
ROWS, STEPS = 16, 64
LARGEST_K, THROWS = 1100, 12  # 12,288 draws miss one of 1,100 tokens in 2 of 100 cases
FEWEST, MOST = 0.0095, 0.95  # shares that are read
EXPECTED = 8  # draws of a share, which has none with a chance of e^-8
HALVINGS = 8  # of a share, to 2 percent
SOME, MANY = 40, 2000  # numbers of unlikely tokens

Draw = Callable[..., list[int]]


def restriction(adapter: Adapter, folder: Path) -> Named | None:
    """Read which tokens a draw without top_k leaves out."""

    def drawn(faces: Mapping[int, float], seed: int, steps: int = STEPS) -> list[int]:
        tensors = dice(faces)
        tensors["wte.weight"] = tensors["wte.weight"][: SMALL_DICE.vocab_size]
        judged = adapter.load(write_checkpoint(folder, SMALL_DICE, tensors))
        prompts = torch.full((ROWS, 1), FED)
        rows = judged.generate(prompts, max_new_tokens=steps, temperature=1.0, seed=seed)
        return list(itertools.chain(*rows))

    return _by_number(drawn) or _by_share(drawn)


def _by_number(drawn: Draw) -> Named | None:
    """Read k if the k largest logits, and no others, are drawn from two dice."""
    first = _first_faces(drawn, SMALL_DICE.vocab_size)
    if first is None or first < 2 or _first_faces(drawn, 2 * first) != first:
        return None
    words = f"draws from the {first} largest logits alone"
    return Named(words, (id_with_number("top-k", first),))


def _first_faces(drawn: Draw, faces: int) -> int | None:
    """Return how many faces are drawn, if they are the first ones, of a die of so many."""
    found: set[int] = set()
    for throw in range(1, THROWS + 1):
        seed = 100 * throw  # the rows may have the seeds after it
        found |= set(drawn({token: -token / faces for token in range(faces)}, seed))
        if max(found) >= LARGEST_K:
            return None
        if len(found) == max(found) + 1:
            return len(found)
    return None


def _by_share(drawn: Draw) -> Named | None:
    """Read a nucleus, or a least probability that is relative or absolute.

    They differ in how the share below which unlikely tokens are lost grows with their number n: a
    nucleus of p loses them at 1 - p, min-p of m at odds of n m, and an epsilon of e at n e.
    """
    some = _lost_share(drawn, SOME)
    if not FEWEST < some < MOST:
        return None
    alone = _lost_share(drawn, 1)
    if 0.5 < alone / some < 2:  # a nucleus has a part of the 40 at its edge
        p = round(1 - alone, 2)
        words = f"draws from the likeliest tokens, of about {p:g} of the probability together"
        return Named(words, (id_with_number("top-p", p),))
    many, m, e = _lost_share(drawn, MANY), some / (1 - some) / SOME, some / SOME
    relative = _same(alone, m / (1 + m)) and _same(many, MANY * m / (1 + MANY * m))
    absolute = _same(alone, e) and _same(many, MANY * e)
    if relative == absolute:
        return None
    if relative:
        m = float(f"{alone / (1 - alone) if alone else m:.1g}")
        words = f"no draw of a token with less than about {m:g} of the largest probability"
        return Named(words, (id_with_number("min-p", m),))
    e = float(f"{e:.1g}")
    words = f"no draw of a token with a probability below about {e:g}"
    return Named(words, (id_with_number("epsilon-cutoff", e),))


def _lost_share(drawn: Draw, n: int) -> float:
    """Return the largest share at which none of n equally unlikely tokens is drawn, by halving.

    It is between FEWEST and MOST, or 0 or MOST if it is beyond.
    """

    def lost(share: float) -> bool:
        faces = {LIKELY: math.log(1 - share)} | dict.fromkeys(range(n), math.log(share / n))
        return set(drawn(faces, 3, math.ceil(EXPECTED / share / ROWS))) == {LIKELY}

    low, high = FEWEST, MOST if n > 1 else 0.49  # a single one is not to be the likelier one
    if not lost(low):
        return 0.0
    if lost(high):
        return MOST
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if lost(middle) else (low, middle)
    return low


def _same(share: float, predicted: float) -> bool:
    if not FEWEST <= predicted <= MOST:
        return share == (0.0 if predicted < FEWEST else MOST)
    return math.isclose(share, predicted, rel_tol=0.15)
