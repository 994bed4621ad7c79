"""Calls that an implementation may refuse, and calls that it must not refuse.

A refusal is any exception of the implementation. An outcome of the test, and a ProtocolError of an
adapter that broke, are not refusals and pass through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..outcomes import Failure, Outcome
from .forms import ProtocolError

# The words that a refusal may use for its subject.
TEMPERATURE = ("temperature",)
TOP_K = ("top_k", "topk", "top-k", "k=")
CONTEXT = ("position", "context", "length", "window", "block_size", "n_ctx", "max")


class Refusal:
    """The exception that ended a `may_refuse` block. False if there was none."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __bool__(self) -> bool:
        return self.error is not None

    def mentions(self, words: Sequence[str]) -> bool:
        """Return whether the error names its subject: it is then a refusal and not a crash."""
        return self.error is not None and mentions(self.error, words)

    def __str__(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"


@contextmanager
def may_refuse() -> Iterator[Refusal]:
    """End the block at an exception of the implementation, and keep it in the Refusal.

    with may_refuse() as refusal:
        logits = judged.logits(token_ids)
    if refusal:
        return
    """
    refusal = Refusal()
    try:
        yield refusal
    except (Outcome, ProtocolError):
        raise
    except Exception as error:
        refusal.error = error


@contextmanager
def accepted(what: str) -> Iterator[None]:
    """Raise a Failure if the implementation refuses this, which is legal.

    Use it for a call just after another of the same kind was answered. So it is known that the
    adapter works, and that an exception is a wrong answer.
    """
    with may_refuse() as refusal:
        yield
    if refusal:
        raise Failure(f"{what} is refused: {refusal}") from refusal.error


def mentions(error: Exception, words: Sequence[str]) -> bool:
    """Return whether the message of an error contains one of these words, in any case."""
    return any(word in str(error).lower() for word in words)
