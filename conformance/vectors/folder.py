"""Reads a folder of vectors, and checks that it is whole."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import VectorsError
from .write import FORMAT, sha256

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)
_KINDS = {str: "a text", list: "a list", dict: "an object"}
_FIELDS = {"id": str, "requirements": list, "sentence": str, "checkpoint": str, "parts": list}
_FIELDS |= {"calls": list, "refusal_words": list, "accepted": list, "expected": dict}


@dataclass(frozen=True)
class Vectors:
    """The vectors of a folder. `cases` are the contents of the cases' files, by their ids."""

    folder: Path
    cases: Mapping[str, dict[str, Any]]
    index_sha256: str


def read_vectors(folder: Path) -> Vectors:
    """Return the vectors of a folder.

    Raises VectorsError for a file that is missing or changed, or of a version from the future.
    """
    file = folder / "index.json"
    index = read_object(file)
    check_format(file, index)
    try:
        files = {name: (each["bytes"], each["sha256"]) for name, each in index["files"].items()}
        listed = [(each["id"], each["file"]) for each in index["cases"]]
    except (LookupError, TypeError, AttributeError) as error:
        raise VectorsError(f"{file}: not an index of vectors: {error!r}") from error
    for name, (size, digest) in files.items():
        if not _NAME.fullmatch(name) or not _is_within(folder / name, folder):
            raise VectorsError(f"{file}: {name[:100]!r} is not a file of this folder")
        _check(folder / name, size, digest)
    cases: dict[str, dict[str, Any]] = {}
    for case, name in listed:
        if not isinstance(case, str):
            raise VectorsError(f"{file}: case {case!r}: expected a text as its id")
        if not isinstance(name, str) or name not in files:
            raise VectorsError(f"{file}: case {case!r}: {name!r} is not among its files")
        if case in cases:
            raise VectorsError(f"{file}: case {case!r} is listed twice")
        cases[case] = read_object(folder / name)
        if said := _wrong(case, cases[case], files):
            raise VectorsError(f"{folder / name}: {said}")
    if not cases:
        raise VectorsError(f"{file}: there are no cases")
    return Vectors(folder, cases, sha256(file))


def _is_within(file: Path, folder: Path) -> bool:
    # Unlike resolve(), it takes links that go round in a circle.
    return Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))


def _check(file: Path, size: int, digest: str) -> None:
    try:
        if not file.is_file():
            raise VectorsError(f"{file}: there is no such file")
        if (found := file.stat().st_size) != size:  # before a huge one is read
            raise VectorsError(f"{file}: has {found} bytes, and index.json says {size}")
        if sha256(file) != digest:
            raise VectorsError(f"{file}: its sha256 is not that of index.json")
    except OSError as error:
        raise VectorsError(f"{file}: can't be read: {error.strerror}") from error


def _wrong(name: str, case: dict[str, Any], files: Mapping[str, Any]) -> str:
    """Say why an object is not that case; empty if it may be."""
    for field, kind in _FIELDS.items():
        if not isinstance(case.get(field), kind):
            return f"{field}: {_short(case.get(field))}, expected {_KINDS[kind]}"
    if case["id"] != name:
        return f"id: {_short(case['id'])}, and index.json says {name!r}"
    if f"{case['checkpoint']}/config.json" not in files:
        return f"checkpoint: {_short(case['checkpoint'])} is not in this folder"
    if not case["requirements"]:
        return "requirements: none"
    answers = case["expected"].get("answers", case["calls"])  # none where it is refused
    if not isinstance(answers, list) or len(answers) != len(case["calls"]):
        return f"expected.answers: {_short(answers)}, expected one for each call"
    return ""


def _short(value: Any) -> str:
    return repr(value)[:60]


def check_format(file: Path, content: Mapping[str, Any]) -> None:
    found = content.get("format")
    if type(found) is not int or found < 1:
        raise VectorsError(f"{file}: format: {found!r}, expected {FORMAT}")
    if found > FORMAT:
        raise VectorsError(
            f"{file}: format {found} is from a later version; this one reads {FORMAT}"
        )


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object of a file. Raises VectorsError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise VectorsError(f"{file}: can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise VectorsError(f"{file}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise VectorsError(f"{file}: a {type(content).__name__}, expected a JSON object")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. json itself would take the last of two values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return found
