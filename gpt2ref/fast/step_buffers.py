"""The memory of a decode step that feeds itself, and on CUDA the graphs that compute in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from ..generation import prefill
from ..model import GPT2
from .device_sampler import make_sampler
from .slower import warn_slower
from .torch_compiled import fastest_next_logits

BUCKET = 128  # positions: a graph reads the cache up to the next multiple of this

Arriving = tuple[Tensor, "torch.cuda.Event | None"]  # token ids, and the event of their arrival

_one_capture = threading.Lock()  # torch captures one graph at a time in a process


class Captured(NamedTuple):
    """Constants of a captured graph. Buffers serve only batches that have the same."""

    batch: int
    capacity: int
    greedy: bool
    top_k: int | None  # None if it restricts nothing
    vocab_size: int  # ids from here on are never drawn
    compiled: bool  # whether `compile_step` was called
    weights: tuple[int, ...]  # their addresses


class StepBuffers:
    """The tensors of a step, allocated once, and on CUDA a graph for each bucket of lengths."""

    fails = False  # whether a capture has failed: then each step is launched operator by operator

    def __init__(self, model: GPT2, captured: Captured) -> None:
        device, batch, capacity = model.device, captured.batch, captured.capacity
        self.captured, self.device = captured, device
        self.cache = model.make_cache(batch, capacity)
        self.temperature = torch.ones((), dtype=torch.float64, device=device)
        self.uniform = torch.zeros(batch, capacity + 1, dtype=torch.float64, device=device)
        # A step changes these: the tokens to feed, their positions, and the number of the step.
        self.token_ids = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.positions = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self.chosen = torch.zeros(batch, dtype=torch.int64, device=device)  # -1: none could be
        shape, top_k = (batch, captured.vocab_size), captured.top_k
        self.sample = make_sampler(*shape, model.dtype, device, greedy=captured.greedy, top_k=top_k)
        self.n_bytes = sum(each.nbytes for each in (self.cache.keys, self.cache.values))
        self.done: torch.cuda.Event | None = None  # the last step's
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        if device.type == "cuda":
            self.pool = torch.cuda.graph_pool_handle()  # all graphs': they run one after the other
            self.capture_stream = torch.cuda.Stream(device)

    def start(
        self, model: GPT2, rows: list[list[int]], uniform: Tensor, temperature: float
    ) -> None:
        """Read the prompts and choose the first tokens. `uniform`: float64 [batch, steps]."""
        if self.device.type == "cuda":
            # One stream serves a generation to its end, whichever is the caller's later.
            self.stream = torch.cuda.current_stream(self.device)
            if self.done is not None:  # an abandoned generation may still run in another stream
                self.stream.wait_event(self.done)
        with self._on_stream(), without_cudnn_attention():
            self.uniform[:, : uniform.size(1)] = uniform.to(self.device)
            self.temperature.fill_(temperature)
            lengths = torch.tensor([[len(row)] for row in rows], device=self.device)
            self.positions.copy_(lengths)
            self.number.zero_()
            self._choose(prefill(model, rows, self.cache))
        self.cache.written = [self.cache.capacity] * len(rows)  # as far as steps may write

    def step(self, model: GPT2, seen: int) -> None:
        """Feed each row its token and choose the next; the longest row then holds `seen` tokens."""
        bucket = min(self.cache.capacity, bucket_of(seen))
        with self._on_stream():
            if self.device.type == "cuda" and bucket not in self.graphs and not self.fails:
                self._try_to_capture(model, bucket)
            if bucket in self.graphs:
                self.graphs[bucket].replay()
                return
            with without_cudnn_attention():
                self._run(model, bucket)

    def read(self) -> Arriving:
        """Start to copy the last step's tokens to the host."""
        if self.device.type != "cuda":
            return self.chosen.clone(), None
        with self._on_stream():
            token_ids = torch.empty(
                self.chosen.shape, dtype=torch.int64, device="cpu", pin_memory=True
            )
            token_ids.copy_(self.chosen, non_blocking=True)
            self.done = torch.cuda.Event()
            self.done.record()
        return token_ids, self.done

    def finish(self) -> None:
        """Wait until the device has computed what was launched."""
        if self.done is not None:
            self.done.synchronize()

    def _on_stream(self) -> AbstractContextManager[object]:
        is_cuda = self.device.type == "cuda"
        return torch.cuda.stream(self.stream) if is_cuda else nullcontext()

    def _run(self, model: GPT2, bucket: int) -> None:
        next_logits = fastest_next_logits(model, self.cache, bucket)
        logits = next_logits(model, self.token_ids, self.positions, bucket, self.cache)
        self.positions.add_(1)
        self._choose(logits)

    def _choose(self, logits: Tensor) -> None:
        uniform = self.uniform.index_select(1, self.number)[:, 0]
        logits = logits[:, : self.captured.vocab_size]
        self.sample(logits, uniform, self.temperature, self.chosen)
        torch.clamp(self.chosen, min=0, out=self.token_ids[:, 0])
        self.number.add_(1)

    def _try_to_capture(self, model: GPT2, bucket: int) -> None:
        """Capture the step, or say that it can't be. The next step stays to be done in any case."""
        state = (self.token_ids, self.positions, self.number, self.chosen)
        before = [each.clone() for each in state]
        try:
            self.graphs[bucket] = self._capture(model, bucket)
        except Exception as error:  # CUDA and torch have many reasons
            self.fails = True
            warn_slower("no CUDA graph could be captured", error)
        # The trial's keys and values stay: they are those of the next step, which overwrites them.
        for each, value in zip(state, before, strict=True):
            each.copy_(value)

    def _capture(self, model: GPT2, bucket: int) -> torch.cuda.CUDAGraph:
        """Capture without a wait for the device, where other threads go on working."""
        graph = torch.cuda.CUDAGraph()
        where = torch.cuda.stream(self.capture_stream)
        with _one_capture, where, without_cudnn_attention():
            self.capture_stream.wait_stream(self.stream)
            try:
                # Libraries choose kernels and allocate memory at a first call, which can't be
                # captured.
                self._run(model, bucket)
                _forget_workspaces()
                graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
                try:
                    self._run(model, bucket)
                finally:
                    graph.capture_end()
            finally:
                _forget_workspaces()
                self.stream.wait_stream(self.capture_stream)
        return graph


def bucket_of(seen: int) -> int:
    return -(-seen // BUCKET) * BUCKET


def _forget_workspaces() -> None:
    """Let cuBLAS allocate its workspaces anew.

    It keeps one for each stream, where a graph has its address. So a graph needs its own, in its
    pool: otherwise it is freed with another graph of that stream (pytorch #193402).
    """
    torch._C._cuda_clearCublasWorkspaces()


_without_cudnn = 0  # how many are in `without_cudnn_attention` now
_cudnn_before = False
_cudnn_lock = threading.Lock()


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Let torch choose another attention: cuDNN plans anew for each length, up to a second each.

    torch has one switch for all threads, so the last one to leave sets it back.
    """
    global _without_cudnn, _cudnn_before
    switch = torch.backends.cuda
    with _cudnn_lock:
        if _without_cudnn == 0:
            _cudnn_before = switch.cudnn_sdp_enabled()
            switch.enable_cudnn_sdp(False)
        _without_cudnn += 1
    try:
        yield
    finally:
        with _cudnn_lock:
            _without_cudnn -= 1
            if _without_cudnn == 0:
                switch.enable_cudnn_sdp(_cudnn_before)
