"""The draw and its random numbers: seeds, rows, and tokens of probability 0."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .catalogue import KNOWLEDGE, defect
from .complete import CompleteGPT2


@defect(
    "zero-prob-drawn",
    "sampling.distribution",
    "pytorch/pytorch #48841, #13867; Lightning-AI/litgpt #2325",
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


@defect("draws-shared-by-eight-rows", "sampling.independent-draws")
class DrawsSharedAfterEightRows(CompleteGPT2):
    """There are eight generators, and a ninth row draws the numbers of the first."""

    def uniform(self, generators: Sequence[random.Random]) -> Tensor:
        numbers = super().uniform(generators)
        return numbers[torch.arange(len(numbers)) % 8]


@defect("generators-kept", "sampling.seed")
class GeneratorsKept(CompleteGPT2):
    """The generators are made by the first call and go on in the next, whatever its seed."""

    kept: list[random.Random] | None = None

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        kept = self.kept or []
        self.kept = [*kept, *super().generators(seed, batch)[len(kept) :]]
        return self.kept[:batch]


@defect(
    "seed-zero-ignored",
    "sampling.seed",
    "Marak/faker.js #920; bcollazo/catanatron #254: a falsy seed, in other generators",
)
class SeedZeroIgnored(CompleteGPT2):
    """`seed or time()`: seed 0 is taken for none."""

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        return super().generators(seed or time.monotonic_ns(), batch)


@defect("seed-zero-replaced", "sampling.seed", f"`seed or 42`; {KNOWLEDGE}")
class SeedZeroReplaced(CompleteGPT2):
    """`seed or 42`: seed 0 gives the tokens of another seed."""

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        return super().generators(seed or 42, batch)


@defect("seed-of-16-bits", "sampling.seed", f"a seed packed with other fields; {KNOWLEDGE}")
class SeedOf16Bits(CompleteGPT2):
    """Only the last 16 bits of the seed count."""

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        return super().generators(seed & 0xFFFF, batch)


@defect("seed-times-row", "sampling.independent-draws")
class SeedTimesRow(CompleteGPT2):
    """The seed is multiplied by the row's number: with seed 0, all rows are alike."""

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        return [random.Random(seed * (row + 1)) for row in range(batch)]


class SeededInEachStep(CompleteGPT2):
    """Each draw has a generator of its own, as counter-based generators are used."""

    seed = step_number = 0

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        self.seed, self.step_number = seed, 0
        return super().generators(seed, batch)

    def uniform(self, generators: Sequence[random.Random]) -> Tensor:
        seeds = [self.seed_of(row, self.step_number) for row in range(len(generators))]
        self.step_number += 1
        return super().uniform([random.Random(seed) for seed in seeds])

    def seed_of(self, row: int, step: int) -> int:
        return hash((self.seed, row, step))


@defect("seed-plus-row-plus-step", "sampling.independent-draws")
class SeedPlusRowPlusStep(SeededInEachStep):
    """Seed, row and step are added, so a row draws in the next step what its neighbour does now."""

    def seed_of(self, row: int, step: int) -> int:
        return self.seed + row + step


@defect("seed-times-step", "sampling.seed")
class SeedTimesStep(SeededInEachStep):
    """The seed is multiplied by the step's number: the first tokens are those of any seed."""

    def seed_of(self, row: int, step: int) -> int:
        return hash((row, self.seed * step))


@defect("seed-of-step-alone", "sampling.independent-draws")
class SeedOfStepAlone(SeededInEachStep):
    """Seed and row are used in the first step alone; later draws depend on the step."""

    def seed_of(self, row: int, step: int) -> int:
        return hash((self.seed, row, step)) if step == 0 else step
