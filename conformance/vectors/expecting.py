"""The answers that a case must have, the error that is allowed, and what mistakes would give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..defects import DEFECTS, VARIANTS, CompleteGPT2
from ..defects.catalogue import Entry
from ..diagnosis.asking_tokens import Frequencies
from ..diagnosis.comparison import loading, same
from ..diagnosis.question import CRASHED, REFUSED, answer
from ..judging.oracle import allowed_error, error
from .in_order import InOrder
from .performing import question_of

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
PLACES = 4  # where a mistake shows most
# What a variant of the catalogue is in the verdict: these differ from the others, which pass.
REPORTED = (
    "topk-exactly-k",
    "temperature-zero-refused",
    "context-end-refused",
    "centred-unembed",
)
# Their answers depend on the time or on what memory contains.
UNSTEADY = ("uninitialised-buffer", "seed-from-clock")
_NO_CHANCE = 1e-30


class Watched(CompleteGPT2):
    """A GPT-2 that keeps the smallest lead of a chosen token, and the probabilities of a draw."""

    lead = math.inf
    chances: Tensor | None = None

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        if temperature == 0 or top_k == 1:
            first, second = logits.double().topk(2).values.unbind(-1)
            Watched.lead = min(Watched.lead, float((first - second).min()))
        return super().next_token(logits, uniform, temperature, top_k)

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        found = super().probabilities(logits, temperature, top_k)
        Watched.chances = found[0].double()
        return found


def with_answers(
    case: Mapping[str, Any], refused: bool, folder: Path, *, mistaken: bool = True
) -> dict[str, Any]:
    """Return a case's file: the case, what is expected of it, and what mistakes would give.

    `mistaken`: whether variants and mistakes are asked, too. Raises ValueError if a right GPT-2
    does not do what the case says.
    """
    with InOrder() as mode:
        return _with_answers(_Asked(case, folder, mode), refused, mistaken)


def _with_answers(asked: _Asked, refused: bool, mistaken: bool) -> dict[str, Any]:
    case = asked.case
    right = asked.exact(CompleteGPT2)
    if (right == REFUSED) != refused or right in (None, CRASHED):
        raise ValueError(f"case {case['id']}: a right GPT-2 answers {right!r}")
    expected: dict[str, Any] = {"refused": True}
    if not refused:
        lead = Watched.lead
        allowed = asked.allowed(CompleteGPT2, right)
        expected = {
            "answers": asked.json(right),
            "allowed": allowed,
            "lead": None if math.isinf(lead) else _digits(lead, down=True),
        }
    variants, defects = (VARIANTS.values(), DEFECTS.values()) if mistaken else ((), ())
    accepted = [each for entry in variants if (each := asked.accepted(entry, right))]
    mistakes = {entry.id: each for entry in defects if (each := asked.wrong(entry, right))}
    return {**case, "expected": expected, "accepted": accepted, "mistakes": mistakes}


class _Asked:
    """A case that is asked of one GPT-2 after the other."""

    def __init__(self, case: Mapping[str, Any], folder: Path, mode: InOrder) -> None:
        self.case = case
        self.mode = mode
        self.question = question_of(case, folder)
        self.checkpoint = folder / case["checkpoint"]
        self.decimals = 0
        self.least = 0.0  # a difference in logits that is none
        self.rounding = 0.0  # the same, in proportion to the largest logit

    def answer(self, kind: type[CompleteGPT2], dtype: torch.dtype) -> Any:
        return answer(self.question, loading(kind), self.checkpoint, dtype)

    def exact(self, kind: type[CompleteGPT2]) -> Any:
        """Return the answers in float64, and keep the lead and the chances."""
        Watched.lead, Watched.chances = math.inf, None
        return self.answer(type(kind.__name__, (Watched, kind), {}), torch.float64)

    def allowed(self, kind: type[CompleteGPT2], right: list[Any]) -> dict[str, float]:
        """Return the allowed error of logits in each precision that can compute them."""
        tensors = [each for each in right if isinstance(each, Tensor)]
        if not tensors:
            return {}
        largest = max(float(each.abs().max()) for each in tensors)
        found = {}
        for name, dtype in PRECISIONS.items():
            rounded = self.answer(kind, dtype)
            if isinstance(rounded, list):
                differs = max(
                    float(error(a, b).max())
                    for a, b in zip(rounded, right, strict=True)
                    if isinstance(b, Tensor)
                )
                allowed = allowed_error(partial(_given, differs), largest, dtype)
                if math.isfinite(allowed):
                    found[name] = _digits(allowed)
        self.least = found["float32"]
        self.decimals = decimals(self.least)
        self.rounding = self.least / max(largest, 1e-300)
        return found

    def json(self, answers: list[Any]) -> list[Any]:
        return [_json(each, self.decimals) for each in answers]

    def accepted(self, entry: Entry, right: Any) -> dict[str, Any] | None:
        """Return what a variant answers, if the case is about it and it answers otherwise."""
        if entry.requirement not in self.case["requirements"]:
            return None
        found = self.exact(entry.kind)
        if found in (None, CRASHED) or same(found, right, self.rounding):
            return None
        about: dict[str, Any] = {
            "variant": entry.id,
            "requirement": entry.requirement,
            "outcome": "variant" if entry.id in REPORTED else "passed",
            "says": entry.what,
        }
        if found == REFUSED:
            return about | {"refused": True}
        if right == REFUSED:  # nothing was measured yet
            about["allowed"] = self.allowed(entry.kind, found)
        return about | {"answers": self.json(found)}

    def wrong(self, entry: Entry, right: Any) -> dict[str, Any] | None:
        """Return where a mistake shows in the answers, if the case is about it."""
        if entry.requirement not in self.case["requirements"] or entry.id in UNSTEADY:
            return None
        if right != REFUSED and any(isinstance(each, Frequencies) for each in right):
            return None  # the case that gives the numbers of the draws has them
        found, drew = self._by_chance(entry)
        if found is None or same(found, right, self.rounding):
            return None
        about = {"requirement": entry.requirement, "says": entry.what}
        if found in (REFUSED, CRASHED):
            return about | {"refused": True}
        if right == REFUSED:
            return about | {"refused": False}
        if drew:
            return None
        places = [_place(*each, self.decimals) for each in differences(right, found, self.least)]
        return about | {"answers": places} if places else None

    def _by_chance(self, entry: Entry) -> tuple[Any, bool]:
        """Return what a mistake answers, and whether it drew torch's random numbers."""
        self.mode.drew = False
        with torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            found = self.answer(entry.kind, torch.float64)
            return found, self.mode.drew or not torch.equal(torch.get_rng_state(), before)


def _given(found: float, _: torch.dtype) -> float:
    return found


def differences(
    right: list[Any], wrong: list[Any], least: float
) -> Iterator[tuple[list[int], Any]]:
    """Yield where answers differ most: the path into the answers, and what stands there.

    `least`: a difference in logits up to which there is none.
    """
    left = PLACES
    for number, (a, b) in enumerate(zip(right, wrong, strict=True)):
        if isinstance(a, Frequencies) or not left:
            continue
        found = _in_logits(a, b, left, least) if isinstance(a, Tensor) else _in_lists(a, b)
        for path, value in found:
            if left:
                left -= 1
                yield [number, *path], value


def _in_logits(a: Tensor, b: Tensor, n: int, least: float) -> Iterator[tuple[list[int], float]]:
    if a.shape != b.shape:
        return
    differs = (a - b).abs().nan_to_num(nan=math.inf)
    largest = differs.amax(-1)  # one token of each position
    for index in largest.flatten().argsort(descending=True, stable=True)[:n].tolist():
        row, position = divmod(index, largest.size(-1))
        if largest[row, position] > least:
            token = int(differs[row, position].argmax())
            yield [row, position, token], float(b[row, position, token])


def _in_lists(a: Any, b: Any) -> Iterator[tuple[list[int], Any]]:
    """Yield the first number that differs in each row, or a row that is shorter or longer."""
    if isinstance(a, str) or isinstance(b, str) or len(a) != len(b):
        if a != b and len(b) <= 200:
            yield [], b
        return
    for index, (x, y) in enumerate(zip(a, b, strict=True)):
        if isinstance(x, list):
            yield from (([index, *path], value) for path, value in _in_lists(x, y))
        elif x != y:
            yield [index], y
            return


def _place(path: list[int], value: Any, decimals: int) -> dict[str, Any]:
    if isinstance(value, float):
        value = _rounded(value, decimals)
    return {"at": path, "is": value}


def decimals(allowed: float) -> int:
    """Return how many decimals a logit has in a file: a hundredth of the allowed error."""
    return max(0, 2 - Decimal(repr(allowed)).adjusted())


def _digits(number: float, down: bool = False) -> float:
    """Return a positive number with two digits, rounded up, or down."""
    context = Context(prec=2, rounding=ROUND_FLOOR if down else ROUND_CEILING)
    return float(context.create_decimal(repr(number)))


def _json(answer: Any, decimals: int) -> Any:
    if isinstance(answer, Frequencies):
        return _chances(sum(answer.values()))
    if isinstance(answer, Tensor):
        return _nested(answer.tolist(), decimals)
    return answer


def _chances(draws: int) -> dict[str, Any]:
    if Watched.chances is None:
        raise ValueError("nothing was drawn")
    chances = enumerate(Watched.chances.tolist())
    likely = {str(token): round(chance, 9) for token, chance in chances if chance > _NO_CHANCE}
    return {"draws": draws, "probabilities": likely}


def _nested(values: Any, decimals: int) -> Any:
    if isinstance(values, list):
        return [_nested(each, decimals) for each in values]
    return _rounded(values, decimals)


def _rounded(value: float, decimals: int) -> float | str:
    """Return a number that JSON has. Minus zero is zero."""
    if not math.isfinite(value):
        return str(value)
    return round(value, decimals) + 0.0
