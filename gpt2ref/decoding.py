"""The generation loop: token ids to token ids, a step at a time.

`one_by_one` is the loop of the textbooks with a cache: feed the newest tokens, choose the next ones, look at them. On CUDA
looking at them takes longer than computing them. There `ahead` runs the same steps as one captured graph that chooses its
tokens and feeds itself, and the host reads them a few steps late; what was computed beyond the end is thrown away.
"""

from __future__ import annotations

import random
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .model import GPT2, KVCache, Place, visible
from .sampling import choose, next_token, refuse

LAG = 8  # steps that the device may be ahead of the host: more than the time of a launch and a copy, in steps
BUCKET = 128  # positions: a graph reads the cache up to the next multiple, so that few graphs do and little is read in vain
KEPT = 4  # decoders without work that a model keeps, as capturing takes as long as hundreds of tokens


@dataclass(frozen=True)
class Task:
    """What a loop is to do. Between two of its steps `rows` grow by the new tokens, and `running` loses what has ended."""

    model: GPT2
    rows: list[list[int]]
    running: list[int]  # numbers of the rows that go on
    n_steps: int
    temperature: float
    top_k: int | None
    generators: list[random.Random]  # one a row


Loop = Callable[[Task], Iterator[list[int]]]  # the next token of each row, again and again


@torch.inference_mode()
def sample_steps(
    model: GPT2,
    rows: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int | None,
    eos_token_id: int | None,
) -> Iterator[dict[int, int]]:
    """The loop, for arguments that `generation.sample` has checked; appends to `rows`, none of which may be empty.

    Yields, a step at a time, row number -> new token, for every row that goes on.
    """
    if not rows:
        return
    first = secrets.randbits(63) if seed is None else seed
    generators = [random.Random(first + row) for row in range(len(rows))]
    running = list(range(len(rows)))
    task = Task(model, rows, running, max_new_tokens, temperature, top_k, generators)
    for token_ids in loop_on(model.device)(task):
        running[:] = [row for row in running if token_ids[row] != eos_token_id]
        for row in running:
            rows[row].append(token_ids[row])
        if not running:
            return
        yield {row: token_ids[row] for row in running}


def loop_on(device: torch.device) -> Loop:
    """The faster of the two loops."""
    return ahead if device.type == "cuda" else one_by_one


def one_by_one(task: Task) -> Iterator[list[int]]:
    """Feed, choose, look."""
    model, rows, n_positions = task.model, task.rows, task.model.config.n_positions
    cache: KVCache | None = None
    for step in range(task.n_steps):
        overflowing = max(len(rows[row]) for row in task.running) > n_positions
        if cache is None or overflowing:
            capacity = min(n_positions, max(map(len, rows)) + task.n_steps - step)
            cache = model.make_cache(len(rows), capacity)
            logits = prefill(model, [row[-n_positions:] for row in rows], cache)
        else:
            # A row that has ended is fed its last token again and again, in the same place, and is not looked at.
            cache.lengths = [min(len(row), n_positions) - 1 for row in rows]
            logits = model(torch.tensor([[row[-1]] for row in rows], device=model.device), cache)[:, -1]
        numbers = uniform(task.generators, 1).to(logits.device)[:, 0]
        yield next_token(logits, numbers, temperature=task.temperature, top_k=task.top_k).tolist()


def prefill(model: GPT2, rows: list[list[int]], cache: KVCache) -> Tensor:
    """Feed rows of different lengths at once, into an empty cache: the logits after each row's last token [batch, vocab]."""
    lengths = [len(row) for row in rows]
    # Shorter rows are filled up on the right. No token of a row sees what stands after it, so any id will do.
    padded = [row + [0] * (max(lengths) - len(row)) for row in rows]
    cache.lengths = [0] * len(rows)
    hidden = model.transformer(torch.tensor(padded, device=model.device), cache)
    cache.lengths = lengths
    last = torch.tensor(lengths, device=model.device) - 1
    return model.head(hidden[torch.arange(len(rows), device=model.device), last])


def uniform(generators: list[random.Random], n_steps: int) -> Tensor:
    """float64 [batch, n_steps]: what each row's generator gives next."""
    return torch.tensor([[each.random() for _ in range(n_steps)] for each in generators], dtype=torch.float64)


def ahead(task: Task) -> Iterator[list[int]]:
    """As `one_by_one`, up to LAG steps ahead of who asks for them."""
    model, rows, running, n_positions = task.model, task.rows, task.running, task.model.config.n_positions
    longest = max(map(len, rows))
    n_ahead = max(0, min(task.n_steps, n_positions - longest + 1))  # the rest, past the context, reads its rows anew each time
    if n_ahead:
        capacity = min(n_positions, -(-(longest + n_ahead) // BUCKET) * BUCKET)
        weights = tuple(parameter.data_ptr() for parameter in model.parameters())
        decoder = _take(model, Kind(len(rows), capacity, task.temperature == 0, task.top_k, weights))
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
        self.chosen = torch.zeros(batch, dtype=torch.int64, device=device)  # -1 where no token could be
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def start(self, model: GPT2, rows: list[list[int]], uniform: Tensor, temperature: float) -> None:
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
        place = Place(self.positions, (self.rows, self.positions), bucket, visible(self.positions, bucket))
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
        with torch.cuda.stream(aside):  # libraries choose kernels and allocate at the first call, which can't be captured
            self._run(model, bucket)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads go on working
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
