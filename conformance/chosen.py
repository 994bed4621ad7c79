"""What a run is about, where the caller says more than the names on a command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pytest

from .requirements import REQUIREMENTS

if TYPE_CHECKING:
    from .adapters.adapter import Adapter

# Of a pytest.Config: adapters that are judged in place of those of --implementation, and the
# requirements that are asked. Without them, it is what the command line says.
ADAPTERS: pytest.StashKey[list[Adapter]] = pytest.StashKey()
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
    """Return the requirements of these families. Raises ValueError for one that there is not."""
    names = [families] if isinstance(families, str) else list(families)
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
