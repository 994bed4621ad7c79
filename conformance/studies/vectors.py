"""Judges the catalogue by the vectors alone: which wrong GPT-2s do the files catch, and name?

    python -m conformance.studies.vectors --vectors DIR

`--shows FILE` writes in which cases each defect shows, for the diagnosis of answers. `--named` also
diagnoses every defect from its answers, as if nobody knew it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
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
        if not entry:
            continue
        comparison.forget()


def study(vectors: Vectors, folder: Path, shows: Path | None, named: bool) -> None:
    comparison = VectorComparison(vectors, folder, torch.float32)
    found = {each.name: each for each in all_judged(vectors, comparison, DEFECTS)}
    missed = [name for name, each in found.items() if not each.failed]
    for name in missed:
        requirement = DEFECTS[name].requirement or ""
        print(f"not seen: {name} ({requirement}): {LEFT_OUT.get(requirement, '')}")
    print(f"{len(found) - len(missed)} of {len(found)} defects are caught by the files")
    if shows:
        write_shows(shows, vectors.cases, {name: each.failed for name, each in found.items()})
    flagged = [
        each.name for each in all_judged(vectors, comparison, EQUIVALENT | VARIANTS) if each.failed
    ]
    print(f"{len(flagged)} of {len(EQUIVALENT | VARIANTS)} harmless ones are flagged: {flagged}")
    if named:
        right = 0
        for name, each in found.items():
            if each.failed:
                causes = judge_answers(each.given, vectors, folder).causes
                ids = {cause.id for cause in causes} | {x for c in causes for x in c.alternatives}
                right += name in ids
                if name not in ids:
                    print(f"not named: {name}: {sorted(ids)}", flush=True)
        print(f"{right} of {len(found) - len(missed)} that are caught are named")


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
        study(vectors, folder, options.shows, options.named)


if __name__ == "__main__":
    main()
