"""A probe that reads many numbers, each with an allowed error of its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import Tensors
from .experiment import Kind

TOKEN, FIRST_READER = 5, 1000  # the token before the first reader has an embedding of zero


class NumberProbe(ABC):
    """A checkpoint out of whose logits numbers can be read, and what they must be.

    `dtype` is the precision that is judged, `kinds` are the mistakes that may explain wrong
    numbers. `quantity` names the numbers in a report, `right_words` says what GPT-2 has. `shift` is
    what an implementation adds to all logits: they are rounded together with it.
    """

    quantity: str
    right_words: str
    shift = 0.0

    def __init__(self, config: GPT2Config, dtype: torch.dtype, kinds: Mapping[str, Kind]) -> None:
        self.config = config
        self.dtype = dtype
        self.kinds = kinds

    @abstractmethod
    def tensors(self) -> Tensors:
        """Return the checkpoint."""

    @property
    @abstractmethod
    def token_ids(self) -> Tensor:
        """The input, int64 [1, time]."""

    @abstractmethod
    def read(self, logits: Tensor) -> Tensor:
        """Return the numbers, float64, that the logits [1, time, vocab] contain."""

    @staticmethod
    def shift_of(logits: Tensor) -> float:
        """Return the largest logit of a token whose embedding is zero: GPT-2 has 0."""
        return float(logits[..., FIRST_READER - 1].nan_to_num(nan=0.0).abs().max())

    @property
    @abstractmethod
    def expected(self) -> Tensor:
        """Return GPT-2's numbers, float64, in the shape that `read` returns."""

    @abstractmethod
    def allowed(self, expected: Tensor, dtype: torch.dtype) -> Tensor:
        """Return by how much each number may be off in a dtype."""

    @abstractmethod
    def cut(self) -> NumberProbe:
        """Return a probe of the same numbers, without blank layers and unused tokens."""

    @abstractmethod
    def reading(self, numbers: Tensor) -> tuple[Any, Any]:
        """Return what a report shows: what was read, and what GPT-2 has."""

    @abstractmethod
    def describe(self, numbers: Tensor) -> str:
        """Say what is wrong with numbers that no known mistake explains."""

    def errors(
        self, numbers: Tensor, expected: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return each error in multiples of what is allowed; infinite for NaN."""
        expected = self.expected if expected is None else expected
        difference = (numbers - expected).abs().nan_to_num(nan=math.inf)
        return difference / self.allowed(expected, dtype or self.dtype)

    def right(
        self, numbers: Tensor, expected: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> bool:
        return bool((self.errors(numbers, expected, dtype) <= 1).all())

    def numbers_of(self, kind: Kind, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the numbers that a GPT-2 with a mistake gives."""
        probe = self.cut()
        model = kind(probe.tensors(), probe.config, dtype=dtype)
        return probe.read(model.logits(probe.token_ids))

    def explained_by(self, numbers: Tensor, kinds: Mapping[str, Kind]) -> Iterator[str]:
        """Yield the ids of the mistakes that give just these numbers.

        A mistake that can't be made in this shape gives none, and neither does one under which
        nothing can be read: if the numbers are all zero, or if almost any number is allowed.
        """
        most = 100 * self.allowed(self.expected, self.dtype).max()
        for name, kind in kinds.items():
            with suppress(RuntimeError):
                expected = self.numbers_of(kind)
                readable = self.allowed(expected, self.dtype).max() <= most and expected.any()
                if readable and self.right(numbers, expected):
                    yield name
