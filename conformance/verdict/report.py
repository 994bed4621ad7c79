"""The report of a run as JSON: everything that the verdict is made of. `report.schema.json` says what is in it.

`python -m conformance.pages.report_page` makes a page of one or more of them.
"""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
from collections.abc import Iterable
from datetime import datetime, timezone
from numbers import Real
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2ref import __version__

from ..requirements import REQUIREMENTS
from .judgement import OUTCOMES, Decision, Judgement

FORMAT = 1
_LONGEST = 4000  # characters of what a test found


def check_writable(option: str, path: str) -> None:
    """Raises pytest.UsageError, before anything has run, if there can be no file of this name."""
    place = Path(path)
    try:
        if place.is_dir():
            raise IsADirectoryError("it is a folder")
        with tempfile.TemporaryFile(dir=place.parent):
            pass
    except OSError as error:
        raise pytest.UsageError(f"{option} {path}: can't be written: {error}") from error


def environment(device: str, dtype: str) -> dict[str, Any]:
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "platform": platform.platform(),
        "device": device,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
    }


def write_report(
    path: str, judgements: Iterable[Judgement], device: str, dtype: str, *, finished: bool
) -> None:
    """All or nothing: a reader never meets half a file."""
    data = {
        "format": FORMAT,
        "suite": {"name": "gpt2ref", "version": __version__},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "finished": finished,
        "environment": environment(device, dtype),
        "adapters": [_adapter(judgement) for judgement in judgements],
    }
    text = json.dumps(data, indent=1, allow_nan=False)
    temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _adapter(judgement: Judgement) -> dict[str, Any]:
    counts = judgement.counts
    return {
        "specification": judgement.adapter,
        "verdict": {"state": judgement.state, "sentence": judgement.sentence},
        "counts": {outcome: counts[outcome] for outcome in OUTCOMES},
        "causes": [
            {"mistake": cause.mistake, "explains": cause.explains} for cause in judgement.causes
        ],
        "diagnosis": str(judgement.diagnosis) if judgement.diagnosis else None,
        "stale_deviations": judgement.stale,
        "requirements": [_requirement(judgement, name) for name in REQUIREMENTS],
    }


def _requirement(judgement: Judgement, name: str) -> dict[str, Any]:
    requirement = REQUIREMENTS[name]
    decision = judgement.decisions.get(name, Decision())
    row: dict[str, Any] = {
        "id": name,
        "family": requirement.family,
        "sentence": requirement.sentence,
        "source": requirement.source,
        "since": requirement.since,
        "outcome": decision.outcome,
        "tests": dict(decision.outcomes),
        "details": [
            {
                "outcome": outcome,
                "found": found[:_LONGEST],
                "test": nodeid,
                "again": judgement.again(nodeid),
            }
            for outcome, found, nodeid in decision.details
        ],
        "readings": [
            {key: _plain(value) for key, value in reading.items()} for reading in decision.readings
        ],
    }
    if known := judgement.known.get(name):
        row["known_deviation"] = {"reason": known.reason} | (
            {"issue": known.issue} if known.issue else {}
        )
    return row


def _plain(value: Any) -> Any:
    """What JSON can hold. It has no infinity and no NaN, which a wrong GPT-2 well may have: they are told as words."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Real) and not isinstance(value, bool):
        number = int(value) if isinstance(value, int) else float(value)
        return number if math.isfinite(number) else str(number)
    return str(value)
