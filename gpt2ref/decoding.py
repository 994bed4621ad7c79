"""The generation loop of the textbooks, with a cache: feed the newest tokens, choose the next ones, look at them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .fast.compiled_step import compiled_step
from .model import GPT2, KVCache
from .sampling import choose, refuse


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


def one_by_one(task: Task) -> Iterator[list[int]]:
    """Feed, choose, look."""
    model, rows, n_positions = task.model, task.rows, task.model.config.n_positions
    cache: KVCache | None = None
    feed: Callable[[list[int]], Tensor] | None = None
    for step in range(task.n_steps):
        overflowing = max(len(rows[row]) for row in task.running) > n_positions
        if cache is None or overflowing:
            capacity = min(n_positions, max(map(len, rows)) + task.n_steps - step)
            cache = model.make_cache(len(rows), capacity)
            logits, feed = prefill(model, [row[-n_positions:] for row in rows], cache), None
        else:
            feed = feed or feeding(model, cache)
            # A row that has ended is fed its last token again and again, in the same place, and is not looked at.
            cache.lengths = [min(len(row), n_positions) - 1 for row in rows]
            logits = feed([row[-1] for row in rows])
        numbers = uniform(task.generators, 1).to(logits.device)[:, 0]
        token_ids: list[int] = choose(
            logits, numbers, temperature=task.temperature, top_k=task.top_k
        ).tolist()
        refuse([row for row, token_id in enumerate(token_ids) if token_id < 0])
        yield token_ids


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


def feeding(model: GPT2, cache: KVCache) -> Callable[[list[int]], Tensor]:
    """What feeds each row one token, [batch], and gives the logits after it, [batch, vocab]."""
    return compiled_step(model, cache) or (
        lambda ids: model(torch.tensor(ids, device=model.device)[:, None], cache)[:, -1]
    )


def uniform(generators: list[random.Random], n_steps: int) -> Tensor:
    """float64 [batch, n_steps]: what each row's generator gives next."""
    return torch.tensor(
        [[each.random() for _ in range(n_steps)] for each in generators], dtype=torch.float64
    )
