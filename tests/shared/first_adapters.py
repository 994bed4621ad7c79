"""Adapters as a newcomer writes them first: each answers in another form than the protocol's."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from conformance.adapters.gpt2ref import Reference
from conformance.adapters.gpt2ref import load as load_reference

Load = Callable[..., Any]
LOGITS: dict[str, Callable[[Tensor], Any]] = {
    "tuple": lambda logits: (logits, None),
    "dictionary": lambda logits: {"logits": logits, "loss": None},
    "model_output": lambda logits: SimpleNamespace(logits=logits),
    "last_position": lambda logits: logits[:, -1:],
    "last_position_without_time": lambda logits: logits[:, -1],
    "without_batch": lambda logits: logits[0],
    "flattened": lambda logits: logits.flatten(0, 1),
    "vocabulary_second": lambda logits: logits.transpose(1, 2),
    "argmax": lambda logits: logits.argmax(-1),
    "nothing": lambda logits: None,  # noqa: ARG005
    "probabilities": lambda logits: logits.softmax(-1),
    "padded_with_zeros": lambda logits: torch.nn.functional.pad(logits, (0, 47)),
}
GENERATE: dict[str, Callable[[Tensor, list[list[int]]], Any]] = {
    "prompt_first": lambda prompts, new: [
        prompt + row for prompt, row in zip(prompts.tolist(), new, strict=True)
    ],
    "one_flat_row": lambda prompts, new: new[0],  # noqa: ARG005
    "nested": lambda prompts, new: [[row] for row in new],  # noqa: ARG005
    "text": lambda prompts, new: " ".join(map(str, new)),  # noqa: ARG005
    "sequences": lambda prompts, new: SimpleNamespace(sequences=new),  # noqa: ARG005
}


def _with_logits(change: Callable[[Tensor], Any]) -> Load:
    def load(checkpoint: str, **options: Any) -> Any:
        right = load_reference(checkpoint, **options)
        return SimpleNamespace(logits=lambda token_ids: change(right.logits(token_ids)))

    return load


def _with_generate(change: Callable[[Tensor, list[list[int]]], Any]) -> Load:
    def load(checkpoint: str, **options: Any) -> Any:
        right = load_reference(checkpoint, **options)

        def generate(token_ids: Tensor, **sampling: Any) -> Any:
            return change(token_ids, right.generate(token_ids, **sampling))

        return SimpleNamespace(logits=right.logits, generate=generate)

    return load


class WithoutSeed(Reference):
    def generate(  # type: ignore[override]
        self,
        token_ids: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
    ) -> list[list[int]]:
        options = {"temperature": temperature, "top_k": top_k}
        return super().generate(token_ids, max_new_tokens=max_new_tokens, **options)


class PassesSeedOn(Reference):
    """`generate` takes any option, and the function that it calls has no `seed`."""

    def generate(self, token_ids: Tensor, **options: Any) -> list[list[int]]:
        return WithoutSeed(self.model).generate(token_ids, **options)


def without_seed(checkpoint: str, **options: Any) -> Any:
    return WithoutSeed(load_reference(checkpoint, **options).model)


def passes_seed_on(checkpoint: str, **options: Any) -> Any:
    return PassesSeedOn(load_reference(checkpoint, **options).model)


def without_dtype(checkpoint: str, device: str) -> Any:
    return load_reference(checkpoint, device=device)


def returns_the_model(checkpoint: str, **options: Any) -> Any:
    return load_reference(checkpoint, **options).model


class AnyIntegers(Reference):
    """Right: ids are tensors and NumPy arrays, and `logits` needs contiguous ids."""

    def logits(self, token_ids: Tensor) -> Any:
        batch, time = token_ids.shape
        return super().logits(token_ids.view(-1).view(batch, time)).numpy()

    def generate(self, token_ids: Tensor, **options: Any) -> Any:
        new = super().generate(token_ids, **options)
        if len({*map(len, new)}) == 1:
            return torch.tensor(new)
        return [torch.tensor(row).numpy() for row in new]

    def encode(self, text: str) -> Any:  # type: ignore[override]
        return torch.tensor(super().encode(text), dtype=torch.int64)


def any_integers(checkpoint: str, **options: Any) -> Any:
    return AnyIntegers(load_reference(checkpoint, **options).model)


def padded_with_minus_infinity(checkpoint: str, **options: Any) -> Any:
    return _with_logits(lambda x: torch.nn.functional.pad(x, (0, 47), value=-torch.inf))(
        checkpoint, **options
    )


def log_probabilities(checkpoint: str, **options: Any) -> Any:
    return _with_logits(lambda logits: logits.log_softmax(-1))(checkpoint, **options)


def __getattr__(name: str) -> Load:
    """Return the `load` function of an entry of LOGITS or GENERATE."""
    if name in LOGITS:
        return _with_logits(LOGITS[name])
    if name in GENERATE:
        return _with_generate(GENERATE[name])
    raise AttributeError(name)
