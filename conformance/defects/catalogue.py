"""What is in the catalogue, and the lists of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..requirements import REQUIREMENTS
from .parts import Parts

KNOWLEDGE = "from knowledge: no report was looked up"
Class = TypeVar("Class", bound=type[Parts])


@dataclass(frozen=True)
class Entry:
    """`requirement`: the one that must fail; of a variant, the one that it is about; None if nothing changes."""

    id: str
    family: str
    what: str
    source: str
    requirement: str | None
    parts: type[Parts]


DEFECTS: dict[str, Entry] = {}  # must be caught, by the requirement that is named
EQUIVALENT: dict[str, Entry] = {}  # look like mistakes and change nothing: must not be flagged
VARIANTS: dict[str, Entry] = {}  # do as another source does: must not be flagged either, but told


def defect(name: str, caught_by: str, source: str = KNOWLEDGE) -> Callable[[Class], Class]:
    """Enters a class; its docstring says what goes wrong."""
    return _entered(DEFECTS, name, caught_by, source)


def equivalent(name: str, source: str = KNOWLEDGE) -> Callable[[Class], Class]:
    """Enters a class; its docstring says why nothing changes."""
    return _entered(EQUIVALENT, name, None, source)


def variant(name: str, of: str, source: str) -> Callable[[Class], Class]:
    """Enters a class; its docstring says what the sources do, and what the verdict is."""
    return _entered(VARIANTS, name, of, source)


def _entered(
    entries: dict[str, Entry], name: str, requirement: str | None, source: str
) -> Callable[[Class], Class]:
    if requirement is not None and requirement not in REQUIREMENTS:
        raise ValueError(f"defect {name!r}: {requirement!r} is not in requirements.py")
    if name in DEFECTS | EQUIVALENT | VARIANTS:
        raise ValueError(f"defect {name!r}: there are two of this name")

    def enter(parts: Class) -> Class:
        what = " ".join((parts.__doc__ or "").split())
        entries[name] = Entry(
            name, parts.__module__.rpartition(".")[2], what, source, requirement, parts
        )
        return parts

    return enter


def combined(*names: str) -> type[Parts]:
    """An implementation with all of these. Where two replace the same step, the first one has it. KeyError for no such name."""
    entries = DEFECTS | EQUIVALENT | VARIANTS
    return type("+".join(names), tuple(entries[name].parts for name in names), {})
