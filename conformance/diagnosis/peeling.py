"""Takes a wrong GPT-2 apart: finds one mistake, grants it, and asks again what is still wrong.

The questions with the fewest parts of the model come first. A mistake is granted if a GPT-2 that
has it answers such a question as the implementation does, and no question that was answered alike
is answered otherwise. Of several, those are taken that explain the most questions. The next mistake
is looked for with this one in place, so any number of them can be found.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..defects import DEFECTS, VARIANTS
from ..defects.catalogue import Entry, Mistake
from ..defects.constants import CONSTANTS, Constant, Measured
from ..defects.steps import can_change, changes_alone
from .comparison import Answers, Comparison, relative_difference
from .curve_reading import read_curve
from .question import BLOCKS, WITH_ATTENTION, WITH_MLP, Question

Grants = tuple[Mistake, ...]
Search = Callable[[Grants, Question], Iterator[Grants]]  # what explains the answer to a question
Said = Callable[..., None]  # called with a text, and with lasting=True if it stays true
MOST = 8  # stages
# Asked before other questions about tokens.
QUICK = frozenset({"pieces of (2, 1, 3)", "rows that end", "dice with top_k=1", "greedy"})


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


def unheard(said: str = "", **_: bool) -> None:
    """Do nothing with what is said."""


class Peeling:
    """The search for the mistakes of one implementation, the subject."""

    def __init__(self, comparison: Comparison, subject: Answers, said: Said = unheard) -> None:
        self.comparison, self.subject, self.said = comparison, subject, said
        self.searches: tuple[Search, ...]
        self.searches = (self.known, self.defects, self.constants, self.pairs, self.curves)

    def peel(self) -> Peeled:
        """Find all mistakes.

        An entry of the catalogue may fit where another value of a constant is the right one. So if
        something is left, constants are tried first.
        """
        found = self.found()
        if found.left and any(stage.explains for stage in found.stages):
            self.searches = (self.constants, self.known, self.defects, self.pairs, self.curves)
            other = self.found()
            found = other if len(other.left) < len(found.left) else found
        found = self.simplest(found)
        self.comparison.forget()
        return found

    def simplest(self, found: Peeled) -> Peeled:
        """Choose the alternatives with which the fewest stages are enough."""
        for index, stage in enumerate(found.stages):
            for other, later in itertools.product(
                stage.alternatives[1:], found.stages[index + 1 :]
            ):
                explains = (*stage.explains, *later.explains)
                chosen = Stage((other,), stage.question, explains)
                stages = tuple(
                    chosen if each is stage else each for each in found.stages if each is not later
                )
                granted = tuple(grant for each in reversed(stages) for grant in each.granted)
                if self.explained(granted, later.question, found.left):
                    return self.simplest(Peeled(stages, granted, found.left))
        return found

    def explained(self, granted: Grants, first: str, left: Sequence[str]) -> bool:
        """Return whether all questions but those that are left are answered alike.

        `first` is the name of the one that is asked first.
        """
        asked = sorted(self.comparison.questions, key=lambda each: (each.name != first, each.slow))
        return all(self.like(granted, each) for each in asked if each.name not in left)

    def found(self) -> Peeled:
        stages: list[Stage] = []
        granted: Grants = ()
        wrong = self.first_wrong()
        first = len(wrong)
        while wrong and len(stages) < MOST:
            stage = self.next_stage(granted, wrong)
            if stage is None:
                break
            stages.append(stage)
            granted = stage.granted + granted
            wrong = [each for each in wrong if each.name not in stage.explains]
            names = ", ".join(each.id for each in reversed(granted) if each.id not in VARIANTS)
            if names and not stage.is_variant:
                explained = f"{first - len(wrong)} of {first} wrong answers are explained"
                self.said(f"{explained} by {names}", lasting=True)
        return Peeled(tuple(stages), granted, tuple(question.name for question in wrong))

    def first_wrong(self) -> list[Question]:
        """Return the questions that are answered wrongly. Says how many have been asked."""
        wrong = []
        for number, question in enumerate(self.comparison.questions, start=1):
            wrong += [] if self.like((), question) else [question]
            self.said(f"{number} of {len(self.comparison.questions)} questions")
        return wrong

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
        skipped: list[Question] = []
        for question in sorted(wrong, key=lambda each: each.slow):
            # What was not explained with fewer parts is not explained with more.
            if any(parts <= question.parts for parts in unexplained):
                skipped.append(question)
            elif stage := self.stage(granted, question, wrong, self.variants, *self.searches):
                return stage
            else:
                unexplained.append(question.parts)
        # Two at once may both show with more parts alone.
        stages = (self.stage(granted, question, wrong, self.pairs) for question in skipped)
        return next(filter(None, stages), None)

    def stage(
        self, granted: Grants, question: Question, wrong: Sequence[Question], *searches: Search
    ) -> Stage | None:
        """Return what explains one wrong answer and breaks no right one."""
        right = [each for each in self.comparison.questions if each not in wrong]
        right.sort(key=lambda each: each.slow)
        explained: dict[Grants, tuple[str, ...]] = {}
        for search in searches:
            for added in search(granted, question):
                if all(self.like(added + granted, each) for each in right):
                    explained[added] = tuple(
                        each.name for each in wrong if self.like(added + granted, each)
                    )
            if any(self.enough(search, names, question, wrong) for names in explained.values()):
                break
        if not explained:
            return None
        most = max(map(len, explained.values()))
        best = tuple(added for added, names in explained.items() if len(names) == most)
        return Stage(best, question.name, explained[best[0]])

    def enough(
        self, search: Search, names: Sequence[str], question: Question, wrong: Sequence[Question]
    ) -> bool:
        """Return whether no further search is needed where one explains the questions of `names`.

        A variant is no mistake, and is tried first. A defect that is known to show just so explains
        all wrong answers of one kind, if there is no other mistake. A mistake that explains nothing
        else may fit by chance.
        """
        if search == self.variants:
            return True
        if search == self.known:
            return {each.name for each in wrong if each.kind == question.kind} <= set(names)
        return len(names) > 1

    # What may explain a question: variants; defects, the likely ones first; constants; two defects
    # at once; an activation that nobody knows.

    def variants(self, granted: Grants, question: Question) -> Iterator[Grants]:
        """Yield variants of which every effect is seen."""
        for (entry,) in self.entries(VARIANTS.values(), granted, question):
            if all(
                self.like((entry, *granted), each) or not self.shows(entry, granted, each)
                for each in self.wrong(granted)
            ):
                yield (entry,)

    def known(self, granted: Grants, question: Question) -> Iterator[Grants]:
        """Yield defects that are known to show in this question, and in none answered rightly."""
        right = {
            each.name
            for each in self.comparison.questions
            if self.subject[each] is not None and self.like(granted, each)
        }
        known = [
            DEFECTS[name]
            for name, shown in self.comparison.known_to_show().items()
            if question.name in shown and not shown & right
        ]
        return self.entries(known, granted, question)

    def defects(self, granted: Grants, question: Question) -> Iterator[Grants]:
        return self.entries(DEFECTS.values(), granted, question)

    def entries(
        self, entries: Iterable[Entry], granted: Grants, question: Question
    ) -> Iterator[Grants]:
        first = self.first_asked(granted, question)
        for entry in entries:
            if (
                can_change(entry.steps, question.kind)
                and changes_alone(entry.steps, question.kind)
                and entry not in granted
                and all(self.like((entry, *granted), each) for each in first)
            ):
                yield (entry,)

    def first_asked(self, granted: Grants, question: Question) -> list[Question]:
        """Return a question after quicker ones, which most entries break."""
        if question.parts < BLOCKS:
            return [question]
        quick = {each.parts: each for each in reversed(self.comparison.questions)}
        asked = [quick[WITH_ATTENTION], quick[WITH_MLP]]
        if question.kind == "tokens":
            asked += [each for each in self.comparison.questions if each.name in QUICK]
        return [*(each for each in asked if self.like(granted, each)), question]

    def constants(self, granted: Grants, question: Question) -> Iterator[Grants]:
        if not question.parts < BLOCKS:
            return
        for constant in CONSTANTS.values():
            if self.shows(Measured(constant, 2 * constant.value), granted, question):
                measured = self.measured(constant, granted, question)
                # A value is read if one that is a hundredth larger would show.
                larger = Measured(constant, 1.01 * measured.value)
                if self.like((measured, *granted), question) and not self.like(
                    (larger, *granted), question
                ):
                    yield (measured,)

    def shows(self, added: Mistake, granted: Grants, question: Question) -> bool:
        """Return whether the answer depends on a mistake at all."""
        try:
            other = self.comparison.of(added, *granted)
        except TypeError:  # no class can have all of these
            return False
        return not self.comparison.alike(self.comparison.of(*granted), other, question)

    def measured(self, constant: Constant, granted: Grants, question: Question) -> Measured:
        """Return the constant with the value that explains the answer best.

        Its last digits are read in float64, which not every implementation computes in.
        """
        exact = replace(question, name=f"{question.name} in float64", dtype=torch.float64)
        value = constant.search(self.distance(constant, granted, question))
        if self.subject[exact] is None:
            return Measured(constant, value)
        return Measured(constant, constant.refine(value, self.distance(constant, granted, exact)))

    def distance(
        self, constant: Constant, granted: Grants, question: Question
    ) -> Callable[[float], float]:
        """Return by how much an answer differs, as a function of the constant's value."""
        found = self.subject[question]

        def difference(value: float) -> float:
            answers = self.comparison.new(Measured(constant, value), *granted)
            return relative_difference(found, answers[question])

        return difference

    def pairs(self, granted: Grants, question: Question) -> Iterator[Grants]:
        """Yield two that explain the answer together. Each shows in it, and breaks no right one."""
        if not (question.parts < BLOCKS or question.kind == "text"):
            return
        quick = [
            each
            for each in self.comparison.questions
            if each.kind == question.kind and (each.parts < BLOCKS or each.kind == "text")
        ]
        right = [each for each in quick if self.like(granted, each)]
        showing = [
            entry
            for entry in DEFECTS.values()
            if entry not in granted
            and self.shows(entry, granted, question)
            and all(self.like((entry, *granted), each) for each in right)
        ]
        for first, second in itertools.combinations(showing, 2):
            if self.like((first, second, *granted), question):
                yield first, second
            # The first has a step that both override.
            elif first.steps & second.steps and self.like((second, first, *granted), question):
                yield second, first

    def curves(self, granted: Grants, question: Question) -> Iterator[Grants]:
        """Yield the activation as it is read, if it explains the answer."""
        if question.parts != WITH_MLP or any("activation" in each.steps for each in granted):
            return
        curve = read_curve(self.subject.load, granted, self.comparison.new_folder())
        if curve is not None and self.like((curve, *granted), question):
            yield (curve,)
