"""How far back a new token sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..adapters.adapter import Adapter
from ..adapters.protocol import Judged
from ..checkpoints.harmonics import ECHO, WORDS, echo
from ..checkpoints.tensors import write_checkpoint
from . import Named, id_with_number

ROWS = 3  # by chance, all of them are right once in 16^3


def view(adapter: Adapter, folder: Path) -> Named | None:
    """Read how far back a new token sees: the one after the prompt, or the one after that."""
    if (seen := _seen(adapter, folder, _by_the_prompt)) is not None:
        words = f"a loop that feeds the last {seen} tokens at most"
        return Named(words, (id_with_number("view", seen),))
    if (seen := _seen(adapter, folder, _by_a_step)) is not None:
        return _of_a_cache(seen)
    return None


def cache_view(adapter: Adapter, folder: Path) -> Named | None:
    """Read how far back a step with a cache sees."""
    seen = _seen(adapter, folder, _by_a_cached_step)
    return None if seen is None else _of_a_cache(seen)


def _of_a_cache(seen: int) -> Named:
    words = f"a step that sees the last {seen} tokens, its own among them, and none before"
    return Named(words, (id_with_number("cache-size", seen),))


def _by_the_prompt(judged: Judged, text: Tensor) -> list[int]:
    new = judged.generate(text, max_new_tokens=1, temperature=0.0)
    return [row[-1] for row in new if row]


def _by_a_step(judged: Judged, text: Tensor) -> list[int]:
    new = judged.generate(text[:, :-1], max_new_tokens=2, temperature=0.0)
    return [row[-1] for row in new if len(row) == 2]


def _by_a_cached_step(judged: Judged, text: Tensor) -> list[int]:
    _, cache = judged.prefill(text[:, :-1])
    logits, _ = judged.step(text[:, -1:], cache)
    return logits[:, -1].argmax(-1).tolist()


def _seen(adapter: Adapter, folder: Path, ask: Callable[[Judged, Tensor], list[int]]) -> int | None:
    """Return the largest distance at which the last token is seen, by halving.

    None if the first token of a full context is seen, or not even the token before the last.
    """
    drawn = torch.randint(
        len(WORDS), (ROWS, ECHO.n_positions), generator=torch.Generator().manual_seed(2)
    )
    text = torch.tensor(WORDS)[drawn]

    def sees(distance: int) -> bool:
        judged = adapter.load(write_checkpoint(folder, ECHO, echo(distance)))
        return ask(judged, text) == text[:, -distance].tolist()

    seen, unseen = 2, ECHO.n_positions
    if not sees(seen) or sees(unseen):
        return None
    while unseen - seen > 1:
        middle = (seen + unseen) // 2
        seen, unseen = (middle, unseen) if sees(middle) else (seen, middle)
    return seen
