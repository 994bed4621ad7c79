"""Vectors that several test files read. They are written once, as that takes seconds.

After a change of cases, or of the defects that they name, this writes the hashes that every machine
and every version of torch must give:

    python -m tests.shared.vectors
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from conformance.diagnosis.comparison import Load
from conformance.vectors.answers import answers_of
from conformance.vectors.folder import Vectors, read_vectors
from conformance.vectors.verdict import VectorComparison
from conformance.vectors.write import write_vectors

HASHES = Path(__file__).parents[1] / "conformance/vectors.sha256"
_KEPT = tempfile.TemporaryDirectory()  # until the process ends


@cache
def written() -> Vectors:
    folder = Path(_KEPT.name) / "vectors"
    write_vectors(folder)
    return read_vectors(folder)


def index() -> Any:
    return json.loads((written().folder / "index.json").read_text(encoding="utf-8"))


def hashes() -> list[str]:
    """Return a line for each case: the hash of its file and its checkpoint, and its id."""
    found, files = [], {each["id"]: each["file"] for each in index()["cases"]}
    for name, case in written().cases.items():
        content = hashlib.sha256((written().folder / files[name]).read_bytes())
        for file in sorted((written().folder / case["checkpoint"]).iterdir()):
            content.update(file.read_bytes())
        found.append(f"{content.hexdigest()}  {name}")
    return found


@cache
def comparison() -> VectorComparison:
    """Return the comparison in float32, whose answers the ports of a run share."""
    return VectorComparison(written(), Path(_KEPT.name), torch.float32)


def answers_file(
    load: Load,
    path: Path,
    name: str = "a port",
    change: Callable[[Any], None] | None = None,
    only: str = "",
    precision: str = "float32",
) -> Path:
    """Write the answers of an implementation in Python, with a change.

    `only`: the start of the names of the requirements that are asked, several with blanks between.
    """
    vectors = written()
    starts = tuple(only.split()) or ("",)
    asked = {id: each for id, each in vectors.cases.items() if _starts(each, starts)}
    content = answers_of(replace(vectors, cases=asked), load, name, precision)
    if change:
        change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _starts(case: dict[str, Any], starts: tuple[str, ...]) -> bool:
    return any(name.startswith(starts) for name in case["requirements"])


if __name__ == "__main__":
    HASHES.write_text("\n".join(hashes()) + "\n", encoding="utf-8")
