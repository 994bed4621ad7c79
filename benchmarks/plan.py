"""What is run: sizes, implementations, the temperature x top-k grid, and the shape of one generation."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gpt2ref import PUBLISHED_CONFIGS, GPT2Config

from .implementations import IMPLEMENTATIONS

# `tiny` has the real vocabulary: the sampler costs what it always costs, the model nothing. It is for trying things out.
SIZES = {"tiny": GPT2Config(n_positions=128, n_embd=64, n_layer=2, n_head=2), **PUBLISHED_CONFIGS}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SEED = 0  # of the weights, the prompts and the draws: every implementation and every round sees the same work


@dataclass(frozen=True)
class Cell:
    """A setting of the sampler. Temperature 0 is greedy; `top_k=None` is no restriction."""

    temperature: float
    top_k: int | None

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1

    def __str__(self) -> str:
        return f"temperature={self.temperature:g}-top_k={self.top_k}"


def grid(temperatures: tuple[float, ...], top_ks: tuple[int | None, ...]) -> tuple[Cell, ...]:
    return tuple(Cell(temperature, top_k) for temperature, top_k in itertools.product(temperatures, top_ks))


FULL_GRID = grid((0.0, 0.7, 1.0, 1.3), (None, 1, 40, 200, 1000))
SHORT_GRID = grid((0.0, 1.0), (None, 40))


@dataclass(frozen=True)
class Plan:
    sizes: tuple[str, ...]
    implementations: tuple[str, ...]
    cells: tuple[Cell, ...]
    device: torch.device
    dtype: torch.dtype
    batch: int
    prompt_length: int  # tokens, the same in every row
    new_tokens: int  # in every row
    rounds: int  # timed generations of each cell, after one that warms up

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Plan:
        """Option name, without `--bench-`, -> its value, or None for the default. Raises ValueError naming the option."""
        device = _device(options["device"])
        on_cuda = device.type == "cuda"
        full = on_cuda if options["full_grid"] is None else options["full_grid"]
        plan = cls(
            sizes=_names("size", options["size"] or ["gpt2"], SIZES),
            implementations=_names("implementation", options["implementation"] or [*IMPLEMENTATIONS], IMPLEMENTATIONS),
            cells=FULL_GRID if full else SHORT_GRID,
            device=device,
            dtype=DTYPES[_names("dtype", [options["dtype"] or "float32"], DTYPES)[0]],
            batch=_count("batch", options["batch"], 1),
            prompt_length=_count("prompt-length", options["prompt_length"], 32),
            # Two at least: the first new token ends prefill, and decoding is what comes after it.
            new_tokens=_count("new-tokens", options["new_tokens"], 128 if on_cuda else 32, at_least=2),
            rounds=_count("rounds", options["rounds"], 10 if on_cuda else 3),
        )
        plan._check_context()
        return plan

    def _check_context(self) -> None:
        for size in self.sizes:
            room = SIZES[size].n_positions
            if self.prompt_length + self.new_tokens > room:
                raise ValueError(
                    f"--bench-prompt-length={self.prompt_length} with --bench-new-tokens={self.new_tokens}: "
                    f"expected at most n_positions={room} together, for --bench-size={size}"
                )

    def prompts(self, vocab_size: int) -> list[list[int]]:
        """Random token ids [batch, prompt_length]."""
        generator = random.Random(SEED)
        return [[generator.randrange(vocab_size) for _ in range(self.prompt_length)] for _ in range(self.batch)]

    def __str__(self) -> str:
        return (
            f"{', '.join(self.sizes)}; {', '.join(self.implementations)}; {len(self.cells)} cells of temperature x top-k; "
            f"batch {self.batch}, prompt {self.prompt_length}, {self.new_tokens} new tokens, {self.rounds} rounds"
        )


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    # Elsewhere Hugging Face hands a token to its streamer one step late, and the time stamps would be those of another.
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"--bench-device={name}: expected cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--bench-device={name}: torch finds {torch.cuda.device_count()} CUDA devices here")
    return device


def _names(option: str, values: list[str], allowed: Mapping[str, object]) -> tuple[str, ...]:
    for value in values:
        if value not in allowed:
            raise ValueError(f"--bench-{option}={value}: expected {' or '.join(allowed)}")
    return tuple(dict.fromkeys(values))


def _count(option: str, value: str | None, default: int, at_least: int = 1) -> int:
    if value is None:
        return default
    if not (value.isdecimal() and int(value) >= at_least):
        raise ValueError(f"--bench-{option}={value}: expected an integer of at least {at_least}")
    return int(value)
