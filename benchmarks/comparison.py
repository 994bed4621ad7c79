"""Two runs compared row by row, where they can be: same machine, same libraries, same work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .results import Result, ResultsError

# What must not differ, as the difference would be taken for that of the code. gpt2ref's own version may.
PROPERTIES = ("device", "device_name", "threads", "dtype", "torch", "transformers", "python")

FASTER, SLOWER, NO_DIFFERENCE = "faster", "slower", "no difference shown"


@dataclass(frozen=True)
class Pair:
    """The same row of two runs, both valid."""

    new: Result
    old: Result

    @property
    def ratio(self) -> float:
        """New over old, of the median rounds' decode tokens/s: above 1 is faster."""
        return self.new.tokens_per_second / self.old.tokens_per_second

    @property
    def finding(self) -> str:
        """A difference is shown where every round of one run is faster than every round of the other."""
        if min(len(self.new.rates), len(self.old.rates)) < 2:
            return NO_DIFFERENCE  # one round says nothing of how far the next would be from it
        if min(self.new.rates) > max(self.old.rates):
            return FASTER
        return SLOWER if max(self.new.rates) < min(self.old.rates) else NO_DIFFERENCE

    @property
    def chance(self) -> float:
        """Of such a difference, in either direction, if both runs were equally fast: all orders of the rounds are as likely."""
        new, old = len(self.new.rates), len(self.old.rates)
        return 2 / math.comb(new + old, new)


@dataclass(frozen=True)
class Comparison:
    new: Sequence[Result]
    old: Sequence[Result]
    pairs: Sequence[Pair]
    unmatched: Sequence[
        tuple[Result, str]
    ]  # rows that are in one file only, or not valid in both, and why

    @property
    def legend(self) -> str:
        """How to read the findings, and how often one of them is chance."""
        told = "Faster and slower are where every round of one run is faster than every round of the other."
        several = [
            pair.chance for pair in self.pairs if min(len(pair.new.rates), len(pair.old.rates)) > 1
        ]
        if not several:
            return f"{told} With one round nothing can be told."
        return (
            f"{told} Were they equally fast, chance alone would do that in up to {max(several):.1g} of the rows. "
            "The machine itself may have been faster in one of the runs: see whether peers, whose code is the same, moved too."
        )


def compare(new: Sequence[Result], old: Sequence[Result]) -> Comparison:
    """Raises ResultsError, naming property and values, if the conditions of the two runs differ."""
    for name in PROPERTIES:
        ours, theirs = ({str(result.row[name]) for result in results} for results in (new, old))
        if ours != theirs:
            raise ResultsError(
                f"not comparable: {name} is {_listed(ours)} here and {_listed(theirs)} in the baseline"
            )
    before = {result.key: result for result in old}
    pairs, unmatched = [], []
    for result in new:
        match = before.pop(result.key, None)
        if match is None:
            unmatched.append((result, "not in the baseline"))
        elif not (result.valid and match.valid):
            unmatched.append((result, f"invalid {'in the baseline' if result.valid else 'here'}"))
        else:
            pairs.append(Pair(result, match))
    unmatched += [(result, "only in the baseline") for result in before.values()]
    return Comparison(new, old, pairs, unmatched)


def _listed(values: set[str]) -> str:
    return ", ".join(map(repr, sorted(values)))
