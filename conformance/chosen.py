"""Chooses what a run asks, if not everything: some families, or what `--quick` asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from .requirements import REQUIREMENTS

# Of a pytest.Config: the requirements that are asked. Without them, all are.
CHOSEN: pytest.StashKey[frozenset[str]] = pytest.StashKey()

FAMILIES = tuple(dict.fromkeys(each.family for each in REQUIREMENTS.values()))
# What the logits of small checkpoints tell: `--quick`.
_QUICK = (
    "transpose",
    "activation",
    "layer-norm",
    "blocks",
    "final-norm",
    "attention",
    "embedding",
    "vectors",
    "head",
)
LARGE = frozenset({"gpt2_124m", "full_context"})  # fixtures of large checkpoints


def of_families(families: Iterable[str]) -> frozenset[str]:
    """Return the requirements of these families. Raises ValueError for none, and for others."""
    names = [families] if isinstance(families, str) else list(families)
    if not names:
        raise ValueError(f"families: {families!r}, expected some of {', '.join(FAMILIES)}")
    for name in names:
        if name not in FAMILIES:
            raise ValueError(f"families: {name!r}, expected some of {', '.join(FAMILIES)}")
    return frozenset(each.id for each in REQUIREMENTS.values() if each.family in names)


QUICK = of_families(_QUICK) | {"parity.float32"}


def left_out(asked: Iterable[str]) -> str:
    """Say what else there is to ask: whole families, and parts of families."""
    rest = [each for name, each in REQUIREMENTS.items() if name not in set(asked)]
    return ", ".join(
        _part(family, [each.name for each in rest if each.family == family])
        for family in dict.fromkeys(each.family for each in rest)
    )


def _part(family: str, names: Sequence[str]) -> str:
    whole = len(of_families([family]))
    return family if len(names) == whole else f"{len(names)} of {family}"
