"""Run the generations of one result: a warm-up, then the rounds, in turns with its peers."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from gpt2ref import GPT2, GPT2Config

from .implementations import TokenIds
from .limits import Bandwidth, bandwidth_fields, bytes_per_step
from .plan import SEED, Cell, random_prompts
from .timing import Timing, figures, time_generation
from .validity import Verdict, judge
from .weights import Peer

SAMPLING_STEPS = 20  # timed, after a few that warm up


class Measurement:
    """One implementation in one cell. Each generation is timed; the first is the warm-up."""

    def __init__(
        self,
        peer: Peer,
        cell: Cell,
        config: GPT2Config,
        new_tokens: int,
        *,
        synchronise: Callable[[], None],
        bandwidth: Callable[[], Bandwidth],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.peer = peer
        self.cell = cell
        self.config = config
        self.new_tokens = new_tokens
        self.prompts = random_prompts(config.vocab_size, cell.batch, cell.prompt_length)
        self.synchronise = synchronise
        self.clock = clock
        self.bandwidth = bandwidth
        self.timings: list[Timing] = []
        self.bandwidths: list[Bandwidth] = []  # as measured just before each of them
        self.outputs: list[TokenIds] = []  # without repetitions
        self.peak_memory: int | None = None  # bytes
        self.error: Exception | None = None  # what ended it

    @property
    def rounds(self) -> list[Timing]:
        return self.timings[1:]

    def generate(self) -> None:
        self.bandwidths.append(self.bandwidth())
        with self.peer.implementation.turn():
            (timing, new), peak = self.peer.memory.run(self._timed)
        if self.peer.first_call_seconds is None:
            self.peer.first_call_seconds = timing.end_to_end_seconds
        self.timings.append(timing)
        if new not in self.outputs:
            self.outputs.append(new)
        if peak is not None:
            self.peak_memory = max(peak, self.peak_memory or 0)

    def _timed(self) -> tuple[Timing, TokenIds]:
        return time_generation(
            lambda on_step: self.peer.implementation.generate(
                self.prompts,
                self.cell.sampling,
                max_new_tokens=self.new_tokens,
                seed=SEED,
                on_step=on_step,
            ),
            batch=self.cell.batch,
            new_tokens=self.new_tokens,
            clock=self.clock,
            synchronise=self.synchronise,
        )

    def sampling_seconds(self, device: torch.device, dtype: torch.dtype) -> float | None:
        """Return the median time of a sampling step alone, for all rows, on random logits.

        None if the implementation can't run that step alone.
        """
        next_token = self.peer.implementation.next_token
        if next_token is None:
            return None
        generator = torch.Generator().manual_seed(SEED)
        logits = 3 * torch.randn(self.cell.batch, self.config.vocab_size, generator=generator)
        logits = logits.to(device, dtype)
        uniform = torch.rand(self.cell.batch, dtype=torch.float64, generator=generator).to(device)
        seconds = []
        for _ in range(3 + SAMPLING_STEPS):
            self.synchronise()
            start = self.clock()
            next_token(
                logits,
                uniform,
                temperature=self.cell.sampling.temperature,
                top_k=self.cell.sampling.top_k,
            )
            self.synchronise()
            seconds.append(self.clock() - start)
        return median(seconds[3:])

    def verdict(self, reference: GPT2) -> Verdict:
        """Judge all outputs, the warm-up's included. With one seed they are mostly alike."""
        seed = SEED if self.peer.implementation.foretold else None
        verdicts = [
            judge(reference, self.prompts, new, self.cell.sampling, seed) for new in self.outputs
        ]
        return next((verdict for verdict in verdicts if not verdict.valid), verdicts[0])

    def result(self, reference: GPT2) -> dict[str, Any]:
        """Return the fields of `result_fields.ResultFields` but those of peers and environment."""
        cell, itemsize = self.cell, reference.dtype.itemsize
        rates = [timing.decode_tokens_per_second(cell.batch) for timing in self.rounds]
        shape = {
            "batch": cell.batch,
            "prompt_length": cell.prompt_length,
            "new_tokens": self.new_tokens,
        }
        step_bytes = bytes_per_step(self.config, itemsize=itemsize, **shape)
        return {
            "implementation": self.peer.name,
            "size": cell.size,
            "temperature": cell.sampling.temperature,
            "top_k": cell.sampling.top_k,
            "dtype": cell.dtype,
            **shape,
            "rounds": len(self.rounds),
            "seed": SEED,
            **self.verdict(reference)._asdict(),
            **figures(self.rounds, cell.batch),
            "load_seconds": self.peer.load_seconds,
            "loaded_from": self.peer.implementation.source,
            "first_call_seconds": self.peer.first_call_seconds,
            "sampling_seconds": self.sampling_seconds(reference.device, reference.dtype),
            "peak_memory_bytes": self.peak_memory,
            "bytes_per_step": step_bytes,
            **bandwidth_fields(step_bytes, cell.batch, rates, self.bandwidths[1:]),
            "warmup": self.timings[0].as_dict(),
            "samples": [timing.as_dict() for timing in self.rounds],
        }


def take_turns(measurements: Sequence[Measurement], rounds: int) -> None:
    """Run a warm-up each, then the rounds: A B C, B C A, C A B, ... so that all come first in turn.

    A measurement that raises an exception keeps it in `error`, and takes no further part.
    """
    for turn in range(1 + rounds):
        first = turn % len(measurements)
        for measurement in [*measurements[first:], *measurements[:first]]:
            if measurement.error is None:
                try:
                    measurement.generate()
                except Exception as error:
                    # The frames hold what may have been too large for the memory.
                    traceback.clear_frames(error.__traceback__)
                    measurement.error = error


def synchronise_on(device: torch.device) -> Callable[[], None]:
    """Return a function that waits until the device is idle. On the CPU it always is."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
