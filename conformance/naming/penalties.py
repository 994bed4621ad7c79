"""Reads what a logit loses when its token was said: all of it (n-grams), or a penalty.

The dice have two faces. The second is said where a penalty for the first, whose logit is larger,
bridges the gap between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from ..adapters.adapter import Adapter
from ..checkpoints.scripts import dice
from ..checkpoints.tensors import DICE, write_checkpoint
from . import Named, id_with_number

FIRST, SECOND, FED = 50255, 17, 5
STEPS = 96
FAR = 64.0  # a gap that no usual penalty bridges; the other tokens are 36 below
SMALLEST, LARGEST = 1 / 64, 4.0  # losses that are read
HALVINGS = 14  # to 0.04 percent
COUNTED = 40  # steps after which a penalty that adds up is read
CLOSE = 0.03  # the relative difference of two readings of one number

Times = Callable[..., int]


def penalty(adapter: Adapter, folder: Path) -> Named | None:
    """Read what keeps a greedy loop from repeating the token with the largest logit."""

    def times(gap: float, largest: float = 2.0, steps: int = STEPS) -> int:
        """Return how often the first face is said before any other token."""
        faces = {FIRST: largest, SECOND: largest - gap}
        judged = adapter.load(write_checkpoint(folder, DICE, dice(faces)))
        prompt = torch.tensor([[FED]])
        (row,) = judged.generate(prompt, max_new_tokens=steps, temperature=0.0)
        return next((i for i, token in enumerate(row) if token != FIRST), steps)

    if (n := times(FAR)) < STEPS and n == times(FAR / 8):
        words = f"a token passed over after {n} times, by however much its logit is larger"
        return Named(words, (id_with_number("no-repeat-ngram-size", n),))
    if (n := times(SMALLEST)) == STEPS or not n:
        return None
    if n > 1:
        # The more steps it takes, the finer a penalty that adds up is read.
        gap = COUNTED * SMALLEST / n
        return _adding_up(gap / (times(gap) - 0.5))
    losses = [_lost_at_once(times, largest) for largest in (2.0, 4.0)]
    if times(1.5 * losses[0]) == 2:
        return _adding_up(losses[0])
    return _once(*losses) if times(1.5 * losses[0]) == STEPS else None


def _lost_at_once(times: Times, largest: float) -> float:
    """Return by how much the first face's logit falls when it is said once."""
    bridged, apart = SMALLEST, LARGEST
    for _ in range(HALVINGS):
        middle = math.sqrt(bridged * apart)
        bridged, apart = (middle, apart) if times(middle, largest, 2) == 1 else (bridged, middle)
    return bridged


def _once(lost_from_2: float, lost_from_4: float) -> Named | None:
    if math.isclose(lost_from_4, lost_from_2, rel_tol=CLOSE):
        loss = float(f"{lost_from_2:.3g}")
        words = f"a logit that falls by about {loss:g} when its token is said, and not further"
        return Named(words, (id_with_number("presence-penalty", loss),))
    if math.isclose(lost_from_4, 2 * lost_from_2, rel_tol=CLOSE):
        factor = float(f"{1 / (1 - lost_from_2 / 2):.3g}")
        words = f"a logit that is divided by about {factor:g} when its token is said"
        return Named(words, (id_with_number("repetition-penalty", factor),))
    return None


def _adding_up(loss: float) -> Named:
    loss = float(f"{loss:.2g}")
    words = f"a logit that falls by about {loss:g} each time that its token is said"
    return Named(words, (id_with_number("frequency-penalty", loss),))
