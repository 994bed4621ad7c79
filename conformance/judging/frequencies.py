"""Judges frequencies with a known chance of a false alarm.

Chernoff's bound: for a count k of n independent draws of probability p, n KL(k/n || p) exceeds t
with a chance of at most 2 e^-t. With t = 30 that is 1.9e-13. A run makes fewer than 200 such
checks, so a right implementation fails a run with a chance below 4e-11.
"""

from __future__ import annotations

import math

from ..outcomes import Failure

LIMIT = 30.0  # t in the bound above


def check_frequency(count: int, draws: int, probability: float, what: str) -> None:
    """Raise a Failure if a count in a number of draws does not fit its probability."""
    __tracebackhide__ = True
    observed = count / draws
    parts = ((observed, probability), (1 - observed, 1 - probability))
    divergence = sum(
        0.0 if q == 0 else math.inf if p == 0 else q * math.log(q / p) for q, p in parts
    )
    if draws * divergence > LIMIT:
        raise Failure(
            f"{what}: {count} times in {draws} draws ({observed:.4f}), expected {probability:.4f}"
        )


def largest_count(mean: float) -> int:
    """Return the largest count of rare events that fits their mean.

    Chernoff's bound for a sum of independent draws, each at most once: a count of at least k > mean
    has a chance of at most e^-t, t = k ln(k / mean) - k + mean.
    """
    count = math.ceil(mean)
    while (count + 1) * math.log((count + 1) / mean) - (count + 1) + mean <= LIMIT:
        count += 1
    return count
