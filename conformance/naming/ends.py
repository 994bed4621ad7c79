"""Why a text ends too late or too early: a least number of tokens, a largest one, or an id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from gpt2ref import EOS

from ..adapters.adapter import Adapter
from ..adapters.protocol import Judged
from ..checkpoints.scripts import dice
from ..checkpoints.tensors import DICE, write_checkpoint
from . import Named, id_with_number

WORD, OTHER = 262, 1135
CONTEXT = 1024
LONG_DICE = replace(DICE, n_positions=CONTEXT)
LONGER = 2  # tokens by which the second prompt is longer
STEPS = 8


def passed_over(adapter: Adapter, folder: Path) -> Named | None:
    """Read for how long EOS is passed over although it has the largest logit at every step.

    A second prompt shows whether its tokens count. A text without EOS shows that it is EOS which
    ends the others.
    """
    always = _long_die(adapter, folder / "always", {EOS: 2.0, WORD: 0.0})
    if always.logits(torch.tensor([[WORD]]))[0, -1].argmax() != EOS:
        return None
    what = "EOS passed over where it has the largest logit"
    for most in (64, CONTEXT - 1 - LONGER):
        first, second = (_words(always, length, most) for length in (1, 1 + LONGER))
        if not first or second is None:
            return None
        if first < most:
            break
    else:
        return Named(f"{what}, at all of {most} steps", ("eos-never-chosen",))
    never = _long_die(adapter, folder / "never", {WORD: 2.0, OTHER: 0.0})
    if _words(never, 1, most) != most:
        return None
    if second == first:
        return Named(
            f"{what}, so that no text has fewer than {first} new tokens",
            (id_with_number("min-new-tokens", first),),
        )
    if second == max(0, first - LONGER):
        return Named(
            f"{what}, so that no text with its prompt has fewer than {first + 1} tokens",
            (id_with_number("min-length", first + 1),),
        )
    return Named(
        f"{what}, {first} times after a prompt of 1 token, {second} times after one of {1 + LONGER}"
    )


def _long_die(adapter: Adapter, folder: Path, faces: Mapping[int, float]) -> Judged:
    tensors = dice(faces) | {"wpe.weight": torch.zeros(CONTEXT, DICE.n_embd)}
    return adapter.load(write_checkpoint(folder, LONG_DICE, tensors))


def _words(judged: Judged, length: int, most: int) -> int | None:
    """Return how often WORD is said after a prompt of this length; None if anything else is."""
    prompt = torch.full((1, length), WORD)
    (new,) = judged.generate(prompt, max_new_tokens=most, temperature=0.0)
    return len(new) if set(new) <= {WORD} else None


Successors = Callable[..., list[int]]  # of a token, so many of them


def successors(judged: Judged) -> Successors:
    """Return a function that generates after one token, or after it and those before it."""

    def new(token: int, steps: int = STEPS, before: int = 0) -> list[int]:
        prompt = torch.arange(token - before, token + 1)[None] % EOS
        (row,) = judged.generate(prompt, max_new_tokens=steps, temperature=0.0)
        return row

    return new


def _right(new: list[int], token: int) -> bool:
    return new == [(token + step) % EOS for step in range(1, len(new) + 1)]


def most_new_tokens(judged: Judged, most: int, steps: int) -> Named | None:
    """Read whether `most` new tokens end any text of successors, with any prompt."""
    new = successors(judged)
    other, longer = new(20000, steps), new(20000, steps, before=LONGER)
    if not (len(other) == most and _right(other, 20000) and _right(longer, 20000)):
        return None
    if len(longer) == most:
        return Named(
            f"never more than {most} new tokens",
            (id_with_number("max-new-tokens", most),),
        )
    if len(longer) == most - LONGER:
        return Named(f"never more than {most + 1} tokens, prompt and new ones together")
    return None


def end_id(judged: Judged, token: int) -> Named | None:
    """Read whether a text of successors ends at this id, or at the one before it."""
    new = successors(judged)
    if new(token - 1) == [] and new(token - 3) == [(token - 2) % EOS, (token - 1) % EOS]:
        return Named(
            f"a text that ends at id {token}, as at EOS", (id_with_number("end-id", token),)
        )
    last = (token - 1) % EOS
    if new(last - 1) == [last] and new(last - 3)[-1:] == [last] and len(new(last)) == STEPS:
        return Named(f"a text that ends after id {last}", (id_with_number("end-id", last),))
    return None


def passed_over_id(judged: Judged, token: int) -> Named | None:
    """Read whether this id is passed over by one token, although it has the largest logit."""
    new = successors(judged)
    before, after = (token - 1) % EOS, (token + STEPS) % EOS
    if new(before, 1) != [token] and _right(new(token), token) and _right(new(after), after):
        return Named(f"id {token} passed over where it has the largest logit", ("token-biased",))
    return None
