"""Proposes mistakes that may explain the answer of a wrong GPT-2.

They are variants; defects, the likely ones first; constants; blocks that are put together
otherwise; a step that nobody knows; two defects at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ..defects import DEFECTS, VARIANTS
from ..defects.catalogue import Entry, Mistake, with_number
from ..defects.constants import CONSTANTS, Constant, Measured
from ..defects.read_block import other_blocks
from ..defects.read_n_head import ReadNHead
from ..defects.steps import can_change, changes_alone
from .asking import Logits
from .comparison import Answers, Comparison, relative_difference
from .question import BLOCKS, EMBEDDINGS, FAILED, NORM, WITH_ATTENTION, WITH_MLP, Question
from .solving import Subject
from .unknown_steps import read_step

Grants = tuple[Mistake, ...]
Search = Callable[[Grants, Question], Iterator[Grants]]  # what explains the answer to a question
N_HEADS = (2, 3, 4, 6, 8, 12, 16, 20, 25)
MOST_KNOWN = 8  # of which pairs are tried where an answer takes long
# Asked before other questions about tokens.
QUICK = frozenset({"pieces of (2, 1, 3)", "rows that end", "dice with top_k=1", "greedy"})


class Candidates:
    """The searches for a mistake of one implementation, the subject.

    Each takes what is granted and a question that is answered otherwise.
    """

    def __init__(self, comparison: Comparison, subject: Answers) -> None:
        self.comparison, self.subject = comparison, subject
        self._searched: dict[tuple[str, Grants, str], float] = {}
        self._read: dict[tuple[Grants, frozenset[str]], Mistake | None] = {}

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

    def variants(self, granted: Grants, question: Question) -> Iterator[Grants]:
        """Yield variants of which every effect is seen."""
        for (entry,) in self.entries(VARIANTS.values(), granted, question):
            if all(
                self.like((entry, *granted), each) or not self.shows(entry, granted, each)
                for each in self.wrong(granted)
            ):
                yield (entry,)

    def known(self, granted: Grants, question: Question) -> Iterator[Grants]:
        return self.entries(self.known_to_show(granted, question), granted, question)

    def known_to_show(self, granted: Grants, question: Question) -> list[Entry]:
        """Return defects that are known to show in this question, and in none answered rightly."""
        right = {
            each.name
            for each in self.comparison.questions
            if self.subject[each] is not None and self.like(granted, each)
        }
        return [
            DEFECTS[name]
            for name, shown in self.comparison.known_to_show().items()
            if question.name in shown and not shown & right
        ]

    def defects(self, granted: Grants, question: Question) -> Iterator[Grants]:
        """Yield defects, and other numbers of heads, which show where a config has another."""
        return self.entries([*DEFECTS.values(), *map(ReadNHead, N_HEADS)], granted, question)

    def windows(self, granted: Grants, question: Question) -> Iterator[Grants]:
        """Yield a window of positions, whose width is the first position that is wrong."""
        found, expected = self.subject[question], self.comparison.of(*granted)[question]
        if not isinstance(found, Logits) or not isinstance(expected, Logits):
            return
        if found.centred.shape == expected.centred.shape and found.centred.dim() == 3:
            most = self.comparison.rounding(question) * max(found.largest, expected.largest)
            wrong = ((found.centred - expected.centred).abs() > most).any(-1).any(0).nonzero()
            if len(wrong) and wrong[0] > 0:
                yield from self.entries([with_number(f"window={int(wrong[0])}")], granted, question)

    def blocks(self, granted: Grants, question: Question) -> Iterator[Grants]:
        """Yield blocks that are put together otherwise, those first that differ in few places."""
        known = any("block" in each.steps for each in granted)
        if question.kind == "logits" and NORM <= question.parts <= BLOCKS and not known:
            yield from self.entries(other_blocks(), granted, question)

    def entries(
        self, entries: Iterable[Mistake], granted: Grants, question: Question
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
        for constant in self.constants_of(granted, question):
            zero = Measured(constant, 0.0)
            if constant.vanishes and self.like((zero, *granted), question):
                yield (zero,)
            else:
                measured = self.searched(constant, granted, question)
                yield from self.refined(measured, granted, question)

    def constants_beside(self, granted: Grants, question: Question) -> Iterator[Grants]:
        """Yield a constant with a defect that shows in the question as well."""
        if not isinstance(self.subject[question], Logits):
            return
        constants = self.constants_of(granted, question)
        showing = self.showing(granted, question) if constants else []
        for constant in constants:
            value = self.searched(constant, granted, question).value
            for entry in showing:
                beside = (entry, *granted)
                measured = self.near(Measured(constant, value), beside, question)
                for (refined,) in self.refined(measured, beside, question):
                    yield refined, entry

    def near(self, measured: Measured, granted: Grants, question: Question) -> Measured:
        """Return the value near this one that explains the answer, or another if none does."""

        def logits_of(value: float) -> Tensor:
            answers = self.comparison.new(Measured(measured.constant, value), *granted)
            return cast("Logits", answers[question]).centred

        found = cast("Logits", self.subject[question]).centred
        value = measured.constant.near(measured.value, found, logits_of)
        return Measured(measured.constant, value)

    def searched(self, constant: Constant, granted: Grants, question: Question) -> Measured:
        """Return the value that explains the answer best. It is searched for once."""
        key = constant.name, granted, question.name
        if key not in self._searched:
            self._searched[key] = constant.search(self.distance(constant, granted, question))
        return Measured(constant, self._searched[key])

    def constants_of(self, granted: Grants, question: Question) -> list[Constant]:
        """Return the constants that the answer depends on.

        Where all tokens have the same variance, an epsilon fits any mistake of a norm.
        """
        if not question.parts < BLOCKS or question.parts == NORM:
            return []
        return [
            constant
            for constant in CONSTANTS.values()
            if self.shows(Measured(constant, 2 * constant.value), granted, question)
        ]

    def shows(self, added: Mistake, granted: Grants, question: Question) -> bool:
        """Return whether the answer depends on a mistake at all."""
        try:
            other = self.comparison.of(added, *granted)
        except TypeError:  # no class can have all of these
            return False
        return not self.comparison.alike(self.comparison.of(*granted), other, question)

    def refined(
        self, measured: Measured, granted: Grants, question: Question
    ) -> Iterator[tuple[Measured]]:
        """Yield a value with its last digits, if it explains the answer.

        It does so if one that is a hundredth larger would show. More shows in float64, which not
        every implementation computes in.
        """
        if not self.like((measured, *granted), question):
            return
        exact = replace(question, name=f"{question.name} in float64", dtype=torch.float64)
        constant = measured.constant
        if self.subject[exact] is not None:
            value = constant.refine(measured.value, self.distance(constant, granted, exact))
            measured = Measured(constant, value)
        larger = Measured(constant, 1.01 * measured.value)
        if not all(self.like((larger, *granted), each) for each in (question, exact)):
            yield (measured,)

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
        """Yield two that explain the answer together. Each shows in it, and breaks no right one.

        An error in the place of logits says too little.
        """
        found = self.subject[question]
        if question.kind == "logits" and isinstance(found, str) and found in FAILED:
            return
        if question.parts < BLOCKS or question.kind == "text":
            showing = self.showing(granted, question)
        else:
            showing = self.known_to_show(granted, question)
            if len(showing) > MOST_KNOWN:
                return
        for first, second in itertools.combinations(showing, 2):
            if self.like((first, second, *granted), question):
                yield first, second
            # The first has a step that both override.
            elif first.steps & second.steps and self.like((second, first, *granted), question):
                yield second, first

    def showing(self, granted: Grants, question: Question) -> list[Entry]:
        """Return defects that show in this question, and break no quick one answered rightly."""
        quick = [
            each
            for each in self.comparison.questions
            if each.kind == question.kind and (each.parts < BLOCKS or each.kind == "text")
        ]
        right = [each for each in quick if self.like(granted, each)]
        return [
            entry
            for entry in DEFECTS.values()
            if entry not in granted
            and self.shows(entry, granted, question)
            and all(self.like((entry, *granted), each) for each in right)
        ]

    def unknown(self, granted: Grants, question: Question) -> Iterator[Grants]:
        """Yield a step that nobody knows as it is read, if it explains the answer."""
        read = self.read(granted, question.parts)
        if read is not None and self.like((read, *granted), question):
            yield (read,)

    def unknown_beside(self, granted: Grants, question: Question) -> Iterator[Grants]:
        """Yield a step as it is read with a defect that shows in the question, but not in it."""
        read = self.read(granted, question.parts)
        if read is None:
            return
        for entry in self.showing(granted, question):
            if self.like((entry, read, *granted), question):
                yield entry, read

    def positions_beside(self, granted: Grants, question: Question) -> Iterator[Grants]:
        """Yield positions as they are read with a mistake of the norm that hides them."""
        if question.parts != NORM:
            return
        for entry in self.showing(granted, question):
            if "normalise" in entry.steps:
                read = self.read((entry, *granted), EMBEDDINGS)
                if read is not None and self.like((read, entry, *granted), question):
                    yield read, entry

    def read(self, granted: Grants, parts: frozenset[str]) -> Mistake | None:
        """Return the step that questions of these parts are about as it is read, once."""
        key = granted, parts
        if key not in self._read:
            subject = Subject(self.subject.load, granted, self.comparison.new_folder)
            self._read[key] = read_step(subject, parts)
        return self._read[key]
