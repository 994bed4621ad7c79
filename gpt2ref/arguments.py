"""Check the arguments of the sampler and the generation loop before any work.

Each function returns its arguments as Python's own numbers, and raises TypeError or ValueError that
names the argument, its value and what is allowed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from numbers import Integral
from operator import index
from typing import SupportsFloat, TypeVar

from torch import Tensor

from .config import EOS

Number = TypeVar("Number", int, float)


def check_options(
    max_new_tokens: int, temperature: float, top_k: int | None, seed: int | None
) -> tuple[int, float, int | None, int | None]:
    """Check the options that `sample`, `generate`, `stream` and the command line share."""
    max_new_tokens = _scalar("max_new_tokens", max_new_tokens, index, "an integer")
    seed = None if seed is None else _scalar("seed", seed, index, "an integer")
    for name, value in (("max_new_tokens", max_new_tokens), ("seed", seed or 0)):
        if value < 0:
            raise ValueError(f"{name}={value}: expected at least 0")
    return max_new_tokens, *check_sampling(temperature, top_k), seed


def check_sampling(temperature: float, top_k: int | None) -> tuple[float, int | None]:
    """Check the options of the sampler."""
    given = temperature
    temperature = _scalar("temperature", given, float, "a number")
    if not 0 <= temperature <= sys.float_info.max:
        raise ValueError(f"temperature={given}: expected a finite number of at least 0")
    if top_k is not None:
        top_k = _scalar("top_k", top_k, index, "an integer or None")
        if top_k < 1:
            raise ValueError(f"top_k={top_k}: expected at least 1, or None for no restriction")
    return temperature, top_k


def check_vocab_size(vocab_size: int | None, largest: int) -> int:
    """Check how many ids may be drawn, at most all of the model's. None means all of them."""
    if vocab_size is None:
        return largest
    vocab_size = _scalar("vocab_size", vocab_size, index, "an integer or None")
    if not 1 <= vocab_size <= largest:
        raise ValueError(
            f"vocab_size={vocab_size}: expected 1 to {largest}, the model's own, or None"
        )
    return vocab_size


def check_rows(token_ids: Sequence[Sequence[int]] | Tensor, vocab_size: int) -> list[list[int]]:
    """Return the rows as lists of int, with EOS for an empty one."""
    values = token_ids.tolist() if isinstance(token_ids, Tensor) else token_ids
    try:
        rows: list[list[int]] = [
            list(row.tolist() if isinstance(row, Tensor) else row) or [EOS] for row in values
        ]
    except TypeError:
        raise TypeError(
            f"token_ids: {token_ids!r}, expected rows of ids such as [[15496, 995]]"
        ) from None
    for number, row in enumerate(rows):
        for token_id in row:
            # NumPy's integers are Integral too.
            if isinstance(token_id, bool) or not isinstance(token_id, Integral):
                raise TypeError(f"token_ids: {token_id!r} in row {number}, expected an integer")
            if not 0 <= token_id < vocab_size:
                raise ValueError(
                    f"token_ids: {token_id} in row {number}, expected 0 to {vocab_size - 1}"
                )
    return [[int(token_id) for token_id in row] for row in rows]


def _scalar(name: str, value: object, convert: Callable[..., Number], expected: str) -> Number:
    """Convert a number of Python or NumPy, or a tensor without dimensions, but no bool."""
    kind = str(getattr(value, "dtype", type(value).__name__))
    is_scalar = isinstance(value, SupportsFloat) and getattr(value, "ndim", 0) == 0
    if is_scalar and "bool" not in kind and "complex" not in kind:
        try:
            return convert(value)
        except OverflowError:  # an integer beyond every float
            return convert("inf")
        except (TypeError, ValueError, RuntimeError):
            pass
    raise TypeError(f"{name}={value!r}: expected {expected}")
