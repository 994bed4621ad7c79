"""A catalogue of wrong GPT-2s: mistakes that people made, each as the few lines that it takes, and what must catch it.

Each is an implementation like any other, and can be judged: `--implementation conformance.defects:gelu-erf`. Two at once:
`conformance.defects:gelu-erf+no-scale`. `pytest conformance/ --defects` judges them all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .catalogue import DEFECTS, EQUIVALENT, VARIANTS, Entry, combined

FAMILIES = (
    "weights",
    "loading",
    "architecture",
    "attention",
    "cache",
    "sampling",
    "stopping",
    "tokenizer",
    "numerics",
    "variants",
)

for _family in FAMILIES:
    importlib.import_module(f".{_family}", __name__)

__all__ = ["DEFECTS", "EQUIVALENT", "FAMILIES", "VARIANTS", "Entry", "combined"]


def __getattr__(name: str) -> Callable[..., Any]:
    """The `load` function of a defect, or of several joined by +."""
    try:
        return combined(*name.split("+"))
    except KeyError:
        raise AttributeError(f"no defect {name!r} in the catalogue") from None
