"""The verdict on a port, from a file of its answers: outcomes, causes, report and page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..adapters.protocol import Judged
from ..diagnosis.comparison import Answers, Comparison
from ..diagnosis.diagnose import Diagnosis, diagnosed
from ..diagnosis.question import Question
from ..outcomes import NotApplicable
from ..pages.reading import UNEXPECTED
from ..verdict.findings import FAILED, NOT_APPLICABLE, PASSED, Finding, Result
from ..verdict.judgement import Judgement
from .answers import OF_LOGITS, GivenAnswers
from .comparing import Compared, allowed_in, compare
from .errors import VectorsError
from .folder import Vectors
from .full import RULE
from .performing import question_of
from .shows import shows


class VectorComparison(Comparison):
    """The comparison of answers to the cases. Logits among tokens are compared to rounding."""

    def __init__(self, vectors: Vectors, folder: Path, dtype: torch.dtype) -> None:
        # The full set has a rule in the place of weights, and is not asked of the catalogue.
        cases = [
            case
            for case in vectors.cases.values()
            if not (vectors.folder / case["checkpoint"] / RULE).exists()
        ]
        super().__init__(folder, dtype, [question_of(case, vectors.folder) for case in cases])
        self._have_logits = {
            case["id"] for case in cases if any(call["do"] in OF_LOGITS for call in case["calls"])
        }

    def known_to_show(self) -> Mapping[str, frozenset[str]]:
        return shows()

    def rounding(self, question: Question) -> float:
        if question.kind == "tokens" and question.name in self._have_logits:
            question = replace(question, kind="logits")
        return super().rounding(question)


@dataclass
class AnswersJudgement(Judgement):
    """The judgement of a file of answers. What shows a finding again is the case's file."""

    def again(self, requirement: str, test: str) -> str:  # noqa: ARG002
        return f"compare with cases/{test}.json"


def judge_answers(
    given: GivenAnswers,
    vectors: Vectors,
    folder: Path,
    comparison: VectorComparison | None = None,
) -> Judgement:
    """Return the judgement of a port. `folder` is for checkpoints of the diagnosis.

    `comparison`: one in the precision of the answers, which several ports may share.
    """
    compared = {name: _compared(vectors, given, name) for name in vectors.cases}
    for name in too_close(vectors, given):
        compared[name] = Compared(NOT_APPLICABLE, f"too close to call in {given.precision}")
    judgement = AnswersJudgement(given.name, has_name=False)
    wrong = [name for name, each in compared.items() if each.outcome == FAILED]
    if wrong and (coarse := _coarser(vectors, given, compared)):
        judgement.undiagnosed = f"the answers have {coarse}'s rounding: give it as `precision`"
    elif wrong and _without_numbers(given):
        judgement.undiagnosed = "no logit is a finite number"  # and all mistakes look alike
    elif wrong:
        comparison = comparison or VectorComparison(vectors, folder, given.dtype)
        judgement.diagnosis = diagnosed(comparison, _subject(given, compared, comparison))
    failing = _failing(judgement.diagnosis, vectors, wrong)
    for name, case in vectors.cases.items():
        for requirement in case["requirements"]:
            result = judgement.results.setdefault(requirement, Result())
            result.add(_finding(name, requirement, compared[name], failing))
    return judgement


def _compared(vectors: Vectors, given: GivenAnswers, name: str) -> Compared:
    try:
        return compare(vectors.cases[name], given.answers[name], given.said[name], given.precision)
    except (ArithmeticError, RuntimeError, *UNEXPECTED) as error:
        raise VectorsError(f"{vectors.folder}: case {name}: not a case: {error!r}") from error


def _without_numbers(given: GivenAnswers) -> bool:
    """Return whether there are logits, and none of them is a finite number."""
    lists = (each for each in given.answers.values() if isinstance(each, list))
    logits = [each for answers in lists for each in answers if isinstance(each, Tensor)]
    return bool(logits) and not any(bool(each.isfinite().any()) for each in logits)


def _coarser(vectors: Vectors, given: GivenAnswers, compared: Mapping[str, Compared]) -> str | None:
    """Return the precision, below the one given, whose rounding excuses all logits.

    None if any are right as it is: a mistake may be as small, and leaves some logits right.
    """
    asked = [
        name
        for name, case in vectors.cases.items()
        if case["expected"].get("allowed") and compared[name].outcome != NOT_APPLICABLE
    ]
    wrong = [name for name in asked if compared[name].outcome == FAILED]
    if given.precision != "float32" or not wrong or wrong != asked:
        return None
    return next(
        (
            precision
            for precision in ("float16", "bfloat16")
            if all(
                compare(vectors.cases[name], given.answers[name], "", precision).outcome != FAILED
                for name in asked
            )
        ),
        None,
    )


def _subject(
    given: GivenAnswers, compared: Mapping[str, Compared], comparison: Comparison
) -> Answers:
    """Return the answers as those of an implementation that can't be asked anything else."""
    judged = {
        name: None if compared[name].outcome == NOT_APPLICABLE else each
        for name, each in given.answers.items()
    }
    return Answers(_not_here, comparison, given.dtype, given=judged)


def _not_here(folder: Path, dtype: torch.dtype) -> Judged:
    raise NotApplicable(f"{folder} in {dtype}: a file has the answers to its cases alone")


def _finding(
    case: str, requirement: str, compared: Compared, failing: Mapping[str, tuple[str, ...]]
) -> Finding:
    if compared.outcome != FAILED:
        return Finding(compared.outcome, compared.found, test=case)
    if requirement not in failing:  # right but for the causes that were found
        return Finding(PASSED, test=case)
    mistakes = failing[requirement]
    return Finding(FAILED, compared.found, mistakes=mistakes, own=bool(mistakes), test=case)


def too_close(vectors: Vectors, given: GivenAnswers) -> list[str]:
    """Return the cases whose tokens rounding may change in the precision of the answers."""
    if given.precision == "float32":
        return []
    errors = (allowed_in(case, given.precision) or 0.0 for case in vectors.cases.values())
    least = 2 * max(errors)
    return [
        name
        for name, case in vectors.cases.items()
        if (case["expected"].get("lead") or least) < least
        or any(call.get("uniforms") for call in case["calls"])
    ]


def _failing(
    diagnosis: Diagnosis | None, vectors: Vectors, wrong: list[str]
) -> dict[str, tuple[str, ...]]:
    """Return the requirements that fail, each with the mistakes that are its own.

    A mistake that was found fails its own requirement, or else the first one of the case that
    showed it. A case that nothing explains fails its first requirement.
    """
    failing: dict[str, tuple[str, ...]] = {}
    first = {name: vectors.cases[name]["requirements"][0] for name in vectors.cases}
    asked = {each for name in wrong for each in vectors.cases[name]["requirements"]}
    for stage in diagnosis.stages if diagnosis else ():
        for number, mistake in enumerate(stage.granted):
            same = (each[number] for each in stage.alternatives if len(each) > number)
            own = [each.requirement for each in same if each.requirement in asked]
            requirement = own[0] if own else first[stage.question]
            failing[str(requirement)] = (*failing.get(str(requirement), ()), mistake.id)
    unexplained = [name for name in wrong if diagnosis is None or name in diagnosis.left]
    for name in unexplained:
        failing.setdefault(first[name], ())
    if wrong and not asked & failing.keys():
        failing[first[wrong[0]]] = ()
    return failing
