"""The entries of the catalogue, and how a class becomes one."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import FunctionType
from typing import Any, TypeVar

from ..requirements import REQUIREMENTS
from .complete import CompleteGPT2
from .constants import Measured, measured
from .curve import ReadCurve
from .numbered import NUMBERED
from .read import Read
from .read_attention import ReadAttention
from .read_block import ReadBlock
from .read_head import ReadHead
from .read_n_head import ReadNHead
from .read_positions import ReadPositions

KNOWLEDGE = "from knowledge: no report was looked up"
Class = TypeVar("Class", bound=type[CompleteGPT2])

# Requirements about one fact of the forward pass: their entries are what a probe tries.
FACTS = frozenset(
    {
        *("activation", "layer-norm", "blocks", "final-norm", "attention", "embedding"),
        *("vectors", "head", "transpose"),
    }
)


@dataclass(frozen=True)
class Entry:
    """A way to write GPT-2, with the id that it has everywhere.

    `requirement`: the one that must fail; for a variant, the one that it is about; None if nothing
    changes. `kind`: the class that overrides a step.
    """

    id: str
    family: str
    what: str
    source: str
    requirement: str | None
    kind: type[CompleteGPT2]

    @property
    def specification(self) -> str:
        """The name that `combined` takes."""
        return self.id

    @cached_property
    def steps(self) -> frozenset[str]:
        """The methods of CompleteGPT2 that the entry overrides."""
        own = self.kind.__mro__[: self.kind.__mro__.index(CompleteGPT2)]
        names = {name for kind in own for name in vars(kind) if not name.startswith("__")}
        return frozenset(name for name in names if hasattr(CompleteGPT2, name))


Mistake = Entry | Measured | Read  # what a GPT-2 may be given
_READ = {
    kind.name: kind
    for kind in (ReadCurve, ReadPositions, ReadAttention, ReadBlock, ReadHead, ReadNHead)
}

DEFECTS: dict[str, Entry] = {}  # must be caught, by the requirement that is named
EQUIVALENT: dict[str, Entry] = {}  # look like mistakes and change nothing: must not be flagged
VARIANTS: dict[str, Entry] = {}  # do as another source does: reported as variants, never failed


def defect(name: str, caught_by: str, source: str = KNOWLEDGE) -> Callable[[Class], Class]:
    """Enter a class as a defect. Its docstring says what goes wrong."""
    return _entered(DEFECTS, name, caught_by, source)


def equivalent(name: str, source: str = KNOWLEDGE) -> Callable[[Class], Class]:
    """Enter a class that is right. Its docstring says why nothing changes."""
    return _entered(EQUIVALENT, name, None, source)


def variant(name: str, of: str, source: str) -> Callable[[Class], Class]:
    """Enter a class as a variant. Its docstring says what the sources do, and the verdict."""
    return _entered(VARIANTS, name, of, source)


def _entered(
    entries: dict[str, Entry], name: str, requirement: str | None, source: str
) -> Callable[[Class], Class]:
    if requirement is not None and requirement not in REQUIREMENTS:
        raise ValueError(f"defect {name!r}: {requirement!r} is not in requirements.py")
    if name in DEFECTS | EQUIVALENT | VARIANTS:
        raise ValueError(f"defect {name!r}: there are two of this name")

    def enter(kind: Class) -> Class:
        what = " ".join((kind.__doc__ or "").split())
        family = kind.__module__.rpartition(".")[2]
        entries[name] = Entry(name, family, what, source, requirement, kind)
        return kind

    return enter


def combined(*names: str) -> type[CompleteGPT2]:
    """Return a class with all of these entries, as `with_mistakes` does.

    Raises KeyError for a name that is not in the catalogue, and has no value that it can have.
    """
    return with_mistakes(*map(mistake_of, names))


def mistake_of(name: str) -> Mistake:
    if name.partition("=")[0] in NUMBERED:
        return with_number(name)
    if read := _READ.get(name.partition("=")[0]):
        return read.of(name)
    return measured(name) if "=" in name else (DEFECTS | EQUIVALENT | VARIANTS)[name]


def with_number(specification: str) -> Entry:
    """Return the entry of name=number (see `numbered`). Raises KeyError if there is none."""
    name, _, value = specification.partition("=")
    numbered = NUMBERED[name]
    example = DEFECTS[numbered.example]
    try:
        number = float(value)
    except ValueError:
        raise KeyError(specification) from None
    given = int(number) if number.is_integer() else number
    kind = type(specification, (example.kind,), {name.replace("-", "_"): given})
    return replace(example, id=specification, what=numbered.what.format(value), kind=kind)


def id_with_number(name: str, number: float) -> str:
    """Return the id of a mistake with this number: that of the example, if it has the same."""
    example = NUMBERED[name].example
    same = getattr(DEFECTS[example].kind, name.replace("-", "_")) == number
    return example if same else f"{name}={number:g}"


def with_mistakes(*granted: Mistake) -> type[CompleteGPT2]:
    """Return a GPT-2 with these mistakes. Raises TypeError if no class can have them all.

    The first has a step that two of them override and neither passes on.
    """
    names = "+".join(grant.id for grant in granted)
    return type(names, tuple(each.kind for each in in_order(granted)) or (CompleteGPT2,), {})


def in_order(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """Return the mistakes in an order in which no one hides another, if there is one.

    A step that does not go on to the one it overrides hides it. Variants come first, so that a
    mistake gets what they make of an argument: None for a top_k of 0.
    """
    ordered = sorted(mistakes, key=lambda each: each.id not in VARIANTS)
    for _ in mistakes:
        for (i, first), (j, second) in itertools.combinations(enumerate(ordered), 2):
            if _hides(first, second) and not _hides(second, first):
                ordered.insert(j, ordered.pop(i))
                break
    return ordered


def _hides(first: Mistake, second: Mistake) -> bool:
    """Return whether the first overrides a step of the second and does not go on to it."""
    return any(
        not _goes_on(inspect.getattr_static(first.kind, step))
        for step in first.steps & second.steps
    )


def _goes_on(step: Any) -> bool:
    """Return whether a method, a class method or a property goes on to the one it overrides.

    A plain value, such as a number of heads, does not.
    """
    function = getattr(step, "fget", None) or getattr(step, "__func__", step)
    return isinstance(function, FunctionType) and "super" in function.__code__.co_names


def defects_of(*requirements: str) -> dict[str, type[CompleteGPT2]]:
    """Return the defects that these requirements must catch, by id, in the requirements' order."""
    return {
        entry.id: entry.kind
        for requirement in requirements
        for entry in DEFECTS.values()
        if entry.requirement == requirement
    }


def defects_of_facts() -> dict[str, type[CompleteGPT2]]:
    """Return all defects of one fact of the forward pass, by id: what may explain logits."""
    return defects_of(*(r.id for r in REQUIREMENTS.values() if r.family in FACTS))
