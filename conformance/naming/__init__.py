"""Names mistakes of generation, and reads their numbers: run where a test of generation has failed.

Each function tries a few more checkpoints, and returns None unless what it reads is one kind of
mistake and no other. Passing implementations never come here, so it may take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..defects.catalogue import id_with_number
from ..outcomes import Failure

__all__ = ["Named", "id_with_number", "named_by", "naming"]


class Named(NamedTuple):
    """A reading in words, and the ids of the mistakes that give it: several if none can be told."""

    words: str
    mistakes: tuple[str, ...] = ()


def naming(failure: Failure, name: Callable[[], Named | None]) -> Failure:
    """Return a failure that says first what is read, and names it.

    A wrong implementation may break on further checkpoints: then the failure stays as it was.
    """
    try:
        named = name()
    except Exception:
        named = None
    if named is None:
        return failure
    read = f"{named.words}: {failure.read}"
    return Failure(read, expected=failure.expected, mistakes=named.mistakes, own=True)


@contextmanager
def named_by(name: Callable[[], Named | None]) -> Iterator[None]:
    """Name what a Failure in the block is about."""
    try:
        yield
    except Failure as failure:
        raise naming(failure, name) from None
