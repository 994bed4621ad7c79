"""Known deviations: files, owned by the implementer, of requirements that fail and why that is so.

    [[deviation]]
    requirement = "sampling.top-k-ties"
    reason = "torch.topk cuts ties off; kept for speed"
    issue = "https://example.org/issues/1"  # optional

Such a failure is reported with its reason and does not fail the run. An entry whose requirement passes does: the file
says no more than what is true.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..requirements import REQUIREMENTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Deviation:
    requirement: str
    reason: str
    issue: str | None = None

    def __str__(self) -> str:
        return f"{self.reason} ({self.issue})" if self.issue else self.reason


def read_deviations(*paths: str) -> dict[str, Deviation]:
    """The files' entries by requirement. Raises pytest.UsageError, naming file and entry, for anything that is amiss."""
    known: dict[str, Deviation] = {}
    for path in paths:
        problem = f"--known-deviations {path}: "
        for number, entry in enumerate(_entries(path, problem), start=1):
            where = f"{problem}entry {number}"
            if not isinstance(entry, dict) or not all(
                isinstance(value, str) for value in entry.values()
            ):
                raise pytest.UsageError(f"{where}: expected a table of strings, found {entry!r}")
            name = entry.get("requirement", "")
            where += f" ({name or 'no requirement'}): "
            if name not in REQUIREMENTS:
                raise pytest.UsageError(
                    f"{where}no such requirement; --list-requirements prints them all"
                )
            if name in known:
                raise pytest.UsageError(f"{where}the requirement has an entry already")
            if not entry.get("reason", "").strip():
                raise pytest.UsageError(f"{where}has no reason")
            if unknown := set(entry) - {"requirement", "reason", "issue"}:
                raise pytest.UsageError(
                    f"{where}{', '.join(sorted(unknown))} is neither requirement, reason nor issue"
                )
            known[name] = Deviation(name, entry["reason"].strip(), entry.get("issue"))
    return known


def _entries(path: str, problem: str) -> list[Any]:
    try:
        data: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (
        OSError,
        ValueError,
    ) as error:  # a TOMLDecodeError and a UnicodeDecodeError are ValueErrors
        raise pytest.UsageError(problem + str(error)) from error
    entries = data.pop("deviation", [])
    if data or not isinstance(entries, list):
        raise pytest.UsageError(
            f"{problem}expected [[deviation]] tables, found {', '.join(data) or type(entries).__name__}"
        )
    return entries


def write_deviations(path: str, deviations: Iterable[Deviation], heading: str) -> None:
    """Writes such a file, which must not be there yet."""
    with open(path, "x", encoding="utf-8") as file:
        print(f"# {heading}", file=file)
        for deviation in deviations:
            print("\n[[deviation]]", file=file)
            for key, value in vars(deviation).items():
                if value is not None:
                    print(f"{key} = {_string(value)}", file=file)


def _string(text: str) -> str:
    """A TOML string: JSON's, but that DEL is escaped too, and that no escape is a surrogate."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
