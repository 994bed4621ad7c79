"""Recognises an answer of another form than the protocol's, and says how to mend the adapter.

A newcomer's adapter often returns what the model returns: a tuple, a ModelOutput, the logits of the
last position, the prompt before its continuation. Each is a ProtocolError of one sentence, so that
it is reported once and not as the failures that would follow from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# A padded vocabulary is cut where a token beyond the real one has a chance of less than 1e-21.
FAR_BELOW = 50.0
# What Python and transformers say of an argument that a function does not have, or lacks.
_OF_ARGUMENTS = ("keyword argument", "positional argument", "values for argument", "model_kwargs")


class ProtocolError(Exception):
    """The adapter's answer has the wrong form, so there is nothing to judge."""


def check_arguments(name: str, function: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Raise ProtocolError if a function can't be called so."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtin functions have none
        return
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        raise ProtocolError(wrong_arguments(name, error, options)) from None


def wrong_arguments(name: str, error: Exception, options: Mapping[str, Any]) -> str:
    """Say which arguments a method must take."""
    accepted = ", ".join(["..." if name == "load" else "token_ids", *options])
    return f"{name}() is called as {name}({accepted}): {error}. Let it take these arguments"


def is_about_arguments(error: Exception) -> bool:
    """Return whether an error says that some function was called with the wrong arguments."""
    kinds, text = (TypeError, ValueError), str(error)
    return isinstance(error, kinds) and any(words in text for words in _OF_ARGUMENTS)


def logits_tensor(answer: Any, token_ids: Tensor, method: str, vocab_size: int | None) -> Tensor:
    """Return logits as a floating-point tensor [batch, time, vocab_size].

    The columns of a padded vocabulary are cut if no token among them can be drawn. Raises
    ProtocolError for another form.
    """
    if isinstance(answer, Mapping) or hasattr(answer, "logits"):
        raise ProtocolError(
            f"{method}() returned {_kind(answer)}: return its logits alone, for example "
            "`output.logits` or `output['logits']`"
        )
    if isinstance(answer, tuple):
        parts = ", ".join(map(_kind, answer))
        raise ProtocolError(
            f"{method}() returned a tuple ({parts}): return the logits alone, for example "
            "`output[0]`"
        )
    try:
        tensor = torch.as_tensor(answer).detach()
    except (TypeError, ValueError, RuntimeError):
        raise ProtocolError(
            f"{method}() returned {_kind(answer)}: return the logits as one tensor or array, "
            "[batch, time, vocab_size]"
        ) from None
    if not tensor.is_floating_point():
        raise ProtocolError(
            f"{method}() returned {_kind(tensor)}: return floating-point logits, "
            "[batch, time, vocab_size]"
        )
    if tensor.dim() != 3 or tensor.shape[:2] != token_ids.shape:
        raise ProtocolError(_wrong_shape(tensor, token_ids, method))
    if vocab_size is not None and tensor.size(-1) > vocab_size:
        return _without_padding(tensor, vocab_size, method)
    return tensor


def _wrong_shape(logits: Tensor, token_ids: Tensor, method: str) -> str:
    shape, (batch, time) = list(logits.shape), token_ids.shape
    found = f"{method}() returned shape {shape} for token ids {[batch, time]}"
    wanted = "expected floating point [batch, time, vocab_size]"
    last = "the logits of the last position alone"
    if shape[:-1] in ([batch], [batch, 1]) and time > 1:
        return (
            f"{found}, {last}: {wanted}, those of all positions (nanoGPT's model gives them when "
            "it is called with targets)"
        )
    if shape[:-1] == [time] and batch == 1:
        return f"{found}, without the batch: {wanted}, for example `logits[None]`"
    if shape[:-1] == [batch * time]:
        return f"{found}, all positions in one dimension: {wanted}, for example `logits.view(...)`"
    if len(shape) == 3 and [shape[1], shape[0]] == [batch, time]:
        return f"{found}, the first two dimensions exchanged: {wanted}"
    if len(shape) == 3 and [shape[0], shape[2]] == [batch, time]:
        return f"{found}, the last two dimensions exchanged: {wanted}"
    return f"{found}: {wanted}"


def _without_padding(logits: Tensor, vocab_size: int, method: str) -> Tensor:
    real, padding = logits[..., :vocab_size], logits[..., vocab_size:]
    if bool((padding <= real.amax(-1, keepdim=True) - FAR_BELOW).all()):
        return real
    raise ProtocolError(
        f"{method}() returned {logits.size(-1)} logits a position, and the config's vocab_size is "
        f"{vocab_size}: cut the padding, `logits[..., :{vocab_size}]`, or fill it with -inf"
    )


def token_rows(
    answer: Any, prompts: Sequence[Sequence[int]], method: str, max_new_tokens: int
) -> list[list[int]]:
    """Return the new ids of each row as lists of int. Raises ProtocolError for another form."""
    fix = "return a list of the new ids of each row"
    if isinstance(answer, Tensor):
        answer = list(answer.unbind()) if answer.is_nested else answer.tolist()
    if isinstance(answer, (str, Mapping)) or hasattr(answer, "sequences"):
        raise ProtocolError(f"{method}() returned {_kind(answer)}: {fix}")
    try:
        rows = [row.tolist() if hasattr(row, "tolist") else row for row in answer]
    except TypeError:
        raise ProtocolError(f"{method}() returned {_kind(answer)}: {fix}") from None
    if rows and all(isinstance(row, int) for row in rows):
        raise ProtocolError(
            f"{method}() returned one flat row of {len(rows)} ids for {len(prompts)} prompt(s): "
            f"{fix}, for one prompt `[ids]`"
        )
    if len(rows) != len(prompts):
        raise ProtocolError(f"{method}() returned {len(rows)} row(s) for {len(prompts)}: {fix}")
    try:
        ids = [[_token_id(each) for each in row] for row in rows]
    except (TypeError, ValueError):
        raise ProtocolError(f"{method}() returned rows that are not lists of ids: {fix}") from None
    for row, prompt in zip(ids, prompts, strict=True):
        if len(row) > max_new_tokens and prompt and row[: len(prompt)] == list(prompt):
            raise ProtocolError(
                f"{method}() returned the prompt and its continuation, {len(row)} ids for "
                f"max_new_tokens={max_new_tokens}: return the new ids alone, for example "
                "`ids[:, prompt_length:]`"
            )
    return ids


def _token_id(value: Any) -> int:
    """Return an id. Raises TypeError for what is not one integer."""
    if hasattr(value, "item"):
        value = value.item()  # raises for more than one number
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def logits_and_cache(answer: Any, method: str) -> tuple[Any, Any]:
    """Split the answer of `prefill` or `step`. Raises ProtocolError if it is no pair."""
    if isinstance(answer, (tuple, list)) and len(answer) == 2:
        return answer[0], answer[1]
    raise ProtocolError(
        f"{method}() returned {_kind(answer)}: return a pair, the logits and the cache"
    )


def ids_of_text(answer: Any) -> list[int]:
    """Return the ids that `encode` gave. Raises ProtocolError for another form."""
    values = answer.tolist() if hasattr(answer, "tolist") else answer
    try:
        if isinstance(values, (str, bytes, Mapping)):
            raise TypeError
        return [_token_id(value) for value in values]
    except (TypeError, ValueError):
        raise ProtocolError(
            f"encode() returned {_kind(answer)}: return the ids of the text as one list"
        ) from None


def _kind(answer: Any) -> str:
    """Describe an answer in a few words."""
    if isinstance(answer, Tensor):
        return f"a tensor of {str(answer.dtype).removeprefix('torch.')} {list(answer.shape)}"
    if isinstance(answer, Mapping):
        return f"a {type(answer).__name__} of {', '.join(map(str, list(answer)[:4]))}"
    return "None" if answer is None else f"a {type(answer).__name__}"
