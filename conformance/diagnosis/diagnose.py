"""Finds the known defect that an implementation behaves exactly like.

Both are asked the same questions. If no defect answers as the implementation does, two at once are
tried, of different families. If no two do, the stages of the model are compared one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..adapters.adapter import Adapter
from ..defects import DEFECTS
from .comparison import Answers, Comparison, comparison_in
from .departure import first_departure
from .questions import Question


@dataclass(frozen=True)
class Diagnosis:
    """The known defects that a wrong implementation behaves like.

    `alike`: the ids of the defects that answer as it does, each one id or two together. `departs`:
    the first stage of the model that is wrong, if there is no such defect.
    """

    alike: tuple[tuple[str, ...], ...]
    departs: str = ""

    def __str__(self) -> str:
        if self.alike:
            names = ", or ".join(" with ".join(names) for names in self.alike)
            return f"indistinguishable from: {names}"
        nothing = "no known defect, nor two of them, behaves like it"
        if self.departs:
            return f"{nothing}; a probe first departs at: {self.departs}"
        return f"{nothing}; each stage of the model by itself is right"


def diagnose(adapter: Adapter) -> Diagnosis | None:
    """Return the diagnosis, or None if every question is answered rightly."""
    comparison = comparison_in(adapter.precision)
    diagnosis = diagnosed(comparison, comparison.answers(adapter.load))
    if diagnosis is None or diagnosis.alike:
        return diagnosis
    return Diagnosis((), first_departure(adapter))


def diagnosed(comparison: Comparison, subject: Answers) -> Diagnosis | None:
    """Return the defects that answer as the subject does, or None if it answers rightly."""

    def like(other: Answers, question: Question) -> bool:
        return comparison.alike(subject, other, question)

    unlike = [each for each in comparison.questions if not like(comparison.right, each)]
    # An answer that a variant gives is no mistake, and says nothing about one.
    wrong = [each for each in unlike if not any(like(other, each) for other in comparison.variants)]
    if not wrong:
        return None
    asked = wrong + [each for each in comparison.questions if each not in unlike]
    ordered = sorted(asked, key=lambda each: each.slow)
    alike: list[tuple[str, ...]] = [
        (name,)
        for name in DEFECTS
        if all(like(comparison.of_defects(name), each) for each in ordered)
    ]
    return Diagnosis(tuple(alike or dict.fromkeys(_pairs(comparison, subject, wrong, ordered))))


def _pairs(
    comparison: Comparison,
    subject: Answers,
    wrong: Sequence[Question],
    ordered: Sequence[Question],
) -> Iterator[tuple[str, ...]]:
    """Yield two defects of different families that together answer as the subject does.

    At least one of them explains a wrong answer by itself.
    """
    quick = [each for each in wrong if not each.slow] or wrong
    some = quick[:: max(1, len(quick) // 8)]

    def explained(name: str) -> list[Question]:
        answers = comparison.of_defects(name)
        return [
            question
            for question in some
            if comparison.alike(subject, answers, question)
            and not comparison.alike(answers, comparison.right, question)
        ]

    for name in DEFECTS:
        if not (own := explained(name)):
            continue
        rest = [question for question in ordered if question not in own] + own
        for other in DEFECTS:
            if DEFECTS[other].family != DEFECTS[name].family:
                both = comparison.of_defects(*sorted((name, other)))
                if all(comparison.alike(subject, both, question) for question in rest):
                    yield tuple(sorted((name, other)))
