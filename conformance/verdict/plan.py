"""The tests of a run by family, and the part of its time that each is likely to take."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TypedDict

from ..requirements import REQUIREMENTS

# Seconds of a test of each requirement, by `python -m conformance.studies.durations`.
DURATIONS = Path(__file__).with_name("durations.json")


class Place(TypedDict):
    """The place of a test in a run, as data that pytest-xdist passes on.

    `share`: its part of the run's time. `tests`: how many its family has, of its adapter.
    `families`: how many the run has, of all adapters.
    """

    share: float
    tests: int
    families: int


class Plan:
    """The tests of a run."""

    def __init__(self, tests: Iterable[tuple[str, str]]) -> None:
        """`tests`: the adapter and the requirement of each."""
        requirements = Counter(tests)
        self.tests: Counter[tuple[str, str]] = Counter()
        for (adapter, requirement), number in requirements.items():
            self.tests[adapter, family_of(requirement)] += number
        self.seconds = sum(number * usual(name) for (_, name), number in requirements.items())

    def place(self, adapter: str, requirement: str) -> Place:
        """Return the place of one test of a requirement."""
        return {
            "share": usual(requirement) / self.seconds,
            "tests": self.tests[adapter, family_of(requirement)],
            "families": len(self.tests),
        }


def family_of(requirement: str) -> str:
    return REQUIREMENTS[requirement].family


def usual(requirement: str) -> float:
    """Return the usual seconds of a test; the mean of all for a requirement without a figure."""
    known = _durations()
    return known.get(requirement) or (fmean(known.values()) if known else 1.0)


@cache
def _durations() -> dict[str, float]:
    known: dict[str, float] = json.loads(DURATIONS.read_text(encoding="utf-8"))
    return known
