"""What is run: every combination of the axes is a cell, and every implementation has a row in every cell."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import torch

from gpt2ref import PUBLISHED_CONFIGS, GPT2Config

from .implementations import TokenIds
from .sampling import Sampling, TopK

# `tiny` has the real vocabulary: the sampler costs what it always costs, the model nothing. It is for trying things out.
SIZES = {"tiny": GPT2Config(n_positions=128, n_embd=64, n_layer=2, n_head=2), **PUBLISHED_CONFIGS}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SEED = 0  # of the weights, the prompts and the draws: every implementation and every round sees the same work


@dataclass(frozen=True)
class Cell:
    """One thing to do, for all implementations alike."""

    size: str
    dtype: str
    batch: int  # rows generated at once
    prompt_length: (
        int  # tokens, the same in every row: how deep the context is when decoding begins
    )
    sampling: Sampling

    @property
    def config(self) -> GPT2Config:
        return SIZES[self.size]

    @property
    def weights(self) -> tuple[str, str]:
        """What cells must have in common to run on the same weights."""
        return self.size, self.dtype

    @property
    def shape(self) -> tuple[str, str, int, int]:
        """What cells must have in common for all their tensors to have the same shapes."""
        return (*self.weights, self.batch, self.prompt_length)

    def __str__(self) -> str:
        return f"{self.size}-{self.dtype}-batch={self.batch}-prompt_length={self.prompt_length}-{self.sampling}"


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
    rounds: int  # timed generations of each row, after one that warms up

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Weights by weights, as they are loaded once, then shape by shape."""
        samplings = [
            Sampling(*setting) for setting in itertools.product(self.temperatures, self.top_ks)
        ]
        axes = itertools.product(
            self.sizes, self.dtypes, self.batches, self.prompt_lengths, samplings
        )
        return tuple(Cell(*values) for values in axes)

    def __str__(self) -> str:
        return (
            f"{len(self.cells)} cells x {len(self.implementations)} implementations on {self.device}, "
            f"{self.new_tokens} new tokens, 1 + {self.rounds} rounds"
        )


def random_prompts(vocab_size: int, batch: int, prompt_length: int) -> TokenIds:
    """Random token ids [batch, prompt_length], the same in every call."""
    generator = random.Random(SEED)
    return [[generator.randrange(vocab_size) for _ in range(prompt_length)] for _ in range(batch)]
