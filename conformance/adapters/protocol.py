"""The protocol between the suite and an implementation, and the check of each answer's form.

An adapter is a Python file or module with one function:

    def load(checkpoint, *, device="cpu", dtype=torch.float32) -> Implementation: ...

`checkpoint` is a folder in Hugging Face's layout. An implementation leaves out the methods that it
can't offer, or raises NotImplementedError with the reason. The requirement is then *not
applicable*. Any other exception is an error of the adapter, unless the requirement allows a
refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from ..outcomes import NotApplicable
from .forms import (
    ProtocolError,
    check_arguments,
    ids_of_text,
    is_about_arguments,
    logits_and_cache,
    logits_tensor,
    token_rows,
    wrong_arguments,
)

OPTIONAL = ("generate", "generate_ragged", "prefill", "step", "state_dict", "encode", "decode")
# int8 keeps about as many digits of a weight as bfloat16.
PRECISIONS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.bfloat16,
}


class Implementation(Protocol):
    """A GPT-2 with its weights loaded.

    Token ids are int64 tensors [batch, time] on the device that was given to `load`.
    """

    def logits(self, token_ids: Tensor) -> Any:
        """Return float [batch, time, vocab_size]: anything that `torch.as_tensor` takes."""

    # All that follows is optional.

    def generate(
        self,
        token_ids: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> Sequence[Sequence[int]]:
        """Return the new ids of each row, without the EOS (50256) that ended it."""

    def generate_ragged(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> Sequence[Sequence[int]]:
        """Do what `generate` does, for prompts of different lengths in one batch."""

    def prefill(self, token_ids: Tensor) -> tuple[Any, Any]:
        """Start a sequence. Return its logits, as above, and a cache of any type."""

    def step(self, token_ids: Tensor, cache: Any) -> tuple[Any, Any]:
        """Add one or more tokens to each row. Return their logits and the new cache.

        The given cache stays usable.
        """

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the current weights, under the checkpoint's names and in its orientation."""

    def encode(self, text: str) -> Sequence[int]:
        """Return the token ids of a text. A special token's name in it is plain text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""

    # Only for an engine that computes in a lower precision than the dtype that `load` was given:
    # a key of PRECISIONS. Its answers are then judged in that precision.
    precision: str


class BrokenAdapterError(ProtocolError):
    """The adapter can't be used at all, so no requirement can be judged."""


class Judged:
    """Wraps an implementation for the tests: checks the form of each answer.

    Logits come as float64 tensors on the CPU. Every method raises NotApplicable if the
    implementation lacks it or raises NotImplementedError, and ProtocolError for a wrong form.

    `vocab_size`: the config's, which logits of a padded vocabulary are cut to. `broken`: the
    methods that are known to answer in a wrong form, each with its ProtocolError.
    """

    def __init__(
        self,
        implementation: Implementation,
        device: str,
        *,
        vocab_size: int | None = None,
        broken: Mapping[str, ProtocolError] | None = None,
    ) -> None:
        self._implementation = implementation
        self._device = device
        self._vocab_size = vocab_size
        self._broken = broken or {}

    @property
    def unchecked(self) -> Implementation:
        """The implementation itself, for calls whose time is measured."""
        return self._implementation

    @property
    def vocab_size(self) -> int | None:
        return self._vocab_size

    def logits(self, token_ids: Tensor) -> Tensor:
        with not_applicable():
            answer = self._call("logits", self._given(token_ids))
        return self._checked(answer, token_ids, "logits")

    def generate(self, token_ids: Tensor, **options: Any) -> list[list[int]]:
        return self._generated("generate", self._given(token_ids), token_ids.tolist(), **options)

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        rows = [list(prompt) for prompt in prompts]
        return self._generated("generate_ragged", rows, rows, **options)

    def _generated(
        self,
        method: str,
        given: Any,
        prompts: list[list[int]],
        *,
        greedy_by_top_k: bool = True,
        **options: Any,
    ) -> list[list[int]]:
        """Call a method that generates.

        Some implementations refuse temperature 0 by name, which is a variant. They are asked for
        top_k=1 instead, unless `greedy_by_top_k` is false.
        """
        with not_applicable():
            try:
                answer = self._call(method, given, **options)
            except Exception as error:
                refused = options.get("temperature") == 0 and "temperature" in str(error).lower()
                if not (greedy_by_top_k and refused) or isinstance(error, ProtocolError):
                    raise
                answer = self._call(method, given, **options | {"temperature": 1.0, "top_k": 1})
        return token_rows(answer, prompts, method, options["max_new_tokens"])

    def prefill(self, token_ids: Tensor) -> tuple[Tensor, Any]:
        self._optional("step")  # prefill is of no use without it
        with not_applicable():
            answer = self._call("prefill", self._given(token_ids))
        logits, cache = logits_and_cache(answer, "prefill")
        return self._checked(logits, token_ids, "prefill"), cache

    def step(self, token_ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        with not_applicable():
            answer = self._call("step", self._given(token_ids), cache)
        logits, cache = logits_and_cache(answer, "step")
        return self._checked(logits, token_ids, "step"), cache

    def state_dict(self) -> dict[str, Tensor]:
        with not_applicable():
            return dict(self._optional("state_dict")())

    def encode(self, text: str) -> list[int]:
        with not_applicable():
            return ids_of_text(self._optional("encode")(text))

    def decode(self, token_ids: Sequence[int]) -> str:
        with not_applicable():
            return str(self._optional("decode")(list(token_ids)))

    @property
    def precision(self) -> str | None:
        """The precision that the implementation declares, if it does."""
        return getattr(self._implementation, "precision", None)

    @property
    def lacks(self) -> frozenset[str]:
        """The optional methods that the implementation does not have."""
        return frozenset(
            name for name in OPTIONAL if getattr(self._implementation, name, None) is None
        )

    def _optional(self, name: str) -> Callable[..., Any]:
        method = getattr(self._implementation, name, None)
        if method is None and name == "logits":
            kind = type(self._implementation).__name__
            raise ProtocolError(f"load() returned a {kind}: return an object that has logits()")
        if method is None:
            raise NotApplicable(f"the adapter has no {name}()")
        return method

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a method. Raises ProtocolError if it can't be called with the protocol's arguments.

        `logits` is a method that every implementation has.
        """
        if name in self._broken:
            raise self._broken[name]
        method = self._optional(name)
        check_arguments(name, method, *args, **options)
        try:
            return method(*args, **options)
        except (TypeError, ValueError) as error:
            if is_about_arguments(error):
                raise ProtocolError(wrong_arguments(name, error, options)) from error
            raise

    def _given(self, token_ids: Tensor) -> Tensor:
        # Contiguous: many a loss calls .view, which fails on the slice of a batch.
        return token_ids.to(self._device).contiguous()

    def _checked(self, answer: Any, token_ids: Tensor, method: str) -> Tensor:
        logits = logits_tensor(answer, token_ids, method, self._vocab_size)
        return logits.cpu().double()


@contextmanager
def not_applicable() -> Iterator[None]:
    """Raise NotApplicable where the implementation raises NotImplementedError."""
    try:
        yield
    except NotImplementedError as error:
        raise NotApplicable(str(error) or "the adapter says so") from error
    except AssertionError as error:  # the adapter's own: it must not look like a finding of a test
        raise RuntimeError(f"AssertionError: {own_words(error)}") from error


def own_words(error: AssertionError) -> str:
    """Return the message of an assert, without the expressions that pytest adds to it."""
    first = str(error).partition("\n")[0]
    return "" if first.startswith("assert ") else first
