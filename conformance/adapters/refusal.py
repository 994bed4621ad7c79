"""What it means that an implementation says no: where it must not, where it may, and where it does as another source does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

from .protocol import ProtocolError

# What a refusal may call it.
TEMPERATURE = ("temperature",)
TOP_K = ("top_k", "topk", "top-k", "k=")
CONTEXT = ("position", "context", "length", "window", "block_size", "n_ctx", "max")


@contextmanager
def accepted(what: str) -> Iterator[None]:
    """An exception in here is the refusal of something legal, and a failure, not the adapter's error.

    For a call beside which another, of the same kind, has just been answered: so it is not the adapter that is broken.
    """
    try:
        yield
    except ProtocolError:
        raise
    except Exception as error:
        pytest.fail(f"{what} is refused: {type(error).__name__}: {error}")


def names(error: Exception, *words: str) -> bool:
    """Whether an error says what it is about, and is no crash further down."""
    return any(word in str(error).lower() for word in words)


def variant(found: str) -> NoReturn:
    """Sources disagree here; the implementation does as another than ours does, and that is no failure."""
    pytest.skip(f"variant: {found}")
