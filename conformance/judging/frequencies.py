"""Frequencies, judged with a stated chance of a false alarm.

Chernoff's bound: a count k of n independent draws of probability p has n KL(k/n || p) > t with chance at most 2 e^-t. With
t = 30 (1.9e-13) and fewer than 200 such checks in a run, a right implementation fails a run with chance below 4e-11.
"""

from __future__ import annotations

import math

LIMIT = 30.0  # t, above


def check_frequency(count: int, draws: int, probability: float, what: str) -> None:
    __tracebackhide__ = True
    observed = count / draws
    parts = ((observed, probability), (1 - observed, 1 - probability))
    divergence = sum(
        0.0 if q == 0 else math.inf if p == 0 else q * math.log(q / p) for q, p in parts
    )
    if draws * divergence > LIMIT:
        raise AssertionError(
            f"{what}: {count} times in {draws} draws ({observed:.4f}), expected {probability:.4f}"
        )
