"""The activation between the two matrices of the MLP."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .catalogue import defect
from .complete import CompleteGPT2


@defect(
    "gelu-erf",
    "activation.curve",
    "karpathy/nanoGPT #274; huggingface/candle #900; huggingface/transformers #40053",
)
class GeluErf(CompleteGPT2):
    """Exact (erf) GELU is used instead of the tanh form that the weights were trained with."""

    def activation(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


@defect("gelu-sigmoid", "activation.curve")
class GeluSigmoid(CompleteGPT2):
    """The quick approximation of GELU, x sigmoid(1.702 x), is used instead of the tanh form."""

    def activation(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


@defect(
    "gelu-constant-typo",
    "activation.curve",
    "cafesuada24/GPT-2-Replication@41217b86:src/model/gelu.py",
)
class GeluConstantTypo(CompleteGPT2):
    """GELU's constant is written 0.44715 instead of 0.044715."""

    def activation(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.44715 * x**3)))


@defect(
    "gelu-constant-in-float32",
    "parity.float64",
    "rasbt/LLMs-from-scratch@28c65cdfb:ch04/01_main-chapter-code/gpt.py",
)
class GeluConstantInFloat32(CompleteGPT2):
    """GELU's sqrt(2 / pi) is a float32 tensor, which in float64 changes the eighth digit."""

    def activation(self, x: Tensor) -> Tensor:
        root = torch.sqrt(torch.tensor(2 / math.pi, dtype=torch.float32)).to(x.device)
        return 0.5 * x * (1 + torch.tanh(root * (x + 0.044715 * x**3)))


@defect("gelu-square", "activation.curve")
class GeluSquare(CompleteGPT2):
    """GELU has x squared where it should have x cubed."""

    def activation(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**2)))


@defect("relu", "activation.curve", "karpathy/ng-video-lecture@52201428:gpt.py")
class ReLU(CompleteGPT2):
    """ReLU is used instead of GELU, as in the original Transformer."""

    def activation(self, x: Tensor) -> Tensor:
        return torch.relu(x)


@defect("silu", "activation.curve", "affjljoo3581/GPT2 #5")
class SiLU(CompleteGPT2):
    """SiLU (Swish) is used instead of GELU, as in later models."""

    def activation(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


@defect("activation-missing", "activation.curve")
class ActivationMissing(CompleteGPT2):
    """There is no activation between the two matrices of the MLP."""

    def activation(self, x: Tensor) -> Tensor:
        return x
