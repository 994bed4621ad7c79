"""The generations of one row: one that warms up, and the rounds that count."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from gpt2ref import GPT2

from .implementations import Implementation
from .plan import SEED, Cell, Plan
from .timing import Timing, TokenIds, figures, time_generation
from .validity import Verdict, judge


class Measurement:
    """One implementation in one cell. Every call of `generate` is timed; the first is the warm-up."""

    def __init__(
        self,
        implementation: Implementation,
        plan: Plan,
        cell: Cell,
        vocab_size: int,
        *,
        clock: Callable[[], float] = time.perf_counter,
        synchronise: Callable[[], None] | None = None,
    ) -> None:
        self.implementation = implementation
        self.plan = plan
        self.cell = cell
        self.prompts = plan.prompts(vocab_size)
        self.clock = clock
        self.synchronise = synchronise or synchronise_on(plan.device)
        self.timings: list[Timing] = []
        self.outputs: list[TokenIds] = []  # those that differ

    def generate(self) -> None:
        timing, new = time_generation(
            lambda on_step: self.implementation.generate(
                self.prompts,
                max_new_tokens=self.plan.new_tokens,
                temperature=self.cell.temperature,
                top_k=self.cell.top_k,
                seed=SEED,
                on_step=on_step,
            ),
            batch=self.plan.batch,
            new_tokens=self.plan.new_tokens,
            clock=self.clock,
            synchronise=self.synchronise,
        )
        self.timings.append(timing)
        if new not in self.outputs:
            self.outputs.append(new)

    def verdict(self, reference: GPT2) -> Verdict:
        """On all that was generated, warm-up included. Same seed, same tokens: there is mostly one output to judge."""
        seed = SEED if self.implementation.foretold else None
        verdicts = [judge(reference, self.prompts, new, self.cell, seed) for new in self.outputs]
        return next((verdict for verdict in verdicts if not verdict.valid), verdicts[0])

    def row(self, reference: GPT2) -> dict[str, Any]:
        """What the JSON gets as `extra_info`, but for names and environment: conditions, verdict, figures, raw samples."""
        warmup, *rounds = self.timings
        return {
            "temperature": self.cell.temperature,
            "top_k": self.cell.top_k,
            "dtype": str(self.plan.dtype).removeprefix("torch."),
            "batch": self.plan.batch,
            "prompt_length": self.plan.prompt_length,
            "new_tokens": self.plan.new_tokens,
            "rounds": len(rounds),
            "seed": SEED,
            **self.verdict(reference)._asdict(),
            **figures(rounds, self.plan.batch),
            "warmup": warmup.as_dict(),
            "samples": [timing.as_dict() for timing in rounds],
        }


def synchronise_on(device: torch.device) -> Callable[[], None]:
    """What waits until the device has nothing left to do. On the CPU, work is done when the call returns."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
