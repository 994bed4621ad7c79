"""Says in which questions each defect of the catalogue shows by itself.

The answers of the catalogue are compared once, in float32, by

    python -m conformance.studies.diagnosis --shows conformance/defects/shows.json

So an implementation with one mistake is compared with few entries, and not with all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from .. import defects

FILE = Path(defects.__file__).with_name("shows.json")


@cache
def shows() -> Mapping[str, frozenset[str]]:
    """Return the names of the questions for each defect."""
    return read_shows(FILE)


def read_shows(file: Path) -> Mapping[str, frozenset[str]]:
    """Read a file that `write_shows` has written."""
    known = json.loads(file.read_text(encoding="utf-8"))
    questions = known["questions"]
    return {
        name: frozenset(questions[number] for number in numbers)
        for name, numbers in known["shows"].items()
    }


def unseen() -> list[str]:
    """Return the defects that show in no question."""
    return [name for name, questions in shows().items() if not questions]


def write_shows(path: Path, questions: Iterable[str], found: Mapping[str, Iterable[str]]) -> None:
    """Write what `shows` reads. A defect has the numbers of its questions, as these are many."""
    numbers = {question: number for number, question in enumerate(questions)}
    lines = [
        f"{json.dumps(name)}: {sorted(numbers[each] for each in names)}"
        for name, names in found.items()
    ]
    path.write_text(
        f'{{"questions": {json.dumps([*numbers], indent=1)},\n"shows": {{\n'
        + ",\n".join(lines)
        + "\n}}\n",
        encoding="utf-8",
    )
