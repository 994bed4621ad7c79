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

ROWS = 3  # or steps; by chance, all of them are right once in 16^3
CONTEXT = ECHO.n_positions


def view(adapter: Adapter, folder: Path) -> Named | None:
    """Read how far back a new token sees: the one after the prompt, or the one after that."""
    if (seen := _seen(adapter, folder, _by_the_prompt, CONTEXT)) is not None:
        words = f"a loop that feeds the last {seen} tokens at most"
        return Named(words, (id_with_number("view", seen),))
    if (seen := _seen(adapter, folder, _by_steps, CONTEXT - ROWS)) is not None:
        return _of_a_cache(seen)
    return None


def cache_view(adapter: Adapter, folder: Path) -> Named | None:
    """Read how far back a step with a cache sees."""
    seen = _seen(adapter, folder, _by_cached_steps, CONTEXT - ROWS)
    return None if seen is None else _of_a_cache(seen)


def _of_a_cache(seen: int) -> Named:
    words = f"a step that sees the last {seen} tokens, its own among them, and none before"
    return Named(words, (id_with_number("cache-size", seen),))


# Each asks a model in which a token repeats the one at a distance, and returns whether it does.


def _by_the_prompt(judged: Judged, text: Tensor, distance: int) -> bool:
    new = judged.generate(text, max_new_tokens=1, temperature=0.0)
    return new == text[:, -distance, None].tolist()


def _by_steps(judged: Judged, text: Tensor, distance: int) -> bool:
    prompt = text[:1, :-ROWS]
    (new,) = judged.generate(prompt, max_new_tokens=1 + ROWS, temperature=0.0)
    first = prompt.size(1) + 1 - distance  # the first token after the prompt is no step's
    return new[1:] == text[0, first : first + ROWS].tolist()


def _by_cached_steps(judged: Judged, text: Tensor, distance: int) -> bool:
    logits, cache = judged.prefill(text[:1, :-ROWS])
    new = []
    for token in text[:1, -ROWS:].split(1, dim=1):
        logits, cache = judged.step(token, cache)
        new.append(int(logits[0, -1].argmax()))
    first = text.size(1) - ROWS + 1 - distance
    return new == text[0, first : first + ROWS].tolist()


def _seen(
    adapter: Adapter, folder: Path, repeats: Callable[[Judged, Tensor, int], bool], furthest: int
) -> int | None:
    """Return the largest distance at which tokens are seen, by halving.

    None if those at the furthest distance are, or not even the nearest.
    """
    drawn = torch.randint(len(WORDS), (ROWS, CONTEXT), generator=torch.Generator().manual_seed(2))
    text = torch.tensor(WORDS)[drawn]

    def sees(distance: int) -> bool:
        judged = adapter.load(write_checkpoint(folder, ECHO, echo(distance)))
        return repeats(judged, text, distance)

    seen, unseen = 1 + ROWS, furthest
    if not sees(seen) or sees(unseen):
        return None
    while unseen - seen > 1:
        middle = (seen + unseen) // 2
        seen, unseen = (middle, unseen) if sees(middle) else (seen, middle)
    return seen
