"""Give an attention of the reference another mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def remasked(args: tuple[Any, ...], change: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    """Return the arguments of an attention's `forward` with a changed mask.

    `change` gets what is seen, bool [batch, 1, query, key], and returns that or what is added to
    the scores.
    """
    x, places, mask, past = args
    changed = change(mask == 0)
    if changed.dtype == torch.bool:
        changed = torch.zeros(changed.shape, dtype=x.dtype).masked_fill(~changed, float("-inf"))
    return x, places, changed, past
