"""Finds the logits of all positions in what a model returns, as an expression of the model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_TARGETS = re.compile(r"(\w*_)?(targets?|labels?)|ys?")


@dataclass(frozen=True)
class Logits:
    """The expression that gives the logits of `token_ids`, and what it is in words."""

    expression: str
    said: str


class NoLogitsError(Exception):
    """A model's answers have no logits of all positions in them; the message says what they are."""


def find_logits(model: nn.Module, vocab_size: int) -> Logits:
    """Find the expression that gives a model's logits [batch, time, vocab_size].

    Targets are given if the model has only the last position's logits without them. Raises
    NoLogitsError.
    """
    token_ids = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    returned = []
    for arguments, said in _calls(model):
        call = f"self.model(token_ids{arguments})"
        try:
            answer = _evaluated(model, call, token_ids)
        except Exception as error:
            returned.append(f"{type(error).__name__}: {error}{said}")
            continue
        for place, tensor in _tensors(answer):
            # A padded vocabulary has more columns.
            if tensor.dim() == 3 and tensor.shape[:2] == (2, 5) and tensor.size(2) >= vocab_size:
                return Logits(call + place, _named(place) + said)
            if tensor.dim() == 2 and tensor.size(0) == 10 and tensor.size(1) >= vocab_size:
                rows = ".view(*token_ids.shape, -1)"
                return Logits(call + place + rows, _named(place) + " by rows" + said)
        returned.append(_kind(answer) + said)
    raise NoLogitsError(
        f"called with token ids of shape [2, 5] it returns {'; '.join(returned)}, and none of it "
        f"is the logits of all positions, [2, 5, {vocab_size}]"
    )


def unused_parameters(model: nn.Module) -> list[str]:
    """Return the names of the parameters on which no answer depends, such as a spare copy's.

    None are named if the model can't be asked, or if its answers have no gradients.
    """
    token_ids = torch.tensor([[1, 2, 3, 4, 5]])
    for arguments, _ in _calls(model):
        with suppress(Exception), torch.enable_grad():
            answer = eval(f"model(token_ids{arguments})", {"model": model, "token_ids": token_ids})
            torch.stack([tensor.sum() for _, tensor in _tensors(answer)]).sum().backward()
    named = dict(model.named_parameters(remove_duplicate=False))
    unused = [name for name, parameter in named.items() if parameter.grad is None]
    return unused if len(unused) < len(named) else []


def _calls(model: nn.Module) -> Iterator[tuple[str, str]]:
    yield "", ""
    for name in list(inspect.signature(model.forward).parameters)[1:]:
        if _TARGETS.fullmatch(name):
            yield f", {name}=token_ids", f" with {name} given"


def _evaluated(model: nn.Module, call: str, token_ids: Tensor) -> Any:
    holder = type("Holder", (), {"model": staticmethod(model)})
    with torch.no_grad():
        return eval(call, {"self": holder, "token_ids": token_ids})


def _tensors(answer: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the floating-point tensors of an answer, each with the expression that picks it."""
    if isinstance(answer, Tensor):
        pairs = [("", answer)]
    elif isinstance(getattr(answer, "logits", None), Tensor):
        pairs = [(".logits", answer.logits)]
    elif isinstance(answer, Mapping):
        pairs = [(f'["{name}"]', part) for name, part in answer.items()]
        pairs.sort(key=lambda pair: "logits" not in pair[0])
    elif isinstance(answer, (tuple, list)):
        pairs = [(f"[{number}]", part) for number, part in enumerate(answer)]
    else:
        pairs = []
    for place, part in pairs:
        if isinstance(part, Tensor) and part.is_floating_point():
            yield place, part


def _named(place: str) -> str:
    number = re.fullmatch(r"\[(\d+)\]", place)
    if number:
        return f"logits from output {number[1]}"
    return f"logits from the output's {place.strip('.[]')}" if place else "logits are its output"


def _kind(answer: Any) -> str:
    if isinstance(answer, Tensor):
        return f"a tensor {list(answer.shape)}"
    if isinstance(answer, (tuple, list)):
        return f"({', '.join(map(_kind, answer))})"
    return "None" if answer is None else f"a {type(answer).__name__}"
