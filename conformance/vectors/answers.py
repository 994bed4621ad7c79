"""Reads a port's answers from a file, and makes such a file from an implementation in Python."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters.protocol import PRECISIONS, Judged
from ..adapters.refusal import mentions
from ..diagnosis.comparison import Load
from ..diagnosis.question import CRASHED, REFUSED
from ..outcomes import NotApplicable
from ..pages.reading import UNEXPECTED
from .errors import VectorsError
from .folder import Vectors, check_format, read_object
from .performing import draws_of, frequencies_of, perform
from .write import FORMAT

OF_LOGITS = ("logits", "prefill", "step")
_OF_TOKENS = ("generate", "generate_ragged")
_NOT_FINITE = ("nan", "inf", "-inf", "infinity", "-infinity")
_LONGEST_NAME = 100


@dataclass(frozen=True)
class GivenAnswers:
    """The answers of a file, by the case's id, in the form that the diagnosis compares.

    None for a case that is not applicable. `said`: what a port said of a case, such as its error.
    """

    name: str
    precision: str
    answers: Mapping[str, Any]
    said: Mapping[str, str]

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]


def read_answers(file: Path, vectors: Vectors) -> GivenAnswers:
    """Return the answers of a file. Raises VectorsError, naming the file and the case."""
    content = read_object(file)
    check_format(file, content)
    name, given = content.get("name"), content.get("answers")
    if not isinstance(name, str) or not isinstance(given, dict):
        raise VectorsError(f"{file}: expected a text `name` and an object `answers`")
    if not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME:
        raise VectorsError(f"{file}: name: expected a line of 1 to {_LONGEST_NAME} characters")
    precision = content.get("precision", "float32")
    if not isinstance(precision, str) or precision not in {*PRECISIONS} - {"float64"}:
        allowed = "float32, bfloat16, float16 or int8"
        raise VectorsError(f"{file}: precision: {precision!r}, expected {allowed}")
    if content.get("index_sha256", vectors.index_sha256) != vectors.index_sha256:
        raise VectorsError(f"{file}: index_sha256: the answers are to other vectors")
    unknown = [each for each in given if each not in vectors.cases]
    if unknown:
        raise VectorsError(f"{file}: case {_line(unknown[0])}: there is no such case")
    answers, said = dict[str, Any](), dict[str, str]()
    for case, each in vectors.cases.items():
        try:
            answers[case], said[case] = _answer(each, given.get(case))
        except (ValueError, OverflowError) as error:
            raise VectorsError(f"{file}: case {case}: {error}") from error
        except UNEXPECTED as error:
            raise VectorsError(f"{vectors.folder}: case {case}: not a case: {error!r}") from error
    return GivenAnswers(name, precision, answers, said)


def _answer(case: Mapping[str, Any], given: Any) -> tuple[Any, str]:
    if given is None:
        return None, "no answer"
    if isinstance(given, dict):
        [(kind, message)] = given.items() if len(given) == 1 else [("", "")]
        if kind not in ("error", "not_applicable") or not isinstance(message, str):
            raise ValueError("expected an object with a text `error` or `not_applicable`")
        words = case["refusal_words"]
        if kind == "not_applicable":
            return None, _line(message)
        about = not words or mentions(RuntimeError(message), words)
        return (REFUSED if about else CRASHED), _line(message)
    calls = case["calls"]
    if not isinstance(given, list) or len(given) != len(calls):
        raise ValueError(f"expected a list of {len(calls)} answers, one for each call")
    pairs = enumerate(zip(calls, given, strict=True))
    return [_of_call(case, call, each, f"answer {n}") for n, (call, each) in pairs], ""


def _line(text: str) -> str:
    """Return a text as a line that a terminal can show."""
    return "".join(each if each.isprintable() else " " for each in text)


def _of_call(case: Mapping[str, Any], call: Mapping[str, Any], given: Any, where: str) -> Any:
    if call["do"] in OF_LOGITS:
        return _logits(call, given, case["tokens"], where)
    if call["do"] == "decode":
        if not isinstance(given, str):
            raise ValueError(f"{where}: expected a text, found {_kind(given)}")
        return given
    if call["do"] == "encode":
        return _ids(given, where)
    if not isinstance(given, list) or len(given) != len(call["token_ids"]):
        raise ValueError(f"{where}: expected the new tokens of {len(call['token_ids'])} rows")
    rows = [_ids(row, f"{where}, row {number}") for number, row in enumerate(given)]
    if call["do"] not in _OF_TOKENS or not call["frequencies"]:
        return rows
    if sum(map(len, rows)) > draws_of(call):
        raise ValueError(f"{where}: more than {draws_of(call)} tokens")
    return frequencies_of(rows, call)


def _logits(call: Mapping[str, Any], given: Any, tokens: list[int] | None, where: str) -> Tensor:
    """Return [row, position, token]. Of all positions or tokens, those compared are taken."""
    found = torch.tensor(_numbers(given, where, 3), dtype=torch.float64)
    rows, time = len(call["token_ids"]), len(call["token_ids"][0])
    positions = call["positions"]
    least = [rows, len(positions or range(time)), len(tokens or ())]
    shape = list(found.shape)
    if len(shape) == 3 and shape[0] == rows:
        if positions is not None and shape[1] == time > len(positions):
            found = found[:, positions]
        if tokens is not None and shape[2] > max(tokens):
            found = found[..., tokens]
        if found.size(1) == least[1] and found.size(2) == (least[2] or found.size(2)):
            return found
    raise ValueError(
        f"{where}: logits of shape {shape}, expected {least[:2]} positions by "
        f"{least[2] or 'all'} tokens"
    )


def _numbers(given: Any, where: str, depth: int) -> Any:
    """Return nested lists of floats. JSON has no NaN: it is null, or a word."""
    if depth:
        if not isinstance(given, list):
            raise ValueError(f"{where}: expected logits [row][position][token]")
        rows = [_numbers(each, where, depth - 1) for each in given]
        if depth > 1 and len({len(row) for row in rows}) > 1:
            raise ValueError(f"{where}: rows of different lengths")
        return rows
    if given is None:
        return math.nan
    if isinstance(given, str) and given.lower() in _NOT_FINITE:
        return float(given)
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise ValueError(f"{where}: expected numbers, found {_kind(given)}")
    return float(given)


def _ids(given: Any, where: str) -> list[int]:
    if not isinstance(given, list) or not all(type(each) is int for each in given):
        raise ValueError(f"{where}: expected a list of token ids")
    return given


def _kind(given: Any) -> str:
    return "null" if given is None else type(given).__name__


def answers_of(vectors: Vectors, load: Load, name: str, precision: str = "float32") -> Any:
    """Ask an implementation in Python all cases, and return what its answers' file contains."""
    dtype = PRECISIONS[precision]
    asked = ((case, each) for case, each in vectors.cases.items())
    return {
        "format": FORMAT,
        "name": name,
        "precision": precision,
        "index_sha256": vectors.index_sha256,
        "answers": {case: _asked(each, vectors.folder, load, dtype) for case, each in asked},
    }


def _asked(case: Mapping[str, Any], folder: Path, load: Load, dtype: torch.dtype) -> Any:
    try:
        judged: Judged = load(folder / case["checkpoint"], dtype=dtype)
        answers = perform(case, judged)
    except NotApplicable as reason:
        return {"not_applicable": str(reason)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return [_plain(each) for each in answers]


def _plain(answer: Any) -> Any:
    if isinstance(answer, Tensor):
        return _words(answer.tolist())
    return answer


def _words(values: Any) -> Any:
    if isinstance(values, list):
        return [_words(each) for each in values]
    return values if math.isfinite(values) else str(values)
