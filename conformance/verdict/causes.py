"""Find the mistakes that explain the failed requirements.

The mistakes come from the diagnosis, and from tests that name them. A mistake explains a failure
that names it, and a failure that the mistake alone causes too, as the catalogue knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .. import defects
from ..defects import DEFECTS
from ..defects.catalogue import Mistake, with_number
from ..defects.constants import Measured
from ..defects.numbered import NUMBERED
from ..defects.read import Read
from ..defects.steps import PLACES
from ..diagnosis.diagnose import Diagnosis
from .findings import Finding, Result


class Cause(NamedTuple):
    """A mistake that explains failures.

    `explains` are the failed requirements, first those whose own fact it is. `finding` is the one
    to show: of a test that names the mistake, if there is one. `alternatives` are the ids of other
    mistakes that explain the same. `question` is that of the diagnosis which shows it. A `likely`
    cause was not read: it is known to fail the same requirements.
    """

    id: str
    explains: list[str]
    finding: Finding | None
    what: str | None = None
    source: str | None = None
    places: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    question: str | None = None
    likely: bool = False


@cache
def failures() -> dict[str, list[str]]:
    """Return the requirements that each defect of the catalogue fails by itself."""
    file = Path(defects.__file__).with_name("failures.json")
    known: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
    return known


def causes(failed: Mapping[str, Result], diagnosis: Diagnosis | None) -> list[Cause]:
    """Return the causes: those of the diagnosis, then the fewest others that tests name."""
    found = list(_of_diagnosis(failed, diagnosis)) if diagnosis else []
    explained = {name for cause in found for name in cause.explains}
    rest = {name: result for name, result in failed.items() if name not in explained}
    return found + list(_named(rest))


def _of_diagnosis(failed: Mapping[str, Result], diagnosis: Diagnosis) -> Iterator[Cause]:
    left = dict(failed)
    for stage in diagnosis.stages:
        others = tuple("+".join(each.id for each in granted) for granted in stage.alternatives[1:])
        for number, mistake in enumerate(stage.granted):
            same = {granted[number].id for granted in stage.alternatives if len(granted) > number}
            mistake = _with_its_number(mistake, left)
            same.add(mistake.id)
            explains = [name for name in left if _explains(mistake, same, name, left[name])]
            explains.sort(key=lambda name: not same & left[name].mistakes(own=True))
            finding = next((_naming(left[name], same) for name in explains), None)
            left = {name: result for name, result in left.items() if name not in explains}
            yield cause_of(mistake, explains, finding, others, stage.question)


def _explains(mistake: Mistake, same: set[str], name: str, result: Result) -> bool:
    named = result.mistakes(own=True) | result.mistakes(own=False)
    alone = _known(mistake.like if isinstance(mistake, Read) else mistake.id)
    if name.startswith("parity."):  # whole logits, which a mistake in any of them changes
        return isinstance(mistake, (Measured, Read)) or any(
            each.startswith("parity.") for each in alone
        )
    return bool(same & named) or name in alone


def _known(mistake: str) -> list[str]:
    """Return what a mistake, or the catalogue's example of it, is known to fail by itself."""
    return failures().get(example_of(mistake) or mistake, [])


def example_of(mistake: str) -> str | None:
    """Return the catalogue's example of a mistake with another number."""
    name, equals, _ = mistake.partition("=")
    return NUMBERED[name].example if equals and name in NUMBERED else None


def _with_its_number(mistake: Mistake, failed: Mapping[str, Result]) -> Mistake:
    """Return a mistake with the number that a test has read, if the catalogue has an example."""
    read = {name for result in failed.values() for name in result.mistakes(own=True)}
    same = sorted(name for name in read if example_of(name) == mistake.id)
    return with_number(same[0]) if same else mistake


def _named(failed: Mapping[str, Result]) -> Iterator[Cause]:
    """Yield the fewest named mistakes that explain every failure that names any."""
    own = {name: result.mistakes(own=True) for name, result in failed.items()}
    named = {name: own[name] or failed[name].mistakes(own=False) for name in own}
    while any(named.values()):
        mistake = _explains_most(named, own)
        explains = [name for name, mistakes in named.items() if mistake in mistakes]
        explains.sort(key=lambda name: mistake not in own[name])
        finding = _naming(failed[explains[0]], {mistake})
        explains += [name for name in named if name not in explains and name in _known(mistake)]
        entry = with_number(mistake) if example_of(mistake) else DEFECTS.get(mistake)
        yield cause_of(entry, explains, finding) if entry else Cause(mistake, explains, finding)
        named = {name: mistakes for name, mistakes in named.items() if name not in explains}


def cause_of(
    mistake: Mistake,
    explains: list[str],
    finding: Finding | None,
    alternatives: tuple[str, ...] = (),
    question: str | None = None,
) -> Cause:
    places = tuple(dict.fromkeys(PLACES[step] for step in sorted(mistake.steps) if step in PLACES))
    return Cause(
        mistake.id,
        explains,
        finding,
        mistake.what,
        mistake.source,
        places,
        alternatives,
        question,
    )


def _naming(result: Result, mistakes: set[str]) -> Finding:
    """Return the finding that names one of these mistakes, if possible as its own fact."""
    naming = [finding for finding in result.failures if mistakes & set(finding.mistakes)]
    return max(naming, key=lambda finding: finding.own) if naming else result.decisive


def _explains_most(named: Mapping[str, set[str]], own: Mapping[str, set[str]]) -> str:
    """Choose the mistake that most requirements name.

    A mistake of a requirement's own fact was read, and comes first. Any other only fits.
    """

    def weight(mistake: str) -> tuple[bool, int]:
        explained = [name for name, mistakes in named.items() if mistake in mistakes]
        return any(mistake in own[name] for name in explained), len(explained)

    return max(sorted(set().union(*named.values())), key=weight)


def unexplained(failed: Iterable[str], found: Iterable[Cause]) -> list[str]:
    explained = {name for cause in found for name in cause.explains}
    return [name for name in failed if name not in explained]
