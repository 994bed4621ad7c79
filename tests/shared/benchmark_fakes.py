"""Fakes for the benchmarks: a clock, an implementation of a known cost, and a very small GPT-2."""

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
from gpt2ref import GPT2, GPT2Config, sample

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


class TickingClock(Clock):
    """A clock that goes on by a second whenever it is read."""

    def __call__(self) -> float:
        self.now += 1.0
        return super().__call__()


class Costly(Implementation):
    """Generates right tokens, or given ones, at a known cost in seconds: [prefill, step, ...]."""

    foretold = True

    def __init__(self, *_: Any) -> None:
        self.compilation = 0.0

    @classmethod
    def of(
        cls, clock: Clock, costs: list[float], tokens: TokenIds | GPT2, compilation: float = 0.0
    ) -> Costly:
        """`tokens` are the rows to return, or the model that generates them."""
        costly = cls()
        costly.clock, costly.costs, costly.tokens = clock, costs, tokens
        costly.compilation = compilation
        return costly

    clock: Clock
    costs: list[float]
    tokens: TokenIds | GPT2

    def generate(
        self,
        prompts: TokenIds,
        sampling: Sampling = GREEDY,
        *,
        on_step: Callable[[], None],
        seed: int = 0,
        **_: Any,
    ) -> TokenIds:
        self.clock.now += self.compilation
        self.compilation = 0.0
        for cost in self.costs:
            self.clock.now += cost
            on_step()
        if not isinstance(self.tokens, GPT2):
            return self.tokens
        return right_tokens(self.tokens, prompts, sampling, seed, len(self.costs))


def right_tokens(
    model: GPT2, prompts: TokenIds, sampling: Sampling, seed: int, new_tokens: int = NEW_TOKENS
) -> TokenIds:
    return sample(
        model,
        prompts,
        max_new_tokens=new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        seed=seed,
        eos_token_id=None,
    )


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
