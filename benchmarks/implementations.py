"""Who is measured. All run on the same weights, shared in memory where they can be, and are called the same way.

To add one: a class with `generate`, and a line in IMPLEMENTATIONS.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

import gpt2ref
from conformance.checkpoints import Tensors
from gpt2ref import GPT2Config
from gpt2ref.generation import sample_steps


class Implementation(Protocol):
    """A GPT-2 loaded and ready to generate."""

    # Whether row r draws `random.Random(seed + r).random()` once a step and inverts the cumulative distribution with it,
    # as gpt2ref does. Then the tokens it samples can be foretold, and not only shown to be possible.
    foretold: bool

    def generate(
        self,
        prompts: list[list[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        top_k: int | None,
        seed: int,
        on_step: Callable[[], None],
    ) -> list[list[int]]:
        """The new ids of each row. EOS ends nothing. `on_step` is called when the ids of a step are on the host."""
        ...


class Reference:
    """gpt2ref's own loop."""

    foretold = True

    def __init__(self, config: GPT2Config, tensors: Tensors) -> None:
        self.model = gpt2ref.from_tensors(tensors, config)

    def generate(
        self,
        prompts: list[list[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        top_k: int | None,
        seed: int,
        on_step: Callable[[], None],
    ) -> list[list[int]]:
        rows = [list(prompt) for prompt in prompts]  # the loop appends to them
        for _ in sample_steps(self.model, rows, max_new_tokens, temperature, top_k, seed, eos_token_id=None):
            on_step()
        return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


class HuggingFace:
    """transformers' `generate` as it comes: its default attention (sdpa) and its default, growing, cache."""

    foretold = False

    def __init__(self, config: GPT2Config, tensors: Tensors) -> None:
        # Without ids for EOS and its like, the generation config that is derived from this one asks for no stop.
        special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        with torch.device("meta"):  # shapes without memory: the given tensors become the parameters
            self.model: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(**(config.to_dict() | special)))
        state = {f"transformer.{key}": tensor for key, tensor in tensors.items()}
        self.model.load_state_dict(state | {"lm_head.weight": tensors["wte.weight"]}, assign=True)
        self.model.eval().requires_grad_(False)

    def generate(
        self,
        prompts: list[list[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        top_k: int | None,
        seed: int,
        on_step: Callable[[], None],
    ) -> list[list[int]]:
        torch.manual_seed(seed)
        token_ids = torch.tensor(prompts, device=self.model.device)
        # top_k=0 and top_p=1 are off. Left out, they would be transformers' defaults (top_k=50); if greedy, they are refused.
        draw: dict[str, Any] = {"temperature": temperature, "top_k": top_k or 0, "top_p": 1.0} if temperature > 0 else {}
        sequences = self.model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            do_sample=temperature > 0,
            max_new_tokens=max_new_tokens,
            use_cache=True,
            streamer=_StepStreamer(on_step),
            **draw,
        )
        return sequences[:, token_ids.size(1) :].tolist()


class _StepStreamer(BaseStreamer):
    """Is handed the prompt [batch, time], then each step's ids [batch], already on the host."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self.on_step = on_step

    def put(self, value: Tensor) -> None:
        if value.dim() == 1:
            self.on_step()

    def end(self) -> None:
        pass


IMPLEMENTATIONS: dict[str, Callable[[GPT2Config, Tensors], Implementation]] = {
    "gpt2ref": Reference,
    "huggingface": HuggingFace,
}


class Loaded:
    """The weights of one size, on the device, and the implementations that run on them, each made when first asked for."""

    def __init__(self, size: str, config: GPT2Config, tensors: Tensors) -> None:
        self.size = size
        self.config = config
        self.tensors = tensors
        self.reference = gpt2ref.from_tensors(tensors, config)  # its plain forward is the judge of everyone's tokens
        self._made: dict[str, Implementation] = {}

    def implementation(self, name: str) -> Implementation:
        if name not in self._made:
            self._made[name] = IMPLEMENTATIONS[name](self.config, self.tensors)
        return self._made[name]

    def free(self) -> None:
        """Give the memory back, for the next size."""
        del self.tensors, self.reference, self._made
        gc.collect()
        torch.cuda.empty_cache()
