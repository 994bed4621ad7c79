"""The draw and its random numbers: seeds, rows, and tokens of probability 0."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .catalogue import defect
from .complete import CompleteGPT2


@defect(
    "zero-prob-drawn", "sampling.top-k", "pytorch/pytorch #48841, #13867; Lightning-AI/litgpt #2325"
)
class ZeroDrawn(CompleteGPT2):
    """The draw takes the first token whose cumulative probability is >= a coarse number.

    The number is 0 once in 2,048 draws, and then a token of probability 0 is drawn.
    """

    def draw(self, probabilities: Tensor, uniform: Tensor) -> Tensor:
        coarse = (uniform * 2048).floor() / 2048
        cumulative = probabilities.cumsum(-1)
        return (cumulative >= coarse[:, None] * cumulative[:, -1:]).byte().argmax(-1)


@defect("cpu-half-sampling", "sampling.top-k", "Lightning-AI/litgpt #2325")
class HalfPrecisionRace(CompleteGPT2):
    """The draw is argmax(p / exponential noise) in float16: the noise may be 0, and 0/0 wins."""

    def draw(self, probabilities: Tensor, uniform: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(uniform[0] * 2**53))
        noise = torch.empty_like(probabilities).exponential_(generator=generator)
        return (probabilities.half() / (noise * 2e-4).half()).argmax(-1)


@defect("reseed-each-call", "sampling.seed", "masonwang025/gpt-2-from-scratch@b907032c4:yap.py")
class ReseededEachCall(CompleteGPT2):
    """generate calls manual_seed(42), so every call has the same draws."""

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        return super().generators(42, batch)


@defect(
    "reseed-each-step",
    "sampling.independent-draws",
    "masonwang025/gpt-2-from-scratch@b907032c4:yap.py",
)
class ReseededEachStep(CompleteGPT2):
    """The generator is seeded in each step, so every draw is the same quantile."""

    def uniform(self, generators: Sequence[random.Random]) -> Tensor:
        for generator in generators:
            generator.setstate(self.states.setdefault(id(generator), generator.getstate()))
        return super().uniform(generators)

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        self.states: dict[int, Any] = {}
        return super().generators(seed, batch)


@defect("global-rng-used", "sampling.seed", "ml-explore/mlx-lm #1580; bytedance/GRN #27")
class GlobalGenerator(CompleteGPT2):
    """Draws come from torch's global generator, and the seed is ignored."""

    def uniform(self, generators: Sequence[random.Random]) -> Tensor:
        return torch.rand(len(generators), dtype=torch.float64)


@defect("global-rng-seeded", "sampling.seed")
class GlobalGeneratorSeeded(CompleteGPT2):
    """The seed goes to torch's global generator, which everything else draws from too."""

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        torch.manual_seed(seed)
        return super().generators(seed, batch)

    def uniform(self, generators: Sequence[random.Random]) -> Tensor:
        return torch.rand(len(generators), dtype=torch.float64)


@defect("seed-from-clock", "sampling.seed")
class SeededByClock(CompleteGPT2):
    """The seed is taken from the clock."""

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        return super().generators(time.monotonic_ns(), batch)


@defect("rows-share-draw", "sampling.independent-draws")
class RowsShareDraw(CompleteGPT2):
    """All rows share one random number: identical prompts have identical continuations."""

    def uniform(self, generators: Sequence[random.Random]) -> Tensor:
        return super().uniform(generators)[:1].expand(len(generators))
