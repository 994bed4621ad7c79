"""Run the plan: cell by cell, all implementations in turns."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gpt2ref import GPT2

from .card import card
from .expectations import expectations, format_bytes
from .implementations import RefusedError
from .limits import BUFFER_BYTES, REPEATS, Bandwidth, bytes_per_step, measure_bandwidth, read_buffer
from .measurement import Measurement, confirmed_limit, synchronise_on, take_turns
from .memory import free_memory, needed_memory, process_peak
from .plan import DTYPES, Cell, Plan
from .progress import Progress
from .timing import TimingError, ratio
from .weights import Weights

BASE = "huggingface"  # what the others are compared with
PASSES = 3  # over the buffer, each time that the bandwidth is measured before a round


@dataclass
class Outcome:
    """One implementation in one cell: its result, or the error that it ended with."""

    result: dict[str, Any] | None  # result_fields.ResultFields
    seconds: list[float]  # of each round, end to end
    error: Exception | None


class Run:
    """Measures a cell when its first outcome is asked for. `print_line` and `progress` report."""

    def __init__(
        self,
        plan: Plan,
        conditions: dict[str, Any],
        print_line: Callable[[str], None],
        progress: Progress | None = None,
    ) -> None:
        self.plan = plan
        self.conditions = conditions
        self.print_line = print_line
        self.synchronise = synchronise_on(plan.device)
        self.free = free_memory(plan.device)
        self.progress = progress or Progress()
        bandwidth = measure_bandwidth(plan.device, self.synchronise)
        lines = card(plan, conditions, bandwidth)
        if len({cell.shape for cell in plan.cells}) > 1:  # the card has room for one
            lines += expectations(plan, bandwidth, self.free)
        for line in lines:
            print_line(line)
        self.not_measured: list[str] = []  # what was refused or failed, and why
        self.results: list[dict[str, Any]] = []
        self._outcomes: dict[Cell, dict[str, Outcome]] = {}
        self._weights: tuple[tuple[str, str], Weights] | None = None
        self._shape: tuple[str, str, int, int] | None = None
        self._best: dict[int, Bandwidth] = {}  # size of the buffer -> its best reading in this run

    def refusal(self, cell: Cell) -> str | None:
        """Return why the cell can't be run here. None if it can."""
        needed = needed_memory(self.plan, cell)
        if self.free is not None and needed > self.free:
            free = format_bytes(self.free)
            return f"needs {format_bytes(needed)}, {free} are free on {self.plan.device}"
        return None

    def outcome(self, cell: Cell, implementation: str) -> Outcome:
        if cell not in self._outcomes:
            start = time.perf_counter()
            number = f"[{1 + self.plan.cells.index(cell)}/{len(self.plan.cells)}]"
            self.print_line(f"{number} {cell}: {', '.join(self.plan.implementations)} in turns")
            self._outcomes[cell] = self._measure(cell)
            self.progress.reach((1 + self.plan.cells.index(cell)) / len(self.plan.cells))
            self._note_errors(cell)
            self.print_line(
                f"    {_rates(self._outcomes[cell])} ({time.perf_counter() - start:.0f} s)"
            )
        return self._outcomes[cell][implementation]

    def _note_errors(self, cell: Cell) -> None:
        for name, outcome in self._outcomes[cell].items():
            if (error := outcome.error) is None:
                continue
            refused = isinstance(error, RefusedError)
            what = str(error) if refused else f"{type(error).__name__}: {error}"
            why = textwrap.shorten(what, 300, placeholder=" ...")
            kind = "refused" if refused else "failed"
            self.not_measured.append(f"{kind}: {name}, {cell.sampling.words}: {why}")

    def finish(self) -> None:
        """Complete the results, which the caller appended, with what is known only now."""
        self.progress.close()
        self._forget_weights()
        read_buffer.cache_clear()
        for result in self.results:
            if self.plan.device.type == "cpu":
                result["peak_memory_bytes"] = process_peak()

    def _measure(self, cell: Cell) -> dict[str, Outcome]:
        weights = self._load(cell)
        measurements: dict[str, Measurement] = {}
        failed: dict[str, Outcome] = {}
        for name in self.plan.implementations:
            try:
                peer = weights.peer(name)
            except Exception as error:
                failed[name] = Outcome(None, [], error)
            else:
                measurements[name] = Measurement(
                    peer,
                    cell,
                    cell.config,
                    self.plan.new_tokens,
                    synchronise=self.synchronise,
                    bandwidth=lambda: self._bandwidth(cell, PASSES),
                )
        if not measurements:
            return failed
        take_turns([*measurements.values()], self.plan.rounds, self.progress.advance)
        return failed | self._judge(cell, measurements, weights.judge)

    def _bandwidth(self, cell: Cell, passes: int) -> Bandwidth:
        """Measure the bandwidth with a buffer as large as what a step of the cell reads.

        What fits into the processor's cache is read from it, by the steps as by the measurement.
        """
        full = BUFFER_BYTES[self.plan.device.type]
        size = self._buffer_bytes(cell)
        found = measure_bandwidth(
            self.plan.device, self.synchronise, repeats=passes * (full // size), buffer_bytes=size
        )
        self._best[size] = max(found, self._best.get(size, found))
        return found

    def _buffer_bytes(self, cell: Cell) -> int:
        full = BUFFER_BYTES[self.plan.device.type]
        if self.plan.device.type != "cpu":
            return full
        step = bytes_per_step(
            cell.config,
            itemsize=DTYPES[cell.dtype].itemsize,
            batch=cell.batch,
            prompt_length=cell.prompt_length,
            new_tokens=self.plan.new_tokens,
        )
        return min(step, full)

    def _judge(
        self, cell: Cell, measurements: dict[str, Measurement], reference: GPT2
    ) -> dict[str, Outcome]:
        """Return the outcomes of a cell, with its limit and the ratios to BASE."""
        limit = confirmed_limit(
            [*measurements.values()],
            reference,
            self._best[self._buffer_bytes(cell)],
            lambda: self._bandwidth(cell, REPEATS),
        )
        outcomes = {
            name: self._outcome(own, reference, limit) for name, own in measurements.items()
        }
        valid = [name for name, each in outcomes.items() if each.result and each.result["valid"]]
        for name, outcome in outcomes.items():
            if outcome.result is not None:
                outcome.result["ratio_to_huggingface"] = (
                    ratio(measurements[name].rounds, measurements[BASE].rounds)
                    if {name, BASE} <= {*valid}
                    else None
                )
        return outcomes

    def _outcome(self, own: Measurement, reference: GPT2, limit: Bandwidth) -> Outcome:
        if own.error is not None and not isinstance(own.error, TimingError):
            return Outcome(None, [], own.error)
        try:
            result = own.result(reference, limit) | self.conditions
        except Exception as error:
            return Outcome(None, [], error)
        seconds = [timing.end_to_end_seconds for timing in own.rounds]
        return Outcome(result, seconds or [0.0], None)  # pytest-benchmark expects a round

    def _load(self, cell: Cell) -> Weights:
        if self._shape not in (None, cell.shape) and self.plan.device.type == "cuda":
            # torch.compile makes code for the first shapes that it meets, and replaces it by code
            # for any shape when it meets others. Here each shape is the first.
            torch.compiler.reset()
        self._shape = cell.shape
        if self._weights is None or self._weights[0] != cell.weights:
            self._forget_weights()
            self.print_line(f"weights of {cell.size} in {cell.dtype}: writing a checkpoint")
            weights = Weights(
                cell.config, self.plan.device, DTYPES[cell.dtype], synchronise=self.synchronise
            )
            self._weights = cell.weights, weights
        return self._weights[1]

    def _forget_weights(self) -> None:
        if self._weights is not None:
            self._weights[1].free()
            self._weights = None


def _rates(outcomes: dict[str, Outcome]) -> str:
    """Return the decode tokens per second of each implementation, in a line."""

    def rate(outcome: Outcome) -> str:
        result = outcome.result
        if result is None:
            return "refused" if isinstance(outcome.error, RefusedError) else "failed"
        return f"{result['decode_tokens_per_second']:.1f}" if result["valid"] else "invalid"

    rates = [f"{name} {rate(outcome)}" for name, outcome in outcomes.items()]
    return f"{', '.join(rates)} tokens/s"
