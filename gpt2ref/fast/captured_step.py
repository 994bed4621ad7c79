"""The generation loop on CUDA, where looking at tokens takes longer than computing them.

The steps of `decoding.one_by_one` as one captured graph that chooses its tokens and feeds itself. The host reads them a few
steps late; what was computed beyond the end is thrown away.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..decoding import Task, one_by_one, prefill, uniform
from ..model import GPT2, Place, visible
from ..sampling import choose, refuse

LAG = 8  # steps that the device may be ahead of the host: more than the time of a launch and a copy, in steps
BUCKET = 128  # positions: a graph reads the cache up to the next multiple, so that few graphs do and little is read in vain
KEPT = (
    4  # decoders without work that a model keeps, as capturing takes as long as hundreds of tokens
)


def ahead(task: Task) -> Iterator[list[int]]:
    """As `one_by_one`, up to LAG steps ahead of who asks for them."""
    model, rows, running, n_positions = (
        task.model,
        task.rows,
        task.running,
        task.model.config.n_positions,
    )
    longest = max(map(len, rows))
    n_ahead = max(
        0, min(task.n_steps, n_positions - longest + 1)
    )  # the rest, past the context, reads its rows anew each time
    if n_ahead:
        capacity = min(n_positions, -(-(longest + n_ahead) // BUCKET) * BUCKET)
        weights = tuple(parameter.data_ptr() for parameter in model.parameters())
        decoder = _take(
            model, Kind(len(rows), capacity, task.temperature == 0, task.top_k, weights)
        )
        try:
            decoder.start(model, rows, uniform(task.generators, n_ahead), task.temperature)
            yield _arrived(*decoder.read(), running)
            coming: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()
            for step in range(1, n_ahead):
                decoder.step(model, longest + step)
                coming.append(decoder.read())
                if len(coming) > LAG:
                    yield _arrived(*coming.popleft(), running)
            while coming:
                yield _arrived(*coming.popleft(), running)
        finally:
            _give_back(model, decoder)
    yield from one_by_one(replace(task, n_steps=task.n_steps - n_ahead))


def _arrived(token_ids: Tensor, event: torch.cuda.Event | None, running: list[int]) -> list[int]:
    if event is not None:
        event.synchronize()
    arrived: list[int] = token_ids.tolist()
    refuse([row for row in running if arrived[row] < 0])
    return arrived


class Kind(NamedTuple):
    """What is fixed in a captured step."""

    batch: int
    capacity: int
    greedy: bool
    top_k: int | None
    weights: tuple[int, ...]  # their addresses


class Decoder:
    """Steps that need nothing from the host, in buffers allocated once: on CUDA a graph for each bucket of lengths."""

    def __init__(self, model: GPT2, kind: Kind) -> None:
        device, batch, capacity = model.device, kind.batch, kind.capacity
        self.kind = kind
        self.cache = model.make_cache(batch, capacity)
        self.temperature = torch.ones((), dtype=torch.float64, device=device)
        self.uniform = torch.zeros(batch, capacity + 1, dtype=torch.float64, device=device)
        self.rows = torch.arange(batch, device=device)[:, None]
        # What a step changes: the tokens to feed, where they stand, and the number of the step.
        self.token_ids = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.positions = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self.chosen = torch.zeros(
            batch, dtype=torch.int64, device=device
        )  # -1 where no token could be
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def start(
        self, model: GPT2, rows: list[list[int]], uniform: Tensor, temperature: float
    ) -> None:
        """Read the prompts, and choose each row's first token. `uniform`: float64 [batch, steps]."""
        self.uniform[:, : uniform.size(1)] = uniform.to(self.uniform.device)
        self.temperature.fill_(temperature)
        self.positions.copy_(torch.tensor([[len(row)] for row in rows]))
        self.number.zero_()
        self._choose(prefill(model, rows, self.cache))

    def step(self, model: GPT2, seen: int) -> None:
        """Feed each row its token and choose the next; the longest row then holds `seen`."""
        bucket = min(self.cache.capacity, -(-seen // BUCKET) * BUCKET)
        if self.rows.device.type != "cuda":
            self._run(model, bucket)
            return
        with torch.cuda.device(self.rows.device):
            if bucket not in self.graphs:
                self.graphs[bucket] = self._capture(model, bucket)
            self.graphs[bucket].replay()

    def read(self) -> tuple[Tensor, torch.cuda.Event | None]:
        """The tokens of the last step, on their way to the host, and what tells that they are there."""
        if self.chosen.device.type != "cuda":
            return self.chosen.clone(), None
        token_ids = torch.empty(self.chosen.shape, dtype=torch.int64, pin_memory=True)
        token_ids.copy_(self.chosen, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.chosen.device))
        return token_ids, event

    def _run(self, model: GPT2, bucket: int) -> None:
        place = Place(
            self.positions, (self.rows, self.positions), bucket, visible(self.positions, bucket)
        )
        hidden = model.transformer.run(self.token_ids, place, self.cache)
        self.positions.add_(1)
        self._choose(model.head(hidden[:, -1]))

    def _choose(self, logits: Tensor) -> None:
        numbers = self.uniform.index_select(1, self.number)[:, 0]
        temperature = 0 if self.kind.greedy else self.temperature
        self.chosen.copy_(choose(logits, numbers, temperature=temperature, top_k=self.kind.top_k))
        self.token_ids.copy_(self.chosen.clamp(min=0)[:, None])
        self.number.add_(1)

    def _capture(self, model: GPT2, bucket: int) -> torch.cuda.CUDAGraph:
        state = (self.token_ids, self.positions, self.number, self.chosen)
        before = [each.clone() for each in state]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(
            aside
        ):  # libraries choose kernels and allocate at the first call, which can't be captured
            self._run(model, bucket)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, capture_error_mode="thread_local"
        ):  # other threads go on working
            self._run(model, bucket)
        # The keys and values that the trial has left are those of the step to come, which writes them again.
        for each, value in zip(state, before, strict=True):
            each.copy_(value)
        return graph


_idle: WeakKeyDictionary[GPT2, list[Decoder]] = WeakKeyDictionary()
_lock = threading.Lock()


def _take(model: GPT2, kind: Kind) -> Decoder:
    """One of this kind without work, or a new one."""
    with _lock:
        decoders = _idle.setdefault(model, [])
        for decoder in decoders:
            if decoder.kind == kind:
                decoders.remove(decoder)
                return decoder
    return Decoder(model, kind)


def _give_back(model: GPT2, decoder: Decoder) -> None:
    with _lock:
        decoders = _idle.setdefault(model, [])
        decoders.append(decoder)
        del decoders[:-KEPT]
