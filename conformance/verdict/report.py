"""Writes the report of a run as JSON, in the format of `report.schema.json`.

`python -m conformance.pages` makes a page of one or more reports.
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

from ..diagnosis.diagnose import Diagnosis
from ..requirements import REQUIREMENTS
from .causes import Cause
from .findings import OUTCOMES, Result
from .judgement import Judgement

FORMAT = 3
_LONGEST = 4000  # characters of one field of a finding


def check_writable(option: str, path: str) -> None:
    """Raise pytest.UsageError, before any test runs, if no file of this name can be written."""
    try:
        if Path(path).is_dir():
            raise IsADirectoryError("it is a folder")
        with tempfile.TemporaryFile(dir=Path(path).parent):
            pass
    except OSError as error:
        raise pytest.UsageError(f"{option} {path}: can't be written: {error}") from error


def environment(device: str, dtype: str) -> dict[str, Any]:
    """Describe what a result may depend on: versions, platform, device, dtype, threads."""
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
    """Write a report at once, so that a reader never meets half a file."""
    data = report_of(judgements, device, dtype, finished=finished)
    text = json.dumps(data, indent=1, allow_nan=False)
    temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def report_of(
    judgements: Iterable[Judgement], device: str, dtype: str, *, finished: bool
) -> dict[str, Any]:
    """Return the report as the object that its JSON holds."""
    return {
        "format": FORMAT,
        "suite": {"name": "gpt2ref", "version": __version__},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "finished": finished,
        "environment": environment(device, dtype),
        "adapters": [_adapter(judgement) for judgement in judgements],
    }


def _adapter(judgement: Judgement) -> dict[str, Any]:
    counts, diagnosis = judgement.counts, judgement.diagnosis
    return {
        "specification": judgement.adapter,
        "verdict": {"state": judgement.state, "sentence": judgement.sentence},
        "counts": {outcome: counts[outcome] for outcome in OUTCOMES},
        "broken": judgement.broken,
        "causes": [_cause(cause) for cause in judgement.causes],
        "together": [name for name in REQUIREMENTS if name in judgement.together],
        "unexplained": judgement.unexplained,
        "diagnosis": diagnosis and _diagnosis(diagnosis),
        "stale_known_deviations": judgement.stale,
        "requirements": [_requirement(judgement, name) for name in REQUIREMENTS],
    }


def _cause(cause: Cause) -> dict[str, Any]:
    return {
        "id": cause.id,
        "alternatives": list(cause.alternatives),
        "read": cause.finding.read[:_LONGEST] if cause.finding else "",
        "expected": cause.finding.expected[:_LONGEST] if cause.finding else "",
        "explains": cause.explains,
        "what": cause.what,
        "source": cause.source,
        "places": list(cause.places),
        "question": cause.question,
        "likely": cause.likely,
    }


def _diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "stages": [
            {
                "alternatives": [[grant.id for grant in each] for each in stage.alternatives],
                "question": stage.question,
                "explains": list(stage.explains),
            }
            for stage in diagnosis.stages
        ],
        "left": list(diagnosis.left),
        "departs": diagnosis.departs,
        "sentence": str(diagnosis),
    }


def _requirement(judgement: Judgement, name: str) -> dict[str, Any]:
    requirement = REQUIREMENTS[name]
    result = judgement.results.get(name, Result())
    row: dict[str, Any] = {
        "id": name,
        "family": requirement.family,
        "sentence": requirement.sentence,
        "source": requirement.source,
        "since": requirement.since,
        "outcome": result.outcome,
        "tests": dict(result.outcomes),
        "findings": [
            {
                "outcome": finding.outcome,
                "read": finding.read[:_LONGEST],
                "expected": finding.expected[:_LONGEST],
                "mistakes": list(finding.mistakes),
                "own": finding.own,
                "test": finding.test,
                "again": judgement.again(name, finding.test),
            }
            for finding in result.findings
        ],
        "readings": [
            {key: _json_value(value) for key, value in reading.items()}
            for reading in result.readings
        ],
    }
    if known := judgement.known.get(name):
        issue = {"issue": known.issue} if known.issue else {}
        row["known_deviation"] = {"reason": known.reason} | issue
    return row


def _json_value(value: Any) -> Any:
    """Turn infinity and NaN, which JSON does not have, into words, and any object into text."""
    if isinstance(value, (list, tuple)):
        return [_json_value(each) for each in value]
    if isinstance(value, Real) and not isinstance(value, bool):
        number = int(value) if isinstance(value, int) else float(value)
        return number if math.isfinite(number) else str(number)
    return str(value)
