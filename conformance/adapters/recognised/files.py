"""Writes adapters as files: of what was recognised, or an empty one. Nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

from .recognise import NotRecognisedError, recognise
from .written import EMPTY, text


def write_adapter(place: str, name: str, path: str) -> str:
    """Write the adapter of a model that is recognised, or nearly so. Returns what was done.

    `place` is a file or a module, and `name` a class in it, or `load`.

    Raises ValueError for a model of which nothing is known, and FileExistsError.
    """
    note = ""
    try:
        found = recognise(place, name)
    except NotRecognisedError as error:
        if error.found is None:
            raise ValueError(str(error)) from error
        found, note = error.found, f"It is not complete, because {error}.\n"
    if found is None:
        raise ValueError(
            f"{place}: expected a Python file or module with a GPT-2 and without load()"
        )
    _write(path, text(found, complete=not note))
    return f"{path}: written.\n{note}Judge it: gpt2-conformance {path}"


def write_empty(path: str) -> str:
    """Write an adapter in which everything is to be filled in. Returns what was done."""
    _write(path, EMPTY)
    return f"{path}: written. Fill it in, and judge it: gpt2-conformance {path}"


def _write(path: str, content: str) -> None:
    with Path(path).open("x", encoding="utf-8") as file:
        file.write(content)
