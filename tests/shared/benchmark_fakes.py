"""Fakes for the benchmarks: a clock, implementations of a known cost, and a very small GPT-2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.implementations import Implementation, TokenIds
from benchmarks.limits import Bandwidth
from benchmarks.measurement import Measurement
from benchmarks.memory import DeviceMemory
from benchmarks.options import OPTIONS, read_plan
from benchmarks.plan import Cell, Plan
from benchmarks.sampling import Sampling
from benchmarks.weights import Peer
from gpt2ref import GPT2Config

CONFIG = GPT2Config(vocab_size=1000, n_positions=40, n_embd=32, n_layer=2, n_head=2)
CPU = torch.device("cpu")
NEW_TOKENS = 16
GREEDY = Sampling(0, None)
SAMPLINGS = [GREEDY, Sampling(1.0, 1), Sampling(1.0, None), Sampling(0.7, 40), Sampling(1.3, 200)]


def plan(**changes: Any) -> Plan:
    small = {"device": "cpu", "prompt_length": ["5"], "new_tokens": str(NEW_TOKENS), "rounds": "2"}
    return read_plan(dict.fromkeys(name.replace("-", "_") for name in OPTIONS) | small | changes)


class Clock:
    """A clock that the test sets. It records that it was read."""

    def __init__(self) -> None:
        self.now = 128.0
        self.log: list[str] = []

    def __call__(self) -> float:
        self.log.append("read")
        return self.now

    def synchronise(self) -> None:
        self.log.append("synchronise")


class Costly(Implementation):
    """Generates what it was given, at a known cost in seconds: [prefill, step, step, ...]."""

    foretold = True

    def __init__(self, *_: Any) -> None:
        self.compilation = 0.0

    @classmethod
    def of(
        cls, clock: Clock, costs: list[float], rows: TokenIds, compilation: float = 0.0
    ) -> Costly:
        costly = cls()
        costly.clock, costly.costs, costly.rows, costly.compilation = (
            clock,
            costs,
            rows,
            compilation,
        )
        return costly

    clock: Clock
    costs: list[float]
    rows: TokenIds

    def generate(self, *_: Any, on_step: Callable[[], None], **__: Any) -> TokenIds:
        self.clock.now += self.compilation
        self.compilation = 0.0
        for cost in self.costs:
            self.clock.now += cost
            on_step()
        return self.rows


def loaded(implementation: Implementation, name: str = "costly") -> Peer:
    return Peer(name, implementation, load_seconds=0.5, memory=DeviceMemory(CPU))


def cell(sampling: Sampling = GREEDY, *, batch: int = 1, prompt_length: int = 5) -> Cell:
    return Cell("tiny", "float32", batch, prompt_length, sampling)


def measurement(
    implementation: Implementation | Peer, where: Cell, clock: Clock, new_tokens: int = NEW_TOKENS
) -> Measurement:
    """Measure with the small model's vocabulary, whatever size the cell has."""
    return Measurement(
        implementation if isinstance(implementation, Peer) else loaded(implementation),
        where,
        CONFIG,
        new_tokens,
        clock=clock,
        synchronise=clock.synchronise,
        bandwidth=lambda: Bandwidth(10e9, "sum"),
    )


def generated(
    implementation: Implementation,
    prompts: TokenIds,
    sampling: Sampling,
    max_new_tokens: int = NEW_TOKENS,
    seed: int = 0,
) -> TokenIds:
    return implementation.generate(
        prompts, sampling, max_new_tokens=max_new_tokens, seed=seed, on_step=lambda: None
    )
