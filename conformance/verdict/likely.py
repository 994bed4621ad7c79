"""Finds likely causes of failures that nothing else explains.

The diagnosis has no question for some mistakes, as each would take seconds: one is about one
token of all. If it leaves nothing else open, one of these is likely: one whose own requirement
fails, and that is known to fail most of what failed and least of what passed.
"""

from __future__ import annotations

from ..defects import DEFECTS
from ..diagnosis.known_to_show import unseen
from .causes import Cause, cause_of, failures
from .findings import FAILED, PASSED
from .judgement import Judgement


def likely_causes(judgement: Judgement) -> list[Cause]:
    """Return the fewest mistakes that are likely to explain what is unexplained."""
    if judgement.diagnosis is not None and judgement.diagnosis.left:
        return []
    found, left = list[Cause](), judgement.unexplained
    while alike := _most_alike(judgement, left):
        first, *others = alike
        explains = [name for name in left if name in failures()[first]]
        decisive = judgement.results[explains[0]].decisive
        cause = cause_of(DEFECTS[first], explains, decisive, tuple(others))
        found.append(cause._replace(likely=True))
        left = [name for name in left if name not in explains]
    return found


def _most_alike(judgement: Judgement, left: list[str]) -> list[str]:
    """Return the defects whose failures are most like those of the implementation."""
    likeness = {}
    for name in unseen():
        if DEFECTS[name].requirement in left:
            outcomes = [judgement.outcome(each) for each in failures()[name]]
            likeness[name] = outcomes.count(FAILED) - outcomes.count(PASSED)
    most = max(likeness.values(), default=0)
    return [name for name, number in likeness.items() if number == most > 0]
