"""Decode steps on CUDA, where reading a token back takes longer than computing it.

A step is captured as a graph that chooses its tokens and feeds itself (`step_buffers.py`). The host
reads the tokens some steps later, and drops those beyond the end.
"""

from __future__ import annotations

import threading
from collections import deque
from weakref import WeakKeyDictionary, finalize

import torch

from ..generation import DecodeSteps, draw_uniform
from ..model import GPT2
from .compiled_step import wants_compiled_step
from .step_buffers import Arriving, Captured, StepBuffers, bucket_of

LAG = 8  # steps by which the device may be ahead: longer than a launch and a copy take
KEPT = 4  # idle buffers that a model keeps: capturing takes as long as hundreds of tokens
KEPT_SHARE = 8  # and they take at most an eighth of a GPU's memory


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
        greedy = self.temperature == 0
        unrestricted = greedy or self.top_k is None or self.top_k >= self.vocab_size
        captured = Captured(
            batch=len(rows),
            capacity=min(n_positions, bucket_of(self.longest + self.n_captured)),
            greedy=greedy,
            top_k=None if unrestricted else self.top_k,
            vocab_size=self.vocab_size,
            compiled=wants_compiled_step(model),
            weights=tuple(parameter.data_ptr() for parameter in model.parameters()),
        )
        self.buffers = _take(model, captured)
        finalize(self, _give_back, model, self.buffers).atexit = False
        uniform = draw_uniform(self.generators, self.n_captured)
        self.buffers.start(model, rows, uniform, self.temperature)
        self._read()

    def _read(self) -> None:
        self.arriving.append(self.buffers.read())
        self.n_launched += 1


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
    """Keep the buffers for another generation, and drop those that were idle for longest."""
    with _lock:
        idle = _idle.setdefault(model, [])
        idle.append(buffers)
        if buffers.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return  # the garbage collector has called: nothing can be freed now
        kept = idle[-KEPT:]
        most = _most_bytes(buffers.device)
        while kept and sum(each.n_bytes for each in kept) > most:
            del kept[0]
        dropped, idle[:] = idle[: len(idle) - len(kept)], kept
    for each in dropped:
        each.finish()  # else the device might still compute in memory that others get


def _most_bytes(device: torch.device) -> float:
    if device.type != "cuda":
        return float("inf")
    return torch.cuda.get_device_properties(device).total_memory / KEPT_SHARE
