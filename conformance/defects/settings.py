"""Fields of config.json that are read past, or read by a part of the code alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from .catalogue import KNOWLEDGE, defect
from .complete import CompleteGPT2

TANH_GELU = {"activation_function": "gelu_new"}


@defect(
    "config-scale-option-ignored",
    "config.attention-scaling",
    "huggingface/transformers #44380, #44397; mlc-ai/mlc-llm #1389",
)
class ScaleOptionIgnored(CompleteGPT2):
    """The config's scale_attn_by_inverse_layer_idx is not read: 1/sqrt(head width) is fixed."""

    @classmethod
    def configure(cls, fields: dict[str, Any]) -> GPT2Config:
        return super().configure(fields | {"scale_attn_by_inverse_layer_idx": False})


@defect(
    "scale-kwarg-dropped",
    "config.attention-scaling",
    "huggingface/pytorch-image-models #2280; huggingface/transformers #44380",
)
class ScaleArgumentDropped(CompleteGPT2):
    """The config's scale_attn_weights=False reaches the manual attention alone.

    The fused attention keeps its default scale.
    """

    @classmethod
    def configure(cls, fields: dict[str, Any]) -> GPT2Config:
        return super().configure(fields | {"scale_attn_weights": True})


@defect("config-activation-ignored", "config.activation")
class ActivationIgnored(CompleteGPT2):
    """The config's activation_function is not read: GELU in its tanh form is fixed."""

    @classmethod
    def configure(cls, fields: dict[str, Any]) -> GPT2Config:
        return super().configure(fields | TANH_GELU)


@defect("config-gelu-read-as-tanh", "config.activation")
class GeluReadAsTanh(CompleteGPT2):
    """The activation_function "gelu", the exact one, is taken for the tanh form. Others are known.

    A table of activations has one GELU.
    """

    @classmethod
    def configure(cls, fields: dict[str, Any]) -> GPT2Config:
        return super().configure(fields | TANH_GELU)

    def activation(self, x: Tensor) -> Tensor:
        relu = self.fields.get("activation_function") == "relu"
        return torch.relu(x) if relu else super().activation(x)


@defect("config-activation-by-default", "config.activation", f"ACT.get(name, gelu); {KNOWLEDGE}")
class ActivationByDefault(CompleteGPT2):
    """An activation_function that is not in the table becomes the tanh form without a word.

    The table has the kinds of GELU.
    """

    @classmethod
    def configure(cls, fields: dict[str, Any]) -> GPT2Config:
        return super().configure(fields | TANH_GELU)

    def activation(self, x: Tensor) -> Tensor:
        exact = self.fields.get("activation_function") == "gelu"
        return torch.nn.functional.gelu(x) if exact else super().activation(x)


@defect("config-epsilon-ignored", "config.epsilon")
class EpsilonIgnored(CompleteGPT2):
    """The config's layer_norm_epsilon is not read, as where it is looked for by another name.

    Every LayerNorm has 1e-5.
    """

    def epsilon(self, name: str) -> float:
        return 1e-5


@defect("config-epsilon-ignored-in-blocks", "config.epsilon")
class EpsilonIgnoredInBlocks(CompleteGPT2):
    """The config's layer_norm_epsilon reaches ln_f, and the norms of the blocks have 1e-5."""

    def epsilon(self, name: str) -> float:
        return super().epsilon(name) if name == "ln_f" else 1e-5


@defect("config-epsilon-ignored-in-ln_f", "config.epsilon")
class EpsilonIgnoredInFinal(CompleteGPT2):
    """The config's layer_norm_epsilon reaches the norms of the blocks, and ln_f has 1e-5."""

    def epsilon(self, name: str) -> float:
        return 1e-5 if name == "ln_f" else super().epsilon(name)
