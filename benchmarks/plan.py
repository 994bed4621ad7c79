"""The plan: each combination of the axes is a cell, in which each implementation is measured."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import torch

from gpt2ref import PUBLISHED_CONFIGS, GPT2Config

from .implementations import TokenIds
from .sampling import Sampling, TopK

# `tiny` is for trying things out. It has the real vocabulary, so its sampler costs what it costs in
# GPT-2, and its model costs nearly nothing.
SIZES = {"tiny": GPT2Config(n_positions=256, n_embd=64, n_layer=2, n_head=2), **PUBLISHED_CONFIGS}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SEED = 0  # of the weights


@dataclass(frozen=True)
class Cell:
    """A task that is the same for all implementations."""

    size: str
    dtype: str
    batch: int  # rows generated at once
    prompt_length: int  # tokens in every row: the depth of the context when decoding begins
    sampling: Sampling

    @property
    def config(self) -> GPT2Config:
        return SIZES[self.size]

    @property
    def weights(self) -> tuple[str, str]:
        """Cells with the same value run on the same weights."""
        return self.size, self.dtype

    @property
    def shape(self) -> tuple[str, str, int, int]:
        """Cells with the same value have tensors of the same shapes."""
        return (*self.weights, self.batch, self.prompt_length)

    def __str__(self) -> str:
        shape = f"batch={self.batch}-prompt_length={self.prompt_length}"
        return f"{self.size}-{self.dtype}-{shape}-{self.sampling}"


@dataclass(frozen=True)
class Plan:
    sizes: tuple[str, ...]
    dtypes: tuple[str, ...]
    batches: tuple[int, ...]
    prompt_lengths: tuple[int, ...]  # ascending, as transformers never lets a static cache shrink
    temperatures: tuple[float, ...]
    top_ks: tuple[TopK, ...]
    implementations: tuple[str, ...]
    device: torch.device
    new_tokens: int  # in every row
    rounds: int  # timed generations for each result, after one that warms up

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, ordered by weights, which are loaded once, then by shape."""
        samplings = [
            Sampling(*setting) for setting in itertools.product(self.temperatures, self.top_ks)
        ]
        axes = itertools.product(
            self.sizes, self.dtypes, self.batches, self.prompt_lengths, samplings
        )
        return tuple(Cell(*values) for values in axes)

    def __str__(self) -> str:
        return (
            f"{len(self.cells)} cells x {len(self.implementations)} implementations "
            f"on {self.device}, {self.new_tokens} new tokens, 1 + {self.rounds} rounds"
        )


def random_prompts(vocab_size: int, batch: int, prompt_length: int, seed: int = SEED) -> TokenIds:
    """Return token ids [batch, prompt_length]. Row r depends on `seed + r` alone.

    Its first token is `seed + r` modulo the vocabulary, so that rows with different numbers begin
    differently. The others are random, and independent of the row's draws.
    """
    rows = []
    for number in range(seed, seed + batch):
        generator = random.Random(f"prompt {number}")
        rest = [generator.randrange(vocab_size) for _ in range(prompt_length - 1)]
        rows.append([number % vocab_size, *rest])
    return rows
