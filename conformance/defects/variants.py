"""Behaviour in which sources disagree. The suite reports it as a variant, which is no mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..probes.gpt2 import Weights
from .catalogue import variant
from .complete import CompleteGPT2
from .weights import OwnHead


@variant("topk-exactly-k", "sampling.top-k-ties", "Lightning-AI/litgpt #729; karpathy/nanochat")
class ExactlyK(CompleteGPT2):
    """Only k tokens stay, although others are tied with the k-th.

    OpenAI's sample.py keeps them all, and so do we.
    """

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        k = min(top_k or logits.size(-1), logits.size(-1))
        logits = logits.double()
        values, ids = logits.topk(k)
        return torch.zeros_like(logits).scatter(1, ids, (values / temperature).softmax(-1))


@variant(
    "temperature-zero-refused",
    "sampling.temperature-zero",
    "transformers generation/logits_process.py",
)
class TemperatureZeroRefused(CompleteGPT2):
    """Temperature 0 is refused by name.

    OpenAI's sample.py divides by it; gpt2ref, litgpt and nanochat are greedy.
    """

    def check(self, temperature: float, top_k: int | None) -> None:
        super().check(temperature, top_k)
        if temperature == 0:
            raise ValueError("temperature=0: expected a number above 0")


@variant(
    "context-end-refused",
    "generation.window",
    "transformers modeling_gpt2.py; rasbt/LLMs-from-scratch",
)
class ContextEndRefused(CompleteGPT2):
    """Generation past n_positions is refused by name.

    The textbook's loop crops to the last n_positions, and so do we.
    """

    def crop(self, row: Sequence[int]) -> Sequence[int]:
        if len(row) > self.config.n_positions:
            raise ValueError(
                f"{len(row)} tokens, but there are {self.config.n_positions} positions"
            )
        return row


@variant("empty-prompt-refused", "generation.empty-prompt", "transformers generation/utils.py")
class EmptyPromptRefused(CompleteGPT2):
    """A prompt without tokens is refused.

    OpenAI's generate_unconditional_samples.py starts from EOS, and so do we.
    """

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        if not all(prompts):
            raise ValueError("prompt: expected at least one token")
        return super().generate_ragged(prompts, **options)


@variant(
    "topk-zero-is-off",
    "sampling.top-k-zero",
    "openai/gpt-2 src/sample.py; transformers generation/utils.py",
)
class TopKZeroIsOff(CompleteGPT2):
    """top_k=0 is no restriction. We refuse it, and have None for that."""

    def check(self, temperature: float, top_k: int | None) -> None:
        super().check(temperature, top_k or None)

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return super().probabilities(logits, temperature, top_k or None)


@variant("head-of-its-own", "keys.differing-head", "transformers 5, modeling_gpt2.py")
class HeadOfItsOwn(OwnHead):
    """An lm_head.weight unlike wte.weight is the head, and wte embeds alone. We refuse it."""

    def convert(self, tensors: Weights) -> Weights:
        rest = {key: tensor for key, tensor in tensors.items() if key != "lm_head.weight"}
        weights = super().convert(rest)
        self.own_head = tensors.get("lm_head.weight", weights["wte.weight"]).to(self.dtype)
        return weights


@variant("head-overruled", "keys.differing-head", "transformers 4, modeling_gpt2.py")
class HeadOverruled(CompleteGPT2):
    """An lm_head.weight unlike wte.weight is overruled by tying. We refuse it."""

    def convert(self, tensors: Weights) -> Weights:
        return super().convert(
            {key: tensor for key, tensor in tensors.items() if key != "lm_head.weight"}
        )


@variant("config-scale-followed", "config.attention-scaling", "transformers modeling_gpt2.py")
class ScaleFollowed(CompleteGPT2):
    """The config's scale_attn_weights is followed. No published GPT-2 sets it, and we refuse it."""

    @classmethod
    def configure(cls, fields: dict[str, Any]) -> GPT2Config:
        return super().configure(fields | {"scale_attn_weights": True})

    def attention_scale(self, layer: int, head_width: int) -> float:
        scaled = self.fields.get("scale_attn_weights", True)
        return super().attention_scale(layer, head_width) if scaled else 1.0


@variant("config-layer-scale-followed", "config.attention-scaling", "transformers modeling_gpt2.py")
class LayerScaleFollowed(CompleteGPT2):
    """The config's scale_attn_by_inverse_layer_idx is followed.

    No published GPT-2 sets it, and we refuse it.
    """

    @classmethod
    def configure(cls, fields: dict[str, Any]) -> GPT2Config:
        return super().configure(fields | {"scale_attn_by_inverse_layer_idx": False})

    def attention_scale(self, layer: int, head_width: int) -> float:
        by_layer = self.fields.get("scale_attn_by_inverse_layer_idx", False)
        return super().attention_scale(layer, head_width) / (layer + 1 if by_layer else 1)


@variant("config-activation-followed", "config.activation", "transformers modeling_gpt2.py")
class ActivationFollowed(CompleteGPT2):
    """The config's activation_function is followed. All published ones have GELU's tanh form.

    We refuse any other.
    """

    @classmethod
    def configure(cls, fields: dict[str, Any]) -> GPT2Config:
        return super().configure(fields | {"activation_function": "gelu_new"})

    def activation(self, x: Tensor) -> Tensor:
        others = {"gelu": torch.nn.functional.gelu, "relu": torch.relu}
        name = self.fields.get("activation_function", "gelu_new")
        return others.get(name, super().activation)(x)


@variant("centred-unembed", "head.raw", "TransformerLensOrg/TransformerLens #223, #693")
class Centred(CompleteGPT2):
    """Each position's logits are shifted so that their mean is zero.

    Probabilities stay the same, raw logits do not.
    """

    def head(self, x: Tensor) -> Tensor:
        logits = super().head(x)
        return logits - logits.mean(-1, keepdim=True)
