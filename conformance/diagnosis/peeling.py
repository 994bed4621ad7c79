"""Takes a wrong GPT-2 apart: finds one mistake, grants it, and asks again what is still wrong.

The questions with the fewest parts of the model come first. A mistake is granted if a GPT-2 that
has it answers such a question as the implementation does, and no question that was answered alike
is answered otherwise. Of several, those are taken that explain the most questions. The next mistake
is looked for with this one in place, so any number of them can be found.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..defects import DEFECTS, VARIANTS
from ..defects.catalogue import Mistake
from ..defects.constants import CONSTANTS, Constant, Measured
from ..defects.steps import can_change, changes_alone
from .comparison import Answers, Comparison, relative_difference
from .questions import BLOCKS, Question

Grants = tuple[Mistake, ...]
Search = Callable[[Grants, Question], Iterator[Grants]]  # what explains the answer to a question
MOST = 8  # stages


@dataclass(frozen=True)
class Stage:
    """A mistake that was granted, or two at once that show in one question.

    `alternatives`: what explains the same, with what is granted first. `question`: what showed it.
    `explains`: the questions that are answered alike with it.
    """

    alternatives: tuple[Grants, ...]
    question: str
    explains: tuple[str, ...]

    @property
    def granted(self) -> Grants:
        return self.alternatives[0]

    @property
    def is_variant(self) -> bool:
        return all(grant.id in VARIANTS for grant in self.granted)


@dataclass(frozen=True)
class Peeled:
    """The mistakes that were granted, and the questions that are still answered otherwise.

    `granted` has all mistakes, the last one first, and constants with all their digits.
    """

    stages: tuple[Stage, ...]
    granted: Grants
    left: tuple[str, ...]


class Peeling:
    """The search for the mistakes of one implementation, the subject."""

    def __init__(self, comparison: Comparison, subject: Answers) -> None:
        self.comparison, self.subject = comparison, subject
        self.searches: tuple[Search, ...] = (self.entries, self.constants, self.pairs)

    def peel(self) -> Peeled:
        """Find all mistakes.

        An entry of the catalogue may fit where another value of a constant is the right one. So if
        something is left, constants are tried first.
        """
        found = self.found()
        if found.left and any(stage.explains for stage in found.stages):
            self.searches = (self.constants, self.entries, self.pairs)
            other = self.found()
            return other if len(other.left) < len(found.left) else found
        return found

    def found(self) -> Peeled:
        stages: list[Stage] = []
        granted: Grants = ()
        wrong = self.wrong(granted)
        while wrong and len(stages) < MOST:
            stage = self.next_stage(granted, wrong)
            if stage is None:
                break
            stages.append(stage)
            granted = stage.granted + granted
            wrong = [each for each in wrong if each.name not in stage.explains]
            if any(isinstance(each, Measured) for each in granted):
                granted, wrong = self.refined(granted, wrong)
        return Peeled(tuple(stages), granted, tuple(question.name for question in wrong))

    def refined(self, granted: Grants, wrong: list[Question]) -> tuple[Grants, list[Question]]:
        """Give the measured constants more digits, if the implementation computes in float64.

        A value that was read in float32 may be too coarse for an answer in float64.
        """
        (question,) = (each for each in self.comparison.questions if each.dtype == torch.float64)
        finer = list(granted)
        for number, grant in enumerate(granted):
            if isinstance(grant, Measured):
                before, after = tuple(finer[:number]), tuple(finer[number + 1 :])
                distance = self.distance(grant.constant, before, after, question)
                finer[number] = Measured(
                    grant.constant, grant.constant.refine(grant.value, distance)
                )
        still = [each for each in wrong if not self.like(tuple(finer), each)]
        return (tuple(finer), still) if len(still) < len(wrong) else (granted, wrong)

    def wrong(self, granted: Grants) -> list[Question]:
        """Return the questions that the implementation answers otherwise, those of few parts first.

        A GPT-2 that has what was `granted` is compared.
        """
        return [each for each in self.comparison.questions if not self.like(granted, each)]

    def like(self, granted: Grants, question: Question) -> bool:
        try:
            return self.comparison.alike(self.subject, self.comparison.of(*granted), question)
        except TypeError:  # no class can have all of these
            return False

    def next_stage(self, granted: Grants, wrong: Sequence[Question]) -> Stage | None:
        """Find the next mistake; None if nothing explains any of the wrong answers."""
        unexplained: list[frozenset[str]] = []
        for question in sorted(wrong, key=lambda each: each.slow):
            # What was not explained with fewer parts is not explained with more.
            if any(parts <= question.parts for parts in unexplained):
                continue
            if stage := self.stage(granted, question, wrong):
                return stage
            unexplained.append(question.parts)
        return None

    def stage(self, granted: Grants, question: Question, wrong: Sequence[Question]) -> Stage | None:
        """Return what explains one wrong answer and breaks no right one.

        What explains nothing else may fit by chance, so the other searches are tried too.
        """
        right = [each for each in self.comparison.questions if each not in wrong]
        right.sort(key=lambda each: each.slow)
        explained: dict[Grants, tuple[str, ...]] = {}
        for search in self.searches:
            for added in search(granted, question):
                if all(self.like(added + granted, each) for each in right):
                    explained[added] = tuple(
                        each.name for each in wrong if self.like(added + granted, each)
                    )
            if any(len(names) > 1 for names in explained.values()):
                break
        if not explained:
            return None
        most = max(map(len, explained.values()))
        best = tuple(added for added, names in explained.items() if len(names) == most)
        return Stage(best, question.name, explained[best[0]])

    # What may explain a question: the variants and the defects; constants; two defects at once.

    def entries(self, granted: Grants, question: Question) -> Iterator[Grants]:
        for entry in (VARIANTS | DEFECTS).values():
            may = can_change(entry.steps, question.kind) and changes_alone(
                entry.steps, question.kind
            )
            if may and entry not in granted and self.like((entry, *granted), question):
                yield (entry,)

    def constants(self, granted: Grants, question: Question) -> Iterator[Grants]:
        if not question.parts < BLOCKS:
            return
        for constant in CONSTANTS.values():
            if self.changes(constant, granted, question):
                measured = self.measured(constant, granted, question)
                # A value is read if one that is a hundredth larger would show.
                larger = Measured(constant, 1.01 * measured.value)
                if self.like((measured, *granted), question) and not self.like(
                    (larger, *granted), question
                ):
                    yield (measured,)

    def changes(self, constant: Constant, granted: Grants, question: Question) -> bool:
        """Return whether the answer depends on a constant at all."""
        other = self.comparison.of(Measured(constant, 2 * constant.value), *granted)
        return not self.comparison.alike(self.comparison.of(*granted), other, question)

    def measured(self, constant: Constant, granted: Grants, question: Question) -> Measured:
        """Return the constant with the value that explains the answer best."""
        return Measured(constant, constant.search(self.distance(constant, (), granted, question)))

    def distance(
        self, constant: Constant, before: Grants, after: Grants, question: Question
    ) -> Callable[[float], float]:
        """Return by how much an answer differs, as a function of the constant's value.

        The constant stands between mistakes that are granted.
        """
        found = self.subject[question]

        def difference(value: float) -> float:
            answers = self.comparison.new(*before, Measured(constant, value), *after)
            return relative_difference(found, answers[question])

        return difference

    def pairs(self, granted: Grants, question: Question) -> Iterator[Grants]:
        """Yield two that explain the answer together. Each shows in it, and breaks no right one."""
        if not question.parts < BLOCKS:
            return
        quick = [each for each in self.comparison.questions if each.parts < BLOCKS]
        right = [each for each in quick if self.like(granted, each)]
        base = self.comparison.of(*granted)
        showing = []
        for entry in DEFECTS.values():
            other = self.comparison.of(entry, *granted)
            if (
                entry not in granted
                and not self.comparison.alike(base, other, question)
                and all(self.like((entry, *granted), each) for each in right)
            ):
                showing.append(entry)
        for first, second in itertools.combinations(showing, 2):
            if self.like((first, second, *granted), question):
                yield first, second
            # The first has a step that both override.
            elif first.steps & second.steps and self.like((second, first, *granted), question):
                yield second, first
