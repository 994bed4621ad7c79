"""Run the generations of one result: a warm-up, then the rounds, in turns with its peers."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from gpt2ref import EOS, GPT2, GPT2Config

from .implementations import TokenIds
from .lengths import from_calls, lengths
from .limits import Bandwidth, bandwidth_fields, bytes_of_steps, bytes_per_step, weight_bytes
from .plan import SEED, Cell, random_prompts
from .possible_times import AHEAD, impossible_times
from .seeds import UNSEEN, UnseenSeeds
from .timing import NO_FIGURES, Timing, check_counts, figures, time_call, time_generation
from .validity import Verdict, judge
from .weights import Peer

SAMPLING_STEPS = 20  # timed, after a few that warm up
# Choices that each of them is. On CUDA one takes less time than to wait for the device.
CHOICES = {"cpu": 1, "cuda": 10}
CONFIRMATIONS = 5  # measurements of the bandwidth before a row counts as faster than it


@dataclass(frozen=True)
class Answer:
    """Holds the prompts of one call of an implementation, and the tokens that it returned."""

    seed: int  # of the prompts and the draws
    prompts: TokenIds
    new: TokenIds


@dataclass(frozen=True)
class Generation(Answer):
    """The answer of a round, how long it took, and the answers of its calls for fewer tokens."""

    timing: Timing
    shorter: tuple[Answer, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return self.timing.as_dict() | {"seed": self.seed}


class Measurement:
    """One implementation in one cell. Each generation is timed; the first is the warm-up.

    Each generation has prompts and a seed of its own, and its tokens are judged.
    """

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
        seeds: UnseenSeeds = UNSEEN,
    ) -> None:
        self.peer = peer
        self.cell = cell
        self.config = config
        self.new_tokens = new_tokens
        self.synchronise = synchronise
        self.clock = clock
        self.bandwidth = bandwidth
        self.seeds = seeds
        self.generations: list[Generation] = []
        self.bandwidths: list[Bandwidth] = []  # as measured just before each of them
        self.peak_memory: int | None = None  # bytes
        self.error: Exception | None = None  # what ended it

    @property
    def rounds(self) -> list[Timing]:
        return [generation.timing for generation in self.generations[1:]]

    def generate(self) -> None:
        self.bandwidths.append(self.bandwidth())
        with self.peer.implementation.turn():
            generation, peak = self.peer.memory.run(self._timed)
        if self.peer.first_call_seconds is None:
            self.peer.first_call_seconds = generation.timing.end_to_end_seconds
        self.generations.append(generation)
        if peak is not None:
            self.peak_memory = max(peak, self.peak_memory or 0)

    def _timed(self) -> Generation:
        if self.peer.implementation.reports_steps:
            seed, prompts = self._draw()
            timing, new = time_generation(
                lambda on_step: self._call(prompts, seed, self.new_tokens, on_step),
                batch=self.cell.batch,
                new_tokens=self.new_tokens,
                clock=self.clock,
                synchronise=self.synchronise,
            )
            return Generation(seed, prompts, [list(row) for row in new], timing)
        seconds: dict[int, float] = {}
        answers: list[Answer] = []
        for count in lengths(self.new_tokens):
            answer, seconds[count] = self._timed_call(count)
            answers.append(answer)
        whole, *shorter = answers
        timing = from_calls(seconds)
        return Generation(whole.seed, whole.prompts, whole.new, timing, tuple(shorter))

    def _timed_call(self, new_tokens: int) -> tuple[Answer, float]:
        seed, prompts = self._draw()
        start, end, new = time_call(
            lambda: self._call(prompts, seed, new_tokens, lambda: None),
            clock=self.clock,
            synchronise=self.synchronise,
        )
        check_counts(new, self.cell.batch, new_tokens)
        return Answer(seed, prompts, [list(row) for row in new]), end - start

    def _draw(self) -> tuple[int, TokenIds]:
        """Return a seed and its prompts. EOS is in none of them: GPT-2 was not trained so."""
        vocab_size, batch = min(self.config.vocab_size, EOS), self.cell.batch
        seed = self.seeds.draw(vocab_size, batch)
        return seed, random_prompts(vocab_size, batch, self.cell.prompt_length, seed)

    def _call(
        self, prompts: TokenIds, seed: int, new_tokens: int, on_step: Callable[[], None]
    ) -> TokenIds:
        # The implementation may change the lists that it gets and keep those that it returns.
        given = [list(row) for row in prompts]
        return self.peer.implementation.generate(
            given, self.cell.sampling, max_new_tokens=new_tokens, seed=seed, on_step=on_step
        )

    def sampling_seconds(self, device: torch.device, dtype: torch.dtype) -> float | None:
        """Return the median time of the loop's sampling step alone, for all rows, on random logits.

        None if the implementation can't run that step alone.
        """
        generator = torch.Generator().manual_seed(SEED)
        shape = self.cell.batch, self.config.vocab_size
        logits = torch.zeros(shape, dtype=dtype, device=device)
        uniform = torch.zeros(shape[0], dtype=torch.float64, device=device)
        step = self.peer.implementation.sampling_step(logits, uniform, self.cell.sampling)
        if step is None:
            return None
        seconds = []
        for _ in range(3 + SAMPLING_STEPS):
            logits.copy_(3 * torch.randn(shape, generator=generator))
            uniform.copy_(torch.rand(shape[0], dtype=torch.float64, generator=generator))
            self.synchronise()
            start = self.clock()
            for _ in range(CHOICES[device.type]):
                step()
            self.synchronise()
            seconds.append((self.clock() - start) / CHOICES[device.type])
        return median(seconds[3:])

    def _pipe_seconds(self) -> float | None:
        """Return what the messages of a step cost, if the implementation is another program."""
        if self.error is not None:
            return None
        _, prompts = self._draw()
        return self.peer.implementation.pipe_seconds(prompts, self.new_tokens)

    def verdict(self, reference: GPT2) -> Verdict:
        """Judge the tokens of the warm-up and all rounds, up to the first wrong answer."""
        checked, near_ties = 0, 0
        answers = self._answers
        for number, (where, answer) in enumerate(answers):
            verdict = self._judge(reference, answer.prompts, answer)
            checked += verdict.tokens_checked
            near_ties += verdict.near_ties
            if not verdict.valid:
                cause = self._repeated(reference, answer, answers[:number]) or verdict.reason
                return Verdict(False, f"{where}: {cause}", checked, near_ties)
        return Verdict(True, None, checked, near_ties)

    @property
    def _answers(self) -> list[tuple[str, Answer]]:
        """All answers in the order of their calls, each with its round in words."""
        answers: list[tuple[str, Answer]] = []
        for number, generation in enumerate(self.generations):
            where = f"round {number}" if number else "the warm-up"
            answers.append((where, generation))
            answers += [
                (f"{where}, the call for {len(each.new[0])}", each) for each in generation.shorter
            ]
        return answers

    def _judge(self, reference: GPT2, prompts: TokenIds, answer: Answer) -> Verdict:
        seed = answer.seed if self.peer.implementation.foretold else None
        return judge(reference, prompts, answer.new, self.cell.sampling, seed)

    def _repeated(
        self, reference: GPT2, wrong: Answer, earlier: Sequence[tuple[str, Answer]]
    ) -> str | None:
        """Return which earlier answer the wrong tokens belong to, in words."""
        count = len(wrong.new[0])
        for where, answer in earlier:
            if wrong.new == [row[:count] for row in answer.new]:
                return f"the tokens are those of {where}, whose prompt was another: a kept answer"
            if self._judge(reference, answer.prompts, wrong).valid:
                return f"the tokens continue the prompt of {where}: a kept cache or prefix"
        return None

    def impossible(self, reference: GPT2, limit: Bandwidth) -> str | None:
        """Return why the times of the rounds are impossible. None if they are possible."""
        if self.error is not None:
            return str(self.error)
        dtype, device = reference.dtype, reference.device
        return impossible_times(
            self.rounds,
            weight_bytes(self.config, dtype.itemsize),
            bytes_of_steps(self.config, itemsize=dtype.itemsize, **self._shape),
            limit.bytes_per_second,
            AHEAD[device.type],
        )

    @property
    def _shape(self) -> dict[str, int]:
        return {
            "batch": self.cell.batch,
            "prompt_length": self.cell.prompt_length,
            "new_tokens": self.new_tokens,
        }

    def result(self, reference: GPT2, limit: Bandwidth | None = None) -> dict[str, Any]:
        """Return the fields of `result_fields.ResultFields` but those of peers and environment.

        `limit` is the best bandwidth that was measured. It defaults to that of its own rounds.
        """
        cell, timed = self.cell, self.error is None
        implementation = self.peer.implementation
        limit = limit or max(self.bandwidths)
        step_bytes = bytes_per_step(self.config, itemsize=reference.dtype.itemsize, **self._shape)
        verdict = self.verdict(reference)
        if verdict.valid and (why := self.impossible(reference, limit)):
            verdict = verdict._replace(valid=False, reason=why)
        rates = [timing.decode_tokens_per_second(cell.batch) for timing in self.rounds]
        generations = [generation.as_dict() for generation in self.generations]
        return {
            "implementation": self.peer.name,
            "size": cell.size,
            "temperature": cell.sampling.temperature,
            "top_k": cell.sampling.top_k,
            "dtype": cell.dtype,
            **self._shape,
            "rounds": max(1, len(self.rounds)),
            "seed": SEED,
            **verdict._asdict(),
            **(figures(self.rounds, cell.batch) if timed else NO_FIGURES),
            "load_seconds": self.peer.load_seconds,
            "loaded_from": implementation.source,
            "first_call_seconds": self.peer.first_call_seconds,
            "loop": implementation.loop,
            "measured_by": "steps" if implementation.reports_steps else "lengths",
            "greedy_by_top_k": implementation.greedy_by_top_k and cell.sampling.temperature == 0,
            "pipe_seconds": self._pipe_seconds(),
            "sampling_seconds": self.sampling_seconds(reference.device, reference.dtype),
            "peak_memory_bytes": self.peak_memory,
            "bytes_per_step": step_bytes,
            **bandwidth_fields(
                step_bytes, cell.batch, rates if timed else [], self.bandwidths[1:], limit
            ),
            "warmup": generations[0] if generations else None,
            "samples": generations[1:],
        }


def confirmed_limit(
    measurements: Sequence[Measurement],
    reference: GPT2,
    best: Bandwidth,
    again: Callable[[], Bandwidth],
) -> Bandwidth:
    """Return the bandwidth that limits the rows of a cell: `best`, or a better one.

    If a row seems to be faster than `best`, perhaps other work disturbed all readings. So `again`
    measures a few times more, until the row is possible.
    """
    timed = [each for each in measurements if each.error is None]
    for _ in range(CONFIRMATIONS):
        if not any(each.impossible(reference, best) for each in timed):
            break
        best = max(best, again())
    return best


def take_turns(
    measurements: Sequence[Measurement],
    rounds: int,
    begin: Callable[[str], None] = lambda _name: None,
) -> None:
    """Run a warm-up each, then the rounds: A B C, B C A, C A B, ... so that all come first in turn.

    A measurement that raises an exception keeps it in `error`, and takes no further part. `begin`
    is called with the name of the next one, outside the measured time.
    """
    for turn in range(1 + rounds):
        first = turn % len(measurements)
        for measurement in [*measurements[first:], *measurements[:first]]:
            begin(measurement.peer.name)
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
