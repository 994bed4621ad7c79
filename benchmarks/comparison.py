"""Compare two runs result by result, if the machine, the libraries and the work are the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .notes import OWN_LOOP
from .results import Result, ResultsError

# Two runs must not differ in these. gpt2ref's own version may differ: it is what is compared.
PROPERTIES = ("device", "device_name", "threads", "dtype", "torch", "transformers", "python")

FASTER, SLOWER, NO_DIFFERENCE = "faster", "slower", "no difference shown"


@dataclass(frozen=True)
class Pair:
    """The same valid result of two runs."""

    new: Result
    old: Result

    @property
    def ratio(self) -> float:
        """Decode tokens/s of the new median round over that of the old: above 1 is faster."""
        return self.new.tokens_per_second / self.old.tokens_per_second

    @property
    def finding(self) -> str:
        """Say whether every round of one run is faster than every round of the other."""
        if min(len(self.new.rates), len(self.old.rates)) < 2:
            return NO_DIFFERENCE  # one round does not show how far rounds are apart
        if min(self.new.rates) > max(self.old.rates):
            return FASTER
        return SLOWER if max(self.new.rates) < min(self.old.rates) else NO_DIFFERENCE

    @property
    def chance(self) -> float:
        """The probability of such a difference, in either direction, between equally fast runs.

        All orders of the rounds are then equally likely.
        """
        new, old = len(self.new.rates), len(self.old.rates)
        return 2 / math.comb(new + old, new)


@dataclass(frozen=True)
class Comparison:
    new: Sequence[Result]
    old: Sequence[Result]
    pairs: Sequence[Pair]
    unmatched: Sequence[tuple[Result, str]]  # results without a pair, and why they have none

    @property
    def legend(self) -> str:
        """Explain the findings, and how often one of them is chance."""
        meaning = (
            "Faster and slower mean that every round of one run is faster than every round of the "
            "other."
        )
        several = [
            pair.chance for pair in self.pairs if min(len(pair.new.rates), len(pair.old.rates)) > 1
        ]
        if not several:
            return f"{meaning} One round shows no difference."
        return (
            f"{meaning} Between equally fast runs, chance alone does that in up to "
            f"{max(several):.1g} of the results. The machine itself may have been faster in one of "
            "the runs: see whether peers, whose code is the same, moved too."
        )


def compare(new: Sequence[Result], old: Sequence[Result]) -> Comparison:
    """Pair the results of two runs.

    Raises ResultsError, which names the property and its values, if their conditions differ.
    """
    for name in PROPERTIES:
        ours, theirs = ({str(result.fields[name]) for result in side} for side in (new, old))
        if ours != theirs:
            raise ResultsError(
                f"not comparable: {name} is {_listed(ours)} here "
                f"and {_listed(theirs)} in the baseline"
            )
    before = {result.key: result for result in old}
    pairs, unmatched = [], []
    for result in new:
        match = before.pop(result.key, None)
        if match is None:
            unmatched.append((result, "not in the baseline"))
        elif not (result.valid and match.valid):
            unmatched.append((result, f"invalid {'in the baseline' if result.valid else 'here'}"))
        elif _loop(result) != _loop(match):
            unmatched.append((result, "run in another loop in the baseline"))
        else:
            pairs.append(Pair(result, match))
    unmatched += [(result, "only in the baseline") for result in before.values()]
    return Comparison(new, old, pairs, unmatched)


def _loop(result: Result) -> tuple[str, str]:
    """Return how it was run. An older file says nothing, as all had loops of their own."""
    fields = result.fields
    return fields.get("loop", OWN_LOOP), fields.get("measured_by", "steps")


def _listed(values: set[str]) -> str:
    return ", ".join(map(repr, sorted(values)))
