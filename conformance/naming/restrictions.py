"""What a draw leaves out that nobody asked it to leave out: top-k, top-p, min-p or epsilon."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from gpt2ref import EOS

from ..adapters.adapter import Adapter
from ..checkpoints.scripts import dice
from ..checkpoints.tensors import DICE, write_checkpoint
from . import Named, id_with_number

LIKELY, FED = 50255, 5
ROWS, STEPS = 16, 64
THROWS = 8  # as many draws find all of 1,100 tokens with a chance of 90 percent and more
FEWEST, MOST = 0.0095, 0.95  # shares; 1,024 draws have none of the first with a chance of e^-9
HALVINGS = 8  # of a share, to 2 percent
SHARES_OF = (1, 40, 2000)  # numbers of unlikely tokens

Draw = Callable[[Mapping[int, float], int], list[int]]


def restriction(adapter: Adapter, folder: Path) -> Named | None:
    """Read which tokens a draw without top_k leaves out."""

    def drawn(faces: Mapping[int, float], seed: int) -> list[int]:
        judged = adapter.load(write_checkpoint(folder, DICE, dice(faces)))
        prompts = torch.full((ROWS, 1), FED)
        rows = judged.generate(prompts, max_new_tokens=STEPS, temperature=1.0, seed=seed)
        return list(itertools.chain(*rows))

    return _by_number(drawn) or _by_share(drawn)


def _by_number(drawn: Draw) -> Named | None:
    """Read k if the k largest logits, and no others, are drawn from two dice."""
    first = _first_faces(drawn, EOS)
    if first is None or first < 2 or _first_faces(drawn, 2 * first) != first:
        return None
    words = f"draws from the {first} largest logits alone"
    return Named(words, (id_with_number("top-k", first),))


def _first_faces(drawn: Draw, faces: int) -> int | None:
    """Return how many faces are drawn, if they are the first ones, of a die of so many."""
    found: set[int] = set()
    for seed in range(1, THROWS + 1):
        found |= set(drawn({token: -token / faces for token in range(faces)}, seed))
        if max(found) >= THROWS * ROWS * STEPS:
            return None
        if len(found) == max(found) + 1:
            return len(found)
    return None


def _by_share(drawn: Draw) -> Named | None:
    """Read a nucleus, or a least probability that is relative or absolute.

    They differ in how the share below which unlikely tokens are lost grows with their number n: a
    nucleus of p loses them at 1 - p, min-p of m at odds of n m, and an epsilon of e at n e.
    """
    alone, some, many = (_lost_share(drawn, n) for n in SHARES_OF)
    if not (FEWEST < some < MOST):
        return None
    if math.isclose(alone, some, rel_tol=0.1):
        p = round(1 - alone, 2)
        words = f"draws from the likeliest tokens, of about {p:g} of the probability together"
        return Named(words, (id_with_number("top-p", p),))
    m, e = some / (1 - some) / SHARES_OF[1], some / SHARES_OF[1]
    relative = _same(alone, m / (1 + m)) and _same(many, SHARES_OF[2] * m / (1 + SHARES_OF[2] * m))
    absolute = _same(alone, e) and _same(many, SHARES_OF[2] * e)
    if relative == absolute:
        return None
    if relative:
        m = float(f"{alone / (1 - alone) if alone > FEWEST else m:.1g}")
        words = f"no draw of a token with less than about {m:g} of the largest probability"
        return Named(words, (id_with_number("min-p", m),))
    e = float(f"{e:.1g}")
    words = f"no draw of a token with a probability below about {e:g}"
    return Named(words, (id_with_number("epsilon-cutoff", e),))


def _lost_share(drawn: Draw, n: int) -> float:
    """Return the largest share at which none of n equally unlikely tokens is drawn, by halving.

    It is between FEWEST and MOST, or one of the two if it is beyond.
    """

    def lost(share: float) -> bool:
        faces = {LIKELY: math.log(1 - share)} | dict.fromkeys(range(n), math.log(share / n))
        return set(drawn(faces, 3)) == {LIKELY}

    low, high = FEWEST, MOST if n > 1 else 0.49  # a single one is not to be the likelier one
    if not lost(low):
        return low
    if lost(high):
        return MOST
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if lost(middle) else (low, middle)
    return low


def _same(share: float, predicted: float) -> bool:
    return math.isclose(share, min(max(predicted, FEWEST), MOST), rel_tol=0.15)
