"""Read the JSON files that the suite writes. This module needs nothing but the standard library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REPORT, KILL_MATRIX = "conformance report", "kill matrix"
_FORMATS = {REPORT: 3, KILL_MATRIX: 1}
_FIELDS = {REPORT: "adapters", KILL_MATRIX: "entries"}  # a field that only this kind of file has

# What a file with unexpected content may raise where it is shown.
UNEXPECTED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def read(path: str) -> tuple[str, dict[str, Any]]:
    """Return the kind of the file, REPORT or KILL_MATRIX, and its content.

    Raises OSError if the file can't be read, and ValueError if it is of neither kind, or has a
    format that this version does not read.
    """
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    kind = next((kind for kind, field in _FIELDS.items() if field in _object(content)), None)
    if kind is None:
        raise ValueError(f"neither a {REPORT} nor a {KILL_MATRIX}")
    if content.get("format") != _FORMATS[kind]:
        found, expected = content.get("format"), _FORMATS[kind]
        raise ValueError(
            f"a {kind} of format {found!r}, but this version reads format {expected}: "
            "run the suite again to write a new file"
        )
    return kind, content


def read_report(path: str) -> dict[str, Any]:
    """Return the content of a conformance report. Raises as `read` does."""
    kind, content = read(path)
    if kind != REPORT:
        raise ValueError(f"a {kind}, expected a {REPORT}")
    return content


def _object(content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, found a {type(content).__name__}")
    return content
