"""Finds numbers inside a GPT-2 with which it gives an implementation's logits.

A checkpoint is made so that readers, tokens of their own, show the numbers in their logits. A GPT-2
with the mistakes that are granted says which logits given numbers have. Steps along its slopes find
the numbers that have the implementation's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..adapters.protocol import Judged
from ..checkpoints.tensors import Tensors, write_checkpoint
from ..defects.catalogue import Mistake
from ..defects.complete import CompleteGPT2

FIRST_READER = 1000
REFERENCE = torch.tensor([FIRST_READER - 1])  # a token that no checkpoint has anything for
STEP, ITERATIONS, PRECISE = 1e-5, 60, 1e-11


@dataclass(frozen=True)
class Subject:
    """An implementation, the mistakes that are granted, and what makes folders."""

    load: Callable[..., Judged]
    granted: tuple[Mistake, ...]
    new_folder: Callable[[], Path]


class Reading:
    """A checkpoint that shows numbers of a step to `readers`, and who is asked with it."""

    def __init__(
        self, subject: Subject, config: GPT2Config, tensors: Tensors, readers: Tensor
    ) -> None:
        self.subject, self.readers = subject, readers
        self.folder = write_checkpoint(subject.new_folder(), config, tensors)

    def found(self, token_ids: Tensor) -> Tensor | None:
        """Return the implementation's logits of the readers, or None for an error or none."""
        try:
            judged = self.subject.load(self.folder, dtype=torch.float64)
            logits = judged.logits(token_ids)
        except Exception:  # another mistake may be in the way
            return None
        # Logits may be centred.
        logits = logits[..., self.readers] - logits[..., REFERENCE]
        return logits if logits.isfinite().all() else None

    def model(self, given: type[CompleteGPT2]) -> Callable[[Tensor], Tensor]:
        """Return what computes a GPT-2's logits of the readers, whose class comes first."""
        kinds = (given, *(each.kind for each in self.subject.granted))
        shown = torch.cat([REFERENCE, self.readers])
        kind: type[CompleteGPT2] = type("Given", kinds, {"shown": shown})
        model = kind.load(str(self.folder), dtype=torch.float64)

        def logits(token_ids: Tensor) -> Tensor:
            shown = model.logits(token_ids)
            return shown[..., 1:] - shown[..., :1]

        return logits


def solved(
    found: Tensor, logits_of: Callable[[Tensor], Tensor], unknown: int, *, alike: bool = False
) -> Tensor | None:
    """Return the numbers [point, unknown] with which the logits [point, observed] are found.

    `logits_of`: takes numbers [row, point, unknown], and returns logits [row, point, observed].
    `alike`: whether all points have the same slopes, those at zero. Otherwise the slopes are taken
    anew where steps along them do not shrink. What has no effect stays 0. Returns None if there are
    no such numbers.
    """
    moves = torch.cat([torch.zeros(1, unknown), STEP * torch.eye(unknown)]).double()[:, None]

    def inverse_slopes(numbers: Tensor) -> Tensor | None:
        here, *moved = logits_of(numbers[: 1 if alike else None] + moves)
        slopes = torch.stack([(logits - here) / STEP for logits in moved], dim=-1)
        try:
            return torch.linalg.pinv(slopes, rtol=1e-4) if slopes.isfinite().all() else None
        except RuntimeError:  # LinAlgError: the step has no slopes here
            return None

    numbers = torch.zeros(len(found), unknown, dtype=torch.float64)
    inverse, before = inverse_slopes(numbers), math.inf
    for _ in range(ITERATIONS):
        if inverse is None:
            return None
        change = (inverse @ (found - logits_of(numbers[None])[0])[..., None])[..., 0]
        numbers, size = numbers + change, float(change.abs().max())
        if size < PRECISE:
            return numbers
        if size > before / 4 and not alike:
            inverse = inverse_slopes(numbers)
        before = size
    return None
