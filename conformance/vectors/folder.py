"""Reads a folder of vectors, and checks that it is whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import VectorsError
from .write import FORMAT, sha256


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
        listed = {each["id"]: each["file"] for each in index["cases"]}
        files = {name: (each["bytes"], each["sha256"]) for name, each in index["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise VectorsError(f"{file}: not an index of vectors: {error!r}") from error
    for name, (size, digest) in files.items():
        _check(folder, name, size, digest)
    for case, name in listed.items():
        if name not in files:
            raise VectorsError(f"{file}: case {case}: {name!r} is not among its files")
    cases = {case: read_object(folder / name) for case, name in listed.items()}
    return Vectors(folder, cases, sha256(file))


def _check(folder: Path, name: str, size: int, digest: str) -> None:
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise VectorsError(f"{file}: not a file of this folder")
    try:
        found, has = file.stat().st_size, sha256(file)
    except OSError as error:
        raise VectorsError(f"{file}: can't be read: {error.strerror}") from error
    if found != size:
        raise VectorsError(f"{file}: has {found} bytes, and index.json says {size}")
    if has != digest:
        raise VectorsError(f"{file}: its sha256 is not that of index.json")


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
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise VectorsError(f"{file}: can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise VectorsError(f"{file}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise VectorsError(f"{file}: a {type(content).__name__}, expected a JSON object")
    return content
