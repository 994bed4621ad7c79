"""Compares a port's answers to one case with those that it must have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diagnosis.asking_tokens import Frequencies
from ..diagnosis.question import CRASHED, REFUSED
from ..judging.frequencies import check_frequency
from ..judging.oracle import error
from ..outcomes import Failure
from ..verdict.findings import FAILED, NOT_APPLICABLE, PASSED, VARIANT

_LONGEST = 120  # characters of an answer in a sentence


@dataclass(frozen=True)
class Compared:
    """The outcome of a case, one of those of `findings`, and what was found."""

    outcome: str
    found: str = ""


def compare(case: Mapping[str, Any], given: Any, said: str, precision: str) -> Compared:
    """Return the outcome of a case. `given`: the answers as `answers.read_answers` has them."""
    expected = case["expected"]
    if given is None:
        return Compared(NOT_APPLICABLE, said)
    found = _differs(case, expected, given, said, precision)
    if not found:
        return Compared(PASSED)
    for each in case["accepted"]:
        if not _differs(case, each, given, said, precision):
            return Compared(each["outcome"], each["says"] if each["outcome"] == VARIANT else "")
    return Compared(FAILED, found)


def allowed_in(case: Mapping[str, Any], precision: str) -> float | None:
    """Return the allowed error of a case's logits; None if this precision can't have them."""
    name = "bfloat16" if precision == "int8" else precision
    allowed: dict[str, float] = case["expected"].get("allowed", {})
    return allowed.get(name)


def _differs(
    case: Mapping[str, Any], expected: Mapping[str, Any], given: Any, said: str, precision: str
) -> str:
    """Say how answers differ from those that are expected; empty if they don't."""
    if expected.get("refused"):
        return "" if given == REFUSED else _not_refused(case, given, said)
    if given in (REFUSED, CRASHED):
        return f"case {case['id']}: an error: {said[:_LONGEST]}"
    allowed = allowed_in({"expected": case["expected"] | expected}, precision)
    allowed = 0.0 if allowed is None else allowed
    for number, (call, right, own) in enumerate(
        zip(case["calls"], expected["answers"], given, strict=True)
    ):
        if isinstance(own, Tensor):
            words = _logits(case, call, own, right, allowed)
        elif isinstance(own, Frequencies):
            words = _frequencies(own, right)
        else:
            words = _lists(own, right)
        if words:
            return f"case {case['id']}, answer {number}: {words}"
    return ""


def _not_refused(case: Mapping[str, Any], given: Any, said: str) -> str:
    if given == CRASHED:
        return f"case {case['id']}: the error does not name its subject: {said[:_LONGEST]}"
    return f"case {case['id']}: expected an error, and there is an answer"


def _logits(
    case: Mapping[str, Any], call: Mapping[str, Any], own: Tensor, right: Any, allowed: float
) -> str:
    truth = torch.tensor(right, dtype=torch.float64)
    if own.shape != truth.shape:
        return f"logits of shape {list(own.shape)}, expected {list(truth.shape)}"
    # A constant that is added to all logits of a position counts in one requirement alone.
    raw = "head.raw" in case["requirements"]
    errors = (own - truth).abs().nan_to_num(nan=torch.inf) if raw else error(own, truth)
    worst = float(errors.max())
    if worst <= allowed:
        return ""
    row, position, token = map(int, torch.unravel_index(errors.argmax(), errors.shape))
    at = own[row, position, token], truth[row, position, token]
    token = token if case["tokens"] is None else case["tokens"][token]
    position = position if call["positions"] is None else call["positions"][position]
    return (
        f"token {token} at row {row}, position {position} has logit {float(at[0]):.7g}, "
        f"should be {float(at[1]):.7g}: {worst:.1e} off, {worst / allowed:.3g} times the "
        f"allowed {allowed:.1e}"
    )


def _frequencies(own: Frequencies, right: Mapping[str, Any]) -> str:
    draws, likely = right["draws"], {int(k): p for k, p in right["probabilities"].items()}
    try:
        for token in sorted(own | likely):
            check_frequency(own[token], draws, likely.get(token, 0.0), f"token {token}")
    except Failure as failure:
        return failure.read
    return ""


def _lists(own: Any, right: Any) -> str:
    if own == right:
        return ""
    if isinstance(own, list) and own and isinstance(own[0], list) and len(own) == len(right):
        row = next(n for n, (a, b) in enumerate(zip(own, right, strict=True)) if a != b)
        return f"row {row}: {_short(own[row])}, should be {_short(right[row])}"
    return f"{_short(own)}, should be {_short(right)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
