"""Adapters that lack methods, break, or round coarsely.

Adapters of wrong GPT-2s are in the catalogue: `conformance.defects:gelu-erf`.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import torch

from conformance.adapters.gpt2ref import Reference
from conformance.adapters.gpt2ref import load as load_reference
from conformance.defects import DEFECTS, CompleteGPT2


class LogitsOnly:
    """An implementation that has logits and nothing else."""

    def __init__(self, whole: Reference | CompleteGPT2) -> None:
        self.logits = whole.logits


def logits_only(checkpoint: str, **options: Any) -> LogitsOnly:
    return LogitsOnly(load_reference(checkpoint, **options))


class RaisesInGenerate(Reference):
    def generate(self, *_args: Any, **_options: Any) -> list[list[int]]:
        raise RuntimeError("out of luck")


def raises_in_generate(checkpoint: str, **options: Any) -> RaisesInGenerate:
    return RaisesInGenerate(load_reference(checkpoint, **options).model)


def last_logits_only(checkpoint: str, **options: Any) -> LogitsOnly:
    right = LogitsOnly(load_reference(checkpoint, **options))
    all_logits = right.logits
    right.logits = lambda token_ids: all_logits(token_ids)[:, -1:]
    return right


_calls = itertools.count(1)


def ends_in_a_call(checkpoint: str, **options: Any) -> LogitsOnly:
    """Load a GPT-2 whose process ends in its third call, as after a fault in C."""
    right = LogitsOnly(load_reference(checkpoint, **options))
    all_logits = right.logits

    def logits(token_ids: torch.Tensor) -> torch.Tensor:
        if next(_calls) == 3:
            os._exit(139)
        return all_logits(token_ids)

    right.logits = logits
    return right


def interrupted(*_: Any, **__: Any) -> LogitsOnly:
    raise KeyboardInterrupt


class InBfloat16(LogitsOnly):
    """Computes in bfloat16, whatever it is asked for."""

    precision = "bfloat16"


def declares_bfloat16(checkpoint: str, **options: Any) -> InBfloat16:
    return InBfloat16(load_reference(checkpoint, **options | {"dtype": torch.bfloat16}))


def conceals_bfloat16(checkpoint: str, **options: Any) -> LogitsOnly:
    return LogitsOnly(load_reference(checkpoint, **options | {"dtype": torch.bfloat16}))


def declares_bfloat16_no_scale(checkpoint: str, **options: Any) -> InBfloat16:
    wrong = DEFECTS["no-scale"].kind.load(checkpoint, **options | {"dtype": torch.bfloat16})
    return InBfloat16(wrong)
