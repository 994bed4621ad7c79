"""A catalogue of wrong GPT-2s: mistakes that people made, and the requirement that catches each.

An entry is a class that overrides the steps of a right GPT-2 that the mistake changes. Each is an
implementation like any other, and can be judged, alone or with others:
`--implementation conformance.defects:gelu-erf`, `conformance.defects:gelu-erf+no-scale`. A constant
may have any value: `conformance.defects:epsilon=1e-6` (see `constants`).
`pytest conformance/ --defects` judges them all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from .catalogue import (
    DEFECTS,
    EQUIVALENT,
    VARIANTS,
    Entry,
    combined,
    defects_of,
    defects_of_facts,
)
from .complete import CompleteGPT2

FAMILIES = (
    "orientation",
    "weights",
    "vectors",
    "loading",
    "settings",
    "activation",
    "norms",
    "blocks",
    "embedding",
    "attention",
    "heads",
    "cache",
    "calls",
    "length",
    "padding",
    "batches",
    "sampling",
    "precision",
    "restrictions",
    "randomness",
    "stopping",
    "tokenizer",
    "pattern",
    "numerics",
    "variants",
)

for _family in FAMILIES:
    importlib.import_module(f".{_family}", __name__)

__all__ = [
    "DEFECTS",
    "EQUIVALENT",
    "FAMILIES",
    "VARIANTS",
    "CompleteGPT2",
    "Entry",
    "combined",
    "defects_of",
    "defects_of_facts",
]


def __getattr__(name: str) -> Callable[..., CompleteGPT2]:
    """Return the `load` function of an entry, or of several joined by +."""
    try:
        return combined(*name.split("+")).load
    except KeyError:
        raise AttributeError(f"no defect {name!r} in the catalogue") from None
