"""Judges the catalogue by the vectors alone: which wrong GPT-2s do the files catch, and name?

    python -m conformance.studies.vectors --vectors DIR

`--shows FILE` writes in which cases each defect shows, for the diagnosis of answers. `--named` also
diagnoses every defect from its answers, as if nobody knew it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..defects import DEFECTS, EQUIVALENT, VARIANTS
from ..diagnosis.comparison import Answers, defective
from ..diagnosis.known_to_show import write_shows
from ..diagnosis.question import CRASHED, REFUSED
from ..vectors.answers import GivenAnswers
from ..vectors.comparing import compare
from ..vectors.folder import Vectors, read_vectors
from ..vectors.left_out import LEFT_OUT
from ..vectors.verdict import VectorComparison, judge_answers
from ..vectors.write import write_vectors
from ..verdict.findings import FAILED


class Judged(NamedTuple):
    """A GPT-2 of the catalogue, its answers, and the cases that they fail."""

    name: str
    given: GivenAnswers
    failed: list[str]


def judged(vectors: Vectors, comparison: VectorComparison, name: str, answers: Answers) -> Judged:
    found = {question.name: answers[question] for question in comparison.questions}
    said = {case: str(each) if each in (REFUSED, CRASHED) else "" for case, each in found.items()}
    failed = [
        case
        for case, each in found.items()
        if compare(vectors.cases[case], each, said[case], "float32").outcome == FAILED
    ]
    return Judged(name, GivenAnswers(name, "float32", found, said), failed)


def all_judged(
    vectors: Vectors, comparison: VectorComparison, names: Iterable[str]
) -> Iterator[Judged]:
    for name in names:
        entry = DEFECTS.get(name)
        answers = comparison.of(entry) if entry else comparison.answers(defective(name))
        yield judged(vectors, comparison, name, answers)


def study(
    vectors: Vectors,
    folder: Path,
    *,
    names: Sequence[str] = tuple(DEFECTS),
    harmless: Sequence[str] = (*EQUIVALENT, *VARIANTS),
    shows: Path | None = None,
    diagnosed: bool = False,
) -> None:
    """Print which defects the files catch, and which harmless changes they flag."""
    comparison = VectorComparison(vectors, folder, torch.float32)
    found = {each.name: each for each in all_judged(vectors, comparison, names)}
    missed = [name for name, each in found.items() if not each.failed]
    for name in missed:
        requirement = str(DEFECTS[name].requirement)
        print(f"not seen: {name} ({requirement}): {LEFT_OUT.get(requirement, '')}")
    print(f"{len(found) - len(missed)} of {len(found)} defects are caught by the files", flush=True)
    if shows:
        write_shows(shows, vectors.cases, {name: each.failed for name, each in found.items()})
    flagged = [each.name for each in all_judged(vectors, comparison, harmless) if each.failed]
    print(f"{len(flagged)} of {len(harmless)} harmless ones are flagged: {flagged}", flush=True)
    if diagnosed:
        caught = [each for each in found.values() if each.failed]
        share = sum(_is_named(each, vectors, comparison) for each in caught)
        print(f"{share} of {len(caught)} that are caught are named")


def _is_named(found: Judged, vectors: Vectors, comparison: VectorComparison) -> bool:
    causes = judge_answers(found.given, vectors, comparison.folder, comparison).causes
    ids = {cause.id for cause in causes} | {each for c in causes for each in c.alternatives}
    if found.name not in ids:
        print(f"not named: {found.name}: {sorted(ids)}", flush=True)
    return found.name in ids


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=Path, metavar="DIR", help="default: written anew")
    parser.add_argument("--shows", type=Path, metavar="FILE", help="write where each defect shows")
    parser.add_argument("--named", action="store_true", help="diagnose every defect")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.vectors is None:
            write_vectors(folder / "vectors")
        vectors = read_vectors(options.vectors or folder / "vectors")
        study(vectors, folder, shows=options.shows, diagnosed=options.named)


if __name__ == "__main__":
    main()
