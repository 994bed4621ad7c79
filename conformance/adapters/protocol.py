"""What the suite knows of an implementation, and how it finds one.

An adapter is a Python file or module with one function:

    def load(checkpoint, *, device="cpu", dtype=torch.float32) -> Implementation: ...

`checkpoint` is a folder in Hugging Face's layout. What an implementation can't do it leaves out, or answers with
NotImplementedError and the reason: the requirement is then *not applicable*. Any other exception is the adapter's
error, save where a requirement asks for a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor

OPTIONAL = ("generate", "generate_ragged", "prefill", "step", "state_dict", "encode", "decode")
# int8 rounds weights to about as many digits as bfloat16 has.
PRECISIONS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.bfloat16,
}


class Implementation(Protocol):
    """A GPT-2 with its weights loaded. Token ids are int64 [batch, time] tensors on the device that `load` was given."""

    def logits(self, token_ids: Tensor) -> Any:
        """float [batch, time, vocab_size]: a tensor, or anything that `torch.as_tensor` takes."""

    # Optional from here on.

    def generate(
        self,
        token_ids: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> Sequence[Sequence[int]]:
        """The new ids of each row, without the EOS (50256) that ended it."""

    def generate_ragged(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> Sequence[Sequence[int]]:
        """As `generate`, for prompts of different lengths in one batch."""

    def prefill(self, token_ids: Tensor) -> tuple[Any, Any]:
        """Start a sequence: its logits, as above, and a cache of any type."""

    def step(self, token_ids: Tensor, cache: Any) -> tuple[Any, Any]:
        """Go on with one or more tokens a row: their logits, and the new cache. The given cache stays usable."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """The weights as held now, under the checkpoint's names and in its orientation."""

    def encode(self, text: str) -> Sequence[int]:
        """Token ids of a text; what looks like a special token in it is text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids."""

    # An attribute for an engine that computes in less than the dtype that `load` was given: one of PRECISIONS. Its
    # answers are then judged as those of that precision.
    precision: str


class ProtocolError(Exception):
    """The adapter's answer has the wrong form, so that there is nothing to judge."""


class Judged:
    """An implementation as the tests use it: answers checked for form, logits as float64 on the CPU."""

    def __init__(self, implementation: Implementation, device: str) -> None:
        self._implementation = implementation
        self._device = device

    def logits(self, token_ids: Tensor) -> Tensor:
        with not_applicable():
            return self._checked(self._implementation.logits(token_ids.to(self._device)), token_ids)

    def generate(self, token_ids: Tensor, **options: Any) -> list[list[int]]:
        return self._generated("generate", token_ids.to(self._device), **options)

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        return self._generated("generate_ragged", [list(prompt) for prompt in prompts], **options)

    def _generated(
        self, method: str, prompts: Any, *, as_told: bool = False, **options: Any
    ) -> list[list[int]]:
        """Where temperature 0 is refused by name, which is a variant, top_k=1 stands for it, unless `as_told`."""
        with not_applicable():
            generate = self._optional(method)
            try:
                rows = generate(prompts, **options)
            except Exception as error:
                if (
                    as_told
                    or options.get("temperature") != 0
                    or "temperature" not in str(error).lower()
                ):
                    raise
                rows = generate(prompts, **options | {"temperature": 1.0, "top_k": 1})
        if len(rows) != len(prompts):
            raise ProtocolError(f"{method} returned {len(rows)} rows for {len(prompts)}")
        return [[int(token_id) for token_id in row] for row in rows]

    def prefill(self, token_ids: Tensor) -> tuple[Tensor, Any]:
        self._optional("step")  # one is of no use without the other
        with not_applicable():
            logits, cache = self._optional("prefill")(token_ids.to(self._device))
        return self._checked(logits, token_ids), cache

    def step(self, token_ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        with not_applicable():
            logits, cache = self._optional("step")(token_ids.to(self._device), cache)
        return self._checked(logits, token_ids), cache

    def state_dict(self) -> dict[str, Tensor]:
        with not_applicable():
            return dict(self._optional("state_dict")())

    def encode(self, text: str) -> list[int]:
        with not_applicable():
            return [int(token_id) for token_id in self._optional("encode")(text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        with not_applicable():
            return str(self._optional("decode")(list(token_ids)))

    @property
    def precision(self) -> str | None:
        """What the implementation declares to compute in, if it does."""
        return getattr(self._implementation, "precision", None)

    @property
    def lacks(self) -> frozenset[str]:
        return frozenset(
            name for name in OPTIONAL if getattr(self._implementation, name, None) is None
        )

    def _optional(self, name: str) -> Callable[..., Any]:
        method = getattr(self._implementation, name, None)
        if method is None:
            pytest.skip(f"not applicable: the adapter has no {name}()")
        return method

    def _checked(self, logits: Any, token_ids: Tensor) -> Tensor:
        tensor = torch.as_tensor(logits).detach()
        if (
            tensor.dim() != 3
            or tensor.shape[:2] != token_ids.shape
            or not tensor.is_floating_point()
        ):
            raise ProtocolError(
                f"logits are {tensor.dtype} {list(tensor.shape)} for token ids {list(token_ids.shape)}, "
                "expected floating point [batch, time, vocab_size]"
            )
        return tensor.to("cpu", torch.float64)


@contextmanager
def not_applicable() -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:
        pytest.skip(f"not applicable: {error or 'the adapter says so'}")
    except AssertionError as error:  # its own, which is no finding of ours
        raise RuntimeError(f"AssertionError: {error}") from error
