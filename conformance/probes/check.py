"""From what a probe reads to an outcome: right, or a failure that names the mistakes.

The mistakes are given, by their ids in the catalogue: first those of the requirement's own fact,
then any other that changes the forward pass. Logits that are exactly those of a GPT-2 with one
other mistake say that the requirement's own fact is right. That mistake is granted, and the
requirement that is about it fails. In half precision nothing is granted, as a mistake may show in
one probe and not in the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..adapters.adapter import Adapter
from ..checkpoints.tensors import write_checkpoint
from ..outcomes import Failure, NotApplicable
from .experiment import COARSE, Experiment, Kind
from .numbers import NumberProbe

Kinds = Mapping[str, Kind]


def coarser(found: object, judged: object) -> Failure:
    """Return the failure of what is off by no more than a coarser rounding."""
    return Failure(
        f"right to the rounding of {found}, but not of {judged}: a small mistake, or an engine "
        "that computes in less. Only the adapter of such an engine declares its precision"
    )


def too_coarse(shift: float, hidden: object) -> Failure:
    """Return the failure of logits that are rounded with so large a shift that they hide this."""
    return Failure(
        f"all logits are shifted, by up to {shift:.3g}, and rounded with it: {hidden} would not "
        "show"
    )


@dataclass
class Observation:
    """An experiment, and the logits that an implementation gave for it."""

    experiment: Experiment
    logits: Tensor
    kinds: Kinds  # all mistakes that may explain them

    def __post_init__(self) -> None:
        self.experiment = self.experiment.of_shifted(self.logits)

    @cached_property
    def right(self) -> bool:
        return self.experiment.distance(self.logits) <= self.experiment.allowed

    @cached_property
    def causes(self) -> tuple[str, ...]:
        """The ids of all mistakes that explain the logits."""
        return tuple(self.experiment.explained_by(self.logits, self.kinds))

    def check(self, own: Kinds, expected: str) -> None:
        """Raise Failure unless the logits are GPT-2's, or those of a mistake that is granted.

        It names the mistakes of the requirement's `own` fact that explain the logits, or else any.
        """
        __tracebackhide__ = True
        experiment = self.experiment
        self._check_that_it_would_show(own)
        if self.right:
            return
        if found := tuple(experiment.explained_by(self.logits, own)):
            raise Failure(" or ".join(found), expected=expected, mistakes=found, own=True)
        if self.causes and self.experiment.dtype.itemsize >= 4:
            return
        if self.causes:
            raise Failure(
                "can't be read; the logits are exactly those of another mistake: "
                + " or ".join(self.causes),
                mistakes=self.causes,
            )
        if precision := experiment.coarser_precision(self.logits):
            raise coarser(precision, experiment.dtype)
        distance = experiment.distance(self.logits)
        raise Failure(
            f"{experiment.design.name}: logits are {distance:.1e} off, "
            f"{distance / experiment.allowed:.3g} times the allowed {experiment.allowed:.1e}, "
            "and no single known mistake gives them"
        )

    def _check_that_it_would_show(self, own: Kinds) -> None:
        experiment = self.experiment
        shows = {name: experiment.effect(kind) / experiment.allowed for name, kind in own.items()}
        if experiment.dtype.itemsize >= 4:
            unseen = [name for name, ratio in shows.items() if ratio <= 10]
            if unseen and experiment.shift:
                raise too_coarse(experiment.shift, ", ".join(unseen))
            assert not unseen, f"the probe would not see {unseen}"
        elif shows and max(shows.values()) <= 2:
            raise NotApplicable(f"in {experiment.dtype} it can't be told from {', '.join(shows)}")


def check_numbers(
    adapter: Adapter,
    probe: NumberProbe,
    reading: Callable[[str, Any, Any], None],
    others: Kinds = MappingProxyType({}),
) -> None:
    """Raise Failure unless the numbers that are read out of the logits are GPT-2's.

    `reading` reports them. `others` are the mistakes of other facts, which are granted.
    """
    __tracebackhide__ = True
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), probe.config, probe.tensors())
        logits = adapter.load(folder).logits(probe.token_ids)
    if shift := probe.shift_of(logits):
        alike = set(probe.explained_by(probe.expected, probe.kinds))  # it shows elsewhere
        probe.shift = shift
        hidden = set(probe.explained_by(probe.expected, probe.kinds)) - alike
        if hidden:
            raise too_coarse(shift, ", ".join(sorted(hidden)))
    numbers = probe.read(logits)
    reading(probe.quantity, *probe.reading(numbers))
    if probe.right(numbers):
        return
    if found := tuple(probe.explained_by(numbers, probe.kinds)):
        raise Failure(" or ".join(found), expected=probe.right_words, mistakes=found, own=True)
    if probe.dtype.itemsize >= 4 and next(probe.explained_by(numbers, others), None):
        return
    for coarse in COARSE:
        if probe.right(numbers, dtype=coarse):
            raise coarser(coarse, probe.dtype)
    raise Failure(probe.describe(numbers))
