"""Asks an implementation a case, and makes a question for the diagnosis of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters.protocol import Judged
from ..defects import CompleteGPT2
from ..defects.steps import AnswerKind
from ..diagnosis.asking_tokens import Frequencies
from ..diagnosis.question import BLOCKS, Question
from ..outcomes import NotApplicable

ENDED = -1  # in the place of a token after a row's end, in frequencies
_OPTIONS = ("max_new_tokens", "temperature", "top_k", "seed")


def perform(case: Mapping[str, Any], judged: Judged) -> list[Any]:
    """Return the answers to the calls of a case: logits as tensors, tokens and ids as lists."""
    asking = _Asking(case, judged)
    for call in case["calls"]:
        getattr(asking, call["do"])(call)
    return asking.answers


def compared(case: Mapping[str, Any], judged: Judged) -> list[Any]:
    """Return the answers in the form in which they are compared: tokens of chance as counts."""
    calls, answers = case["calls"], perform(case, judged)
    return [
        frequencies_of(each, call) if call.get("frequencies") else each
        for call, each in zip(calls, answers, strict=True)
    ]


class _Asking:
    """The calls of a case, by their names, to one implementation."""

    def __init__(self, case: Mapping[str, Any], judged: Judged) -> None:
        self.tokens: list[int] | None = case["tokens"]
        self.greedy_by_top_k = "sampling.temperature-zero" not in case["requirements"]
        self.judged = judged
        self.answers: list[Any] = []
        self.caches: dict[int, Any] = {}  # by the number of the call that returned it

    def logits(self, call: Mapping[str, Any]) -> None:
        self._add(call, self.judged.logits(ids_of(call)))

    def prefill(self, call: Mapping[str, Any]) -> None:
        logits, self.caches[len(self.answers)] = self.judged.prefill(ids_of(call))
        self._add(call, logits)

    def step(self, call: Mapping[str, Any]) -> None:
        logits, cache = self.judged.step(ids_of(call), self.caches[call["after"]])
        self.caches[len(self.answers)] = cache
        self._add(call, logits)

    def generate(self, call: Mapping[str, Any]) -> None:
        if call["uniforms"] is not None:
            self._give(call["uniforms"])
        options = {name: call[name] for name in _OPTIONS}
        options["greedy_by_top_k"] = self.greedy_by_top_k
        self.answers.append(self.judged.generate(ids_of(call), **options))

    def generate_ragged(self, call: Mapping[str, Any]) -> None:
        options = {name: call[name] for name in _OPTIONS}
        self.answers.append(self.judged.generate_ragged(call["token_ids"], **options))

    def encode(self, call: Mapping[str, Any]) -> None:
        self.answers.append(self.judged.encode(call["text"]))

    def decode(self, call: Mapping[str, Any]) -> None:
        self.answers.append(self.judged.decode(call["ids"]))

    def _add(self, call: Mapping[str, Any], logits: Tensor) -> None:
        self.answers.append(shown(call, logits, self.tokens))

    def _give(self, uniforms: list[list[float]]) -> None:
        """Make the implementation draw with these numbers [row][step], if that is possible."""
        model = self.judged._implementation
        if not isinstance(model, CompleteGPT2):
            raise NotApplicable("it draws its own numbers")
        steps = iter(torch.tensor(uniforms, dtype=torch.float64).T)
        model.uniform = lambda generators: next(steps)  # type: ignore[method-assign]  # noqa: ARG005


def ids_of(call: Mapping[str, Any]) -> Tensor:
    return torch.tensor(call["token_ids"], dtype=torch.int64)


def shown(call: Mapping[str, Any], logits: Tensor, tokens: list[int] | None) -> Tensor:
    """Return the logits that are compared, [row, position, token]."""
    if call["positions"] is not None:
        logits = logits[:, call["positions"]]
    return logits if tokens is None else logits[..., tokens]


def frequencies_of(rows: list[list[int]], call: Mapping[str, Any]) -> Frequencies:
    found = Frequencies(token for row in rows for token in row)
    found[ENDED] += draws_of(call) - found.total()
    return found


def draws_of(call: Mapping[str, Any]) -> int:
    return len(call["token_ids"]) * int(call["max_new_tokens"])


def kind_of(case: Mapping[str, Any]) -> AnswerKind:
    """Return what the diagnosis takes the answers for: tokens, if there are any."""
    asked = {call["do"] for call in case["calls"]}
    if asked & {"encode", "decode"}:
        return "text"
    return "tokens" if asked & {"generate", "generate_ragged"} else "logits"


def question_of(case: Mapping[str, Any], folder: Path) -> Question:
    """Return a case as a question. `folder` has the checkpoints."""
    checkpoint = folder / case["checkpoint"]
    parts = frozenset(case["parts"])
    if not parts <= BLOCKS:  # the file, the cache, the loop, the sampler or the text
        parts |= {case["id"]}
    return Question(
        case["id"],
        lambda _: checkpoint,
        partial(compared, case),
        about=tuple(case["refusal_words"]),
        kind=kind_of(case),
        slow=_is_long(case),
        parts=parts,
    )


def _is_long(case: Mapping[str, Any]) -> bool:
    calls: list[dict[str, Any]] = case["calls"]
    return len(calls) > 8 or any(
        sum(map(len, call.get("token_ids", []))) > 100 or call.get("max_new_tokens", 0) > 12
        for call in calls
    )
