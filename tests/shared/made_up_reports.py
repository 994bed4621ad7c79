"""Made-up conformance reports that satisfy `conformance/verdict/report.schema.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conformance.requirements import REQUIREMENTS
from conformance.verdict.findings import OUTCOMES

WRONG, RIGHT = "conformance.defects:gelu-erf", "package.mine:load"
CURVE = [[-1.0, -0.1588], [0.0, 0.0], [1.0, 0.8412]]


def finding(outcome: str, read: str, expected: str = "", *mistakes: str) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "read": read,
        "expected": expected,
        "mistakes": list(mistakes),
        "own": True,
        "test": "conformance/test_probes.py::test_fact",
        "again": f"pytest conformance/test_probes.py::test_fact --implementation {WRONG}",
    }


def requirement(name: str, outcome: str, **fields: Any) -> dict[str, Any]:
    row = REQUIREMENTS[name]
    return {
        "id": name,
        "family": row.family,
        "sentence": row.sentence,
        "source": row.source,
        "since": row.since,
        "outcome": outcome,
        "tests": {} if outcome == "not run" else {outcome: 1},
        "findings": [],
        "readings": [],
    } | fields


def implementation(
    name: str, state: str, asked: Mapping[str, Mapping[str, Any]], **fields: Any
) -> dict[str, Any]:
    """Make an implementation's part of a report.

    `asked` maps requirements to outcomes and further fields. The others were not run.
    """
    rows = [requirement(each, **asked.get(each, {"outcome": "not run"})) for each in REQUIREMENTS]
    outcomes = [row["outcome"] for row in rows]
    return {
        "specification": name,
        "verdict": {"state": state, "sentence": f"{name}: {state}. Some of the requirements."},
        "counts": {outcome: outcomes.count(outcome) for outcome in OUTCOMES},
        "broken": None,
        "causes": [],
        "together": [],
        "unexplained": [],
        "diagnosis": None,
        "stale_known_deviations": [],
        "requirements": rows,
    } | fields


def report_of(*implementations: dict[str, Any], dtype: str = "float32") -> dict[str, Any]:
    return {
        "format": 3,
        "suite": {"name": "gpt2ref", "version": "0.1.0"},
        "date": "2026-11-28T12:00:00+00:00",
        "finished": True,
        "environment": {
            "python": "3.11.7",
            "torch": "2.13.0",
            "transformers": "5.24.0",
            "platform": "Linux",
            "device": "cpu",
            "dtype": dtype,
            "threads": 2,
        },
        "adapters": list(implementations),
    }


def epsilon(value: float) -> list[dict[str, Any]]:
    return [{"quantity": "epsilon of ln_1", "read": value, "expected": 1e-5}]


def activation(shift: float) -> list[dict[str, Any]]:
    read = [[x, y + shift] for x, y in CURVE]
    return [{"quantity": "activation", "read": read, "expected": CURVE}]


def wrong_implementation() -> dict[str, Any]:
    """Make the part of a GPT-2 with exact GELU, and with one failure that nothing explains."""
    found = finding("failed", "activation: erf-GELU", "activation: tanh-GELU", "gelu-erf")
    shown = finding("failed", "logits that differ", "", "gelu-erf")
    return implementation(
        WRONG,
        "deviates",
        {
            "activation.curve": {
                "outcome": "failed",
                "findings": [found, found],
                "readings": activation(5e-4),
            },
            "vectors.c_fc-bias": {"outcome": "failed", "findings": [shown]},
            "keys.prefix": {"outcome": "failed", "findings": [finding("failed", "KeyError")]},
            "layer-norm.epsilon-ln_1": {"outcome": "passed", "readings": epsilon(1e-5)},
        },
        causes=[
            {
                "id": "gelu-erf",
                "alternatives": [],
                "places": ["the activation between mlp.c_fc and mlp.c_proj"],
                "question": "MLP alone",
                "likely": False,
                "read": "activation: erf-GELU",
                "expected": "activation: tanh-GELU",
                "explains": ["activation.curve", "vectors.c_fc-bias"],
                "what": "Exact GELU instead of the tanh approximation.",
                "source": "karpathy/nanoGPT #1",
            }
        ],
        unexplained=["keys.prefix"],
        diagnosis={
            "stages": [
                {"alternatives": [["gelu-erf"]], "question": "MLP alone", "explains": ["MLP alone"]}
            ],
            "left": [],
            "departs": "",
            "sentence": "indistinguishable from gelu-erf",
        },
    )


def right_implementation() -> dict[str, Any]:
    """Make the part of a right GPT-2 that has no generate()."""
    return implementation(
        RIGHT,
        "no deviation found",
        {
            "activation.curve": {"outcome": "passed", "readings": activation(1e-7)},
            "layer-norm.epsilon-ln_1": {"outcome": "passed", "readings": epsilon(9.99e-6)},
            "eos.middle": {
                "outcome": "not applicable",
                "findings": [finding("not applicable", "the adapter has no generate()")],
            },
        },
    )
