"""Reads and writes files of known deviations: the requirements that fail, each with its reason.

The implementer owns such a file:

    [[deviation]]
    requirement = "sampling.top-k-ties"
    reason = "torch.topk cuts ties off; kept for speed"
    issue = "https://example.org/issues/1"  # optional

Such a failure is reported with its reason and does not fail the run. An entry whose requirement
passes fails the run, so that the file says only what is true.
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
class KnownDeviation:
    requirement: str
    reason: str
    issue: str | None = None

    def __str__(self) -> str:
        return f"{self.reason} ({self.issue})" if self.issue else self.reason


def read_known_deviations(*paths: str) -> dict[str, KnownDeviation]:
    """Return the entries of these files by requirement.

    Raises pytest.UsageError, naming file and entry, if an entry is not as above.
    """
    known: dict[str, KnownDeviation] = {}
    for path in paths:
        problem = f"--known-deviations {path}: "
        for number, entry in enumerate(_entries(path, problem), start=1):
            where = f"{problem}entry {number}"
            deviation = _known_deviation(entry, where)
            if deviation.requirement in known:
                raise pytest.UsageError(
                    f"{where} ({deviation.requirement}): the requirement has an entry already"
                )
            known[deviation.requirement] = deviation
    return known


def _known_deviation(entry: Any, where: str) -> KnownDeviation:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise pytest.UsageError(f"{where}: expected a table of strings, found {entry!r}")
    name, reason = entry.get("requirement", ""), entry.get("reason", "").strip()
    where += f" ({name or 'no requirement'}): "
    if name not in REQUIREMENTS:
        raise pytest.UsageError(f"{where}no such requirement; --list-requirements prints them all")
    if not reason:
        raise pytest.UsageError(f"{where}has no reason")
    if unknown := set(entry) - {"requirement", "reason", "issue"}:
        words = ", ".join(sorted(unknown))
        raise pytest.UsageError(f"{where}{words} is neither requirement, reason nor issue")
    return KnownDeviation(name, reason, entry.get("issue"))


def _entries(path: str, problem: str) -> list[Any]:
    try:
        data: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # what is no TOML or no UTF-8 is a ValueError
        raise pytest.UsageError(problem + str(error)) from error
    entries = data.pop("deviation", [])
    if data or not isinstance(entries, list):
        found = ", ".join(data) or type(entries).__name__
        raise pytest.UsageError(f"{problem}expected [[deviation]] tables, found {found}")
    return entries


def write_known_deviations(path: str, deviations: Iterable[KnownDeviation], heading: str) -> None:
    """Write such a file. Raises FileExistsError if there is one."""
    with open(path, "x", encoding="utf-8") as file:
        print(f"# {heading}", file=file)
        for deviation in deviations:
            print("\n[[deviation]]", file=file)
            for key, value in vars(deviation).items():
                if value is not None:
                    print(f"{key} = {_string(value)}", file=file)


def _string(text: str) -> str:
    """Return a TOML string. It is JSON's, except that DEL and not a surrogate is escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
