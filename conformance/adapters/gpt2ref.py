"""Adapter for this project's own reference."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

import gpt2ref
from gpt2ref.conversion import to_hugging_face_tensors
from gpt2ref.fast.compiled_step import compiled_step

from ..judging import textbook


class Reference:
    def __init__(self, model: gpt2ref.GPT2) -> None:
        self.model = model

    @torch.inference_mode()
    def logits(self, token_ids: Tensor) -> Tensor:
        return self.model(token_ids)

    def generate(self, token_ids: Tensor, **options: Any) -> list[list[int]]:
        return gpt2ref.sample(self.model, token_ids, **options)

    def generate_ragged(self, prompts: list[list[int]], **options: Any) -> list[list[int]]:
        return gpt2ref.sample(self.model, prompts, **options)

    def prefill(self, token_ids: Tensor) -> tuple[Tensor, gpt2ref.KVCache]:
        return self.step(token_ids, self.model.make_cache(len(token_ids)))

    @torch.inference_mode()
    def step(self, token_ids: Tensor, cache: gpt2ref.KVCache) -> tuple[Tensor, gpt2ref.KVCache]:
        cache = copy.deepcopy(cache)  # the model extends a cache in place
        return self.model(token_ids, cache), cache

    def state_dict(self) -> dict[str, Tensor]:
        return to_hugging_face_tensors(self.model)

    encode = staticmethod(gpt2ref.encode)
    decode = staticmethod(gpt2ref.decode)


def load(checkpoint: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Reference:
    return Reference(gpt2ref.load_checkpoint(checkpoint, device=device, dtype=dtype))


class Stepwise(Reference):
    """The same model. It reads every sequence token by token, with the step of `sample`."""

    @torch.inference_mode()
    def logits(self, token_ids: Tensor) -> Tensor:
        return self.prefill(token_ids)[0]

    @torch.inference_mode()
    def step(self, token_ids: Tensor, cache: gpt2ref.KVCache) -> tuple[Tensor, gpt2ref.KVCache]:
        step = compiled_step(self.model, copied := copy.deepcopy(cache))
        if step is None:
            return super().step(token_ids, cache)
        return torch.stack([step(each.tolist()) for each in token_ids.unbind(1)], dim=1), copied


def load_compiled(
    checkpoint: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Stepwise:
    """Load with the step compiled: needs a C compiler, the CPU, and no float64."""
    model = gpt2ref.load_checkpoint(checkpoint, device=device, dtype=dtype)
    if model.device.type != "meta":  # where names and shapes alone are asked
        gpt2ref.compile_step(model)
    return Stepwise(model)


class Uncached:
    """The same model in the textbook's loop, which feeds the whole sequence in each step.

    It has no cache, so `prefill` and `step` are left out.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.n_positions = reference.model.config.n_positions

    def logits(self, token_ids: Tensor) -> Tensor:
        return self.reference.logits(token_ids.to(self.reference.model.device))

    def generate(self, token_ids: Tensor, **options: Any) -> list[list[int]]:
        return self.generate_ragged(token_ids.tolist(), **options)

    def generate_ragged(
        self, prompts: list[list[int]], *, seed: int = 0, **options: Any
    ) -> list[list[int]]:
        return [
            textbook.generate(
                self.logits,
                row,
                n_positions=self.n_positions,
                seed=(seed << 32) + number,
                **options,
            )
            for number, row in enumerate(prompts)
        ]


def load_uncached(
    checkpoint: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Uncached:
    return Uncached(load(checkpoint, device=device, dtype=dtype))
