"""Takes a wrong GPT-2 apart: finds one mistake, grants it, and asks again what is still wrong.

The questions with the fewest parts of the model come first. A mistake is granted if a GPT-2 that
has it answers such a question as the implementation does, and no question that was answered alike
is answered otherwise. Of several, those are taken that explain the most questions. The next mistake
is looked for with this one in place, so any number of them can be found.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..defects import VARIANTS
from .asking import numbers_of
from .candidates import Candidates, Grants, Search
from .comparison import Answers, Comparison
from .question import BLOCKS, EMBEDDINGS, Question

Said = Callable[..., None]  # called with a text, and with lasting=True if it stays true
MOST = 16  # stages
ALTERNATIVES = 12  # at most
FEW = 3  # alternatives, of which each is granted if something is left without it


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
        self.comparison, self.said = comparison, said
        self.candidates = of = Candidates(comparison, subject)
        self.like = of.like
        # How often a question was not explained, by the first of the searches.
        self.unexplained = defaultdict[Search, Counter[Question]](Counter)
        self.single: tuple[Search, ...]  # the searches for one mistake
        self.single = (of.variants, of.known, of.defects, of.windows, of.constants, of.blocks)
        self.preferred: Grants = ()  # the alternative that is granted of several

    def peel(self) -> Peeled:
        """Find all mistakes. If something is left, look for them in other orders."""
        found = self.found()
        if found.left:
            every = [found, *self.in_other_orders(found)]
            found = min(every, key=lambda each: len(each.left))
        found = self.needed(self.simplest(found))
        self.comparison.forget()
        return found

    def in_other_orders(self, found: Peeled) -> Iterator[Peeled]:
        """Yield what else is found, until nothing is left.

        An entry of the catalogue may fit where another value of a constant is the right one, or a
        block that is put together otherwise, or another of several entries.
        """
        if not found.stages:
            return
        of, usual = self.candidates, self.single
        for early in (of.constants, of.blocks):
            self.single = (of.variants, early, *(each for each in usual[1:] if each != early))
            yield (other := self.found())
            if not other.left:
                return
        self.single = usual
        few = [each.alternatives for each in found.stages if len(each.alternatives) <= FEW]
        for self.preferred in (each for alternatives in few for each in alternatives[1:]):
            yield (other := self.found())
            if not other.left:
                return

    def needed(self, found: Peeled) -> Peeled:
        """Drop each mistake without which as much is explained, as a later one has its effect."""
        for stage in found.stages:
            for grant in stage.granted:
                granted = tuple(each for each in found.granted if each != grant)
                if not self.explained(granted, stage.question, found.left):
                    continue
                rest = tuple(each for each in stage.granted if each != grant)
                kept = (replace(stage, alternatives=(rest,)),) if rest else ()
                at = found.stages.index(stage)
                stages = (*found.stages[:at], *kept, *found.stages[at + 1 :])
                return self.needed(Peeled(stages, granted, found.left))
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
        self.unexplained.clear()
        stages: list[Stage] = []
        granted: Grants = ()
        wrong = self.wrong
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

    @cached_property
    def wrong(self) -> list[Question]:
        """The questions that are answered wrongly. Says how many have been asked."""
        wrong = []
        for number, question in enumerate(self.comparison.questions, start=1):
            wrong += [] if self.like((), question) else [question]
            self.said(f"{number} of {len(self.comparison.questions)} questions")
        return wrong

    @cached_property
    def with_logits(self) -> list[Question]:
        """The questions that are answered with logits, and not with an error."""
        subject = self.candidates.subject

        def answers(question: Question) -> list[Any]:
            return given if isinstance(given := subject[question], list) else [given]

        return [each for each in self.comparison.questions if all(map(numbers_of, answers(each)))]

    def next_stage(self, granted: Grants, wrong: Sequence[Question]) -> Stage | None:
        """Find the next mistake; None if nothing explains any of the wrong answers.

        The questions whose answers take long are asked last, and only those that are not wrong
        because of what a quick one shows.
        """
        quick = [each for each in wrong if not each.slow]
        slow = [
            each
            for each in wrong
            if each.slow and not any(other.parts <= each.parts for other in quick)
        ]
        stages = (self.stage_of(granted, asked, wrong) for asked in (quick, slow))
        return next(filter(None, stages), None)

    def stage_of(
        self, granted: Grants, asked: Sequence[Question], wrong: Sequence[Question]
    ) -> Stage | None:
        """Find what explains one of the answers that are asked for.

        One mistake is looked for first, then a step that nobody knows, then two at once. What does
        not convince is taken if nothing else is found.
        """
        of = self.candidates
        one = itertools.chain(
            self.explaining(granted, asked, wrong, *self.single),
            self.explaining(granted, asked, wrong, of.unknown),
        )
        doubtful = []
        for stage, question in one:
            if self.convinces(stage, question):
                return stage
            doubtful.append(stage)
        if doubtful:
            return doubtful[0]
        two = itertools.chain(
            self.explaining(granted, asked, wrong, of.pairs),
            self.explaining(granted, asked, wrong, of.unknown_beside),
            self.explaining(granted, asked, wrong, of.constants_beside),
            self.explaining(granted, asked, wrong, of.positions_beside),
        )
        return next((stage for stage, question in two if self.convinces(stage, question)), None)

    def explaining(
        self,
        granted: Grants,
        asked: Sequence[Question],
        wrong: Sequence[Question],
        *searches: Search,
    ) -> Iterator[tuple[Stage, Question]]:
        """Yield what explains an answer, and the question.

        What was not explained with fewer parts is not explained with more, unless a right answer
        depends on the same parts: then it is something that does not show in each. Nor is it with
        as many parts, where several questions have them. But a step is read with few parts, and a
        question that has even fewer may need it, too. And of two mistakes one may show first with
        the embeddings.
        """
        of = self.candidates
        reading = searches[0] in (of.unknown, of.unknown_beside)
        right = [each.parts for each in self.with_logits if each not in wrong]
        unexplained = self.unexplained[searches[0]]
        # What was not explained before the last mistake was granted is not likely to be so after.
        for question in sorted(asked, key=lambda each: unexplained[each]):
            others = (each.parts for each in unexplained if each in asked and each != question)
            # Many depend on whole blocks, and pairs take long.
            several = searches[0] == of.pairs or not question.parts < BLOCKS
            if not reading and any(
                EMBEDDINGS <= parts <= question.parts
                and (several or parts < question.parts)
                and not any(parts <= each for each in right)
                for parts in others
            ):
                continue
            if stage := self.stage(granted, question, wrong, *searches):
                yield stage, question
            else:
                unexplained[question] += 1

    def convinces(self, stage: Stage, question: Question) -> bool:
        """Return whether a mistake explains logits that it is not likely to explain by chance.

        It explains several answers, or all that it is known to change.
        """
        shows = self.comparison.known_to_show()
        known = frozenset().union(*(shows.get(grant.id, ()) for grant in stage.granted))
        known &= {each.name for each in self.comparison.questions}
        return (
            question.kind != "logits"
            or stage.is_variant
            or len(stage.explains) > 1
            or (bool(known) and known <= set(stage.explains))
        )

    def stage(
        self, granted: Grants, question: Question, wrong: Sequence[Question], *searches: Search
    ) -> Stage | None:
        """Return what explains one wrong answer and breaks no right one."""
        right = [each for each in self.comparison.questions if each not in wrong]
        right.sort(key=lambda each: each.slow)
        explained: dict[Grants, tuple[str, ...]] = {}
        for search in searches:
            fitting = [
                added
                for added in search(granted, question)
                if all(self.like(added + granted, each) for each in self.telling(right, added))
            ]
            explained |= self.explained_by(fitting, granted, wrong)
            if any(self.enough(search, names, question, wrong) for names in explained.values()):
                break
        if not explained:
            return None
        most = max(map(len, explained.values()))
        alike = [added for added, names in explained.items() if len(names) == most]
        best = tuple(sorted(alike, key=lambda added: added != self.preferred))
        # What explains as much as so many others is named by chance.
        return Stage(best, question.name, explained[best[0]]) if len(best) <= ALTERNATIVES else None

    def explained_by(
        self, fitting: Sequence[Grants], granted: Grants, wrong: Sequence[Question]
    ) -> dict[Grants, tuple[str, ...]]:
        """Return the questions that are explained by those that explain the most quick ones."""
        quick = {
            added: sum(self.like(added + granted, each) for each in wrong if not each.slow)
            for added in fitting
        }
        most = max(quick.values(), default=0)
        return {
            added: tuple(each.name for each in wrong if self.like(added + granted, each))
            for added, number in quick.items()
            if number == most
        }

    def telling(self, right: list[Question], added: Grants) -> list[Question]:
        """Return the questions that a mistake may break, first those in which it shows alone."""
        shows = self.comparison.known_to_show()
        likely = frozenset().union(*(shows.get(grant.id, ()) for grant in added))
        return sorted(right, key=lambda each: each.name not in likely)

    def enough(
        self, search: Search, names: Sequence[str], question: Question, wrong: Sequence[Question]
    ) -> bool:
        """Return whether no further search is needed where one explains the questions of `names`.

        A variant is no mistake, and is tried first. A defect that is known to show just so explains
        all wrong answers of one kind, if there is no other mistake. A mistake that explains nothing
        else may fit by chance.
        """
        if search == self.candidates.variants:
            return True
        if search == self.candidates.known:
            return {each.name for each in wrong if each.kind == question.kind} <= set(names)
        return len(names) > 1
