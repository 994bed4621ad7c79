"""Decode steps on CUDA, where reading a token back takes longer than computing it.

A step is captured as a graph that chooses its tokens and feeds itself. The host reads the tokens
some steps later, and drops those beyond the end.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor

from ..generation import DecodeSteps, draw_uniform, prefill
from ..model import GPT2
from ..sampling import choose

LAG = 8  # steps by which the device may be ahead: longer than a launch and a copy take
BUCKET = 128  # positions: a graph reads the cache up to the next multiple of this
KEPT = 4  # idle buffers that a model keeps: capturing takes as long as hundreds of tokens

Arriving = tuple[Tensor, "torch.cuda.Event | None"]  # token ids, and the event of their arrival


class CapturedDecodeSteps(DecodeSteps):
    """Steps that run up to LAG steps ahead of the caller while the context has room."""

    n_captured: int | None = None  # steps to run ahead in all; None before the first one

    def next_tokens(self, rows: list[list[int]], running: list[int]) -> list[int]:
        if self.n_captured is None:
            self._start(rows)
        else:
            while self.n_launched < self.n_captured and len(self.arriving) <= LAG:
                self.buffers.step(self.model, self.longest + self.n_launched)
                self._read()
        if not self.arriving:  # the context is full, and each step reads its rows anew
            return super().next_tokens(rows, running)
        token_ids, event = self.arriving.popleft()
        if event is not None:
            event.synchronize()
        return token_ids.tolist()

    def _start(self, rows: list[list[int]]) -> None:
        """Read the prompts and choose the first tokens, unless the context is full already."""
        model, n_positions = self.model, self.model.config.n_positions
        self.longest = max(map(len, rows))
        self.n_captured = max(0, min(self.n_steps, n_positions - self.longest + 1))
        self.n_launched = 0
        self.arriving: deque[Arriving] = deque()
        if self.n_captured == 0:
            return
        captured = Captured(
            batch=len(rows),
            capacity=min(n_positions, _bucket(self.longest + self.n_captured)),
            greedy=self.temperature == 0,
            top_k=self.top_k,
            vocab_size=self.vocab_size,
            weights=tuple(parameter.data_ptr() for parameter in model.parameters()),
        )
        self.buffers = _take(model, captured)
        finalize(self, _give_back, model, self.buffers)
        uniform = draw_uniform(self.generators, self.n_captured)
        self.buffers.start(model, rows, uniform, self.temperature)
        self._read()

    def _read(self) -> None:
        self.arriving.append(self.buffers.read())
        self.n_launched += 1


class Captured(NamedTuple):
    """Constants of a captured graph. Buffers serve only batches that have the same."""

    batch: int
    capacity: int
    greedy: bool
    top_k: int | None
    vocab_size: int  # ids from here on are never drawn
    weights: tuple[int, ...]  # their addresses


class StepBuffers:
    """The tensors of a step, allocated once, and on CUDA a graph for each bucket of lengths."""

    def __init__(self, model: GPT2, captured: Captured) -> None:
        device, batch, capacity = model.device, captured.batch, captured.capacity
        self.captured = captured
        self.cache = model.make_cache(batch, capacity)
        self.temperature = torch.ones((), dtype=torch.float64, device=device)
        self.uniform = torch.zeros(batch, capacity + 1, dtype=torch.float64, device=device)
        # A step changes these: the tokens to feed, their positions, and the number of the step.
        self.token_ids = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.positions = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self.chosen = torch.zeros(batch, dtype=torch.int64, device=device)  # -1: none could be
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def start(
        self, model: GPT2, rows: list[list[int]], uniform: Tensor, temperature: float
    ) -> None:
        """Read the prompts and choose the first tokens. `uniform`: float64 [batch, steps]."""
        self.uniform[:, : uniform.size(1)] = uniform.to(self.uniform.device)
        self.temperature.fill_(temperature)
        self.positions.copy_(torch.tensor([[len(row)] for row in rows]))
        self.number.zero_()
        self._choose(prefill(model, rows, self.cache))

    def step(self, model: GPT2, seen: int) -> None:
        """Feed each row its token and choose the next; the longest row then holds `seen` tokens."""
        bucket = min(self.cache.capacity, _bucket(seen))
        device = self.token_ids.device
        if device.type != "cuda":
            self._run(model, bucket)
            return
        with torch.cuda.device(device):
            if bucket not in self.graphs:
                self.graphs[bucket] = self._capture(model, bucket)
            self.graphs[bucket].replay()

    def read(self) -> Arriving:
        """Start to copy the last step's tokens to the host."""
        if self.chosen.device.type != "cuda":
            return self.chosen.clone(), None
        token_ids = torch.empty(self.chosen.shape, dtype=torch.int64, pin_memory=True)
        token_ids.copy_(self.chosen, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.chosen.device))
        return token_ids, event

    def _run(self, model: GPT2, bucket: int) -> None:
        hidden = model.transformer.run(self.token_ids, self.positions, bucket, self.cache)
        self.positions.add_(1)
        self._choose(model.head(hidden[:, -1]))

    def _choose(self, logits: Tensor) -> None:
        uniform = self.uniform.index_select(1, self.number)[:, 0]
        temperature = 0 if self.captured.greedy else self.temperature
        top_k = self.captured.top_k
        logits = logits[:, : self.captured.vocab_size]
        self.chosen.copy_(choose(logits, uniform, temperature=temperature, top_k=top_k))
        self.token_ids.copy_(self.chosen.clamp(min=0)[:, None])
        self.number.add_(1)

    def _capture(self, model: GPT2, bucket: int) -> torch.cuda.CUDAGraph:
        state = (self.token_ids, self.positions, self.number, self.chosen)
        before = [each.clone() for each in state]
        # Libraries choose kernels and allocate memory at a first call, which can't be captured.
        trial = torch.cuda.Stream()
        trial.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(trial):
            self._run(model, bucket)
        torch.cuda.current_stream().wait_stream(trial)
        graph = torch.cuda.CUDAGraph()
        # "thread_local" lets other threads go on working.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._run(model, bucket)
        # The trial's keys and values stay: they are those of the next step, which overwrites them.
        for each, value in zip(state, before, strict=True):
            each.copy_(value)
        return graph


def _bucket(seen: int) -> int:
    return -(-seen // BUCKET) * BUCKET


_idle: WeakKeyDictionary[GPT2, list[StepBuffers]] = WeakKeyDictionary()
_lock = threading.RLock()  # reentrant: the garbage collector may give back inside of `_take`


def _take(model: GPT2, captured: Captured) -> StepBuffers:
    """Reuse idle buffers with the same graphs, or create new ones."""
    with _lock:
        idle = _idle.setdefault(model, [])
        for buffers in idle:
            if buffers.captured == captured:
                idle.remove(buffers)
                return buffers
    return StepBuffers(model, captured)


def _give_back(model: GPT2, buffers: StepBuffers) -> None:
    with _lock:
        idle = _idle.setdefault(model, [])
        idle.append(buffers)
        del idle[:-KEPT]
