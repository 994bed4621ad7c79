"""Precision, kernels that differ with the shape, and rounding that is no mistake."""

from __future__ import annotations

import torch
from torch import Tensor

from .catalogue import defect, equivalent
from .complete import CompleteGPT2


@defect("tf32-or-autocast", "parity.float32")
class ReducedMatmul(CompleteGPT2):
    """Matrix products are in bfloat16 in a float32 model, as by autocast or allow_tf32.

    This hides smaller mistakes.
    """

    def linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return (x.bfloat16() @ weight.bfloat16()).to(x.dtype) + bias


@defect(
    "device-kernel-wrong",
    "parity.full-context",
    "pytorch/pytorch #116331, #98212; huggingface/transformers #32005",
)
class KernelWrong(CompleteGPT2):
    """A kernel is wrong for exactly 1024 tokens: 1023 are fine."""

    def final_norm(self, x: Tensor) -> Tensor:
        return super().final_norm(x if x.size(1) != 1024 else x.roll(1, dims=1))


@defect(
    "decode-kernel-wrong",
    "cache.steps",
    "ml-explore/mlx-examples #977 (a tail left out, elsewhere)",
)
class DecodeKernelWrong(CompleteGPT2):
    """A decode kernel takes channels in blocks of 48 and leaves out the rest.

    Heads of 48 and fewer channels are fine.
    """

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        if q.size(2) > 1 or q.size(-1) <= 48:
            return super().scores(q, k, layer)
        return super().scores(
            torch.cat([q[..., :48], torch.zeros_like(q[..., 48:])], dim=-1), k, layer
        )


@defect("fast-and-fallback-differ", "parity.bfloat16", "karpathy/nanoGPT #331, #398")
class FallbackUnmasked(CompleteGPT2):
    """The fused attention is masked, and the fallback, which bfloat16 takes here, is not."""

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        return super().attention_weights(
            scores, torch.ones_like(mask) if scores.dtype == torch.bfloat16 else mask
        )


@defect("float64-rounded", "parity.float64")
class DoubleRounded(CompleteGPT2):
    """A float64 model passes through float32 before the final norm."""

    def final_norm(self, x: Tensor) -> Tensor:
        return super().final_norm(x.float().to(x.dtype) if x.dtype == torch.float64 else x)


@defect("row-affects-row", "laws.rows-independent")
class QuantisedTogether(CompleteGPT2):
    """Activations are quantised to 8 bits with one scale for the whole batch.

    A row's rounding then depends on its neighbours.
    """

    def final_norm(self, x: Tensor) -> Tensor:
        scale = x.abs().amax() / 127
        return super().final_norm((x / scale).round() * scale)


@defect("prefix-depends-on-length", "laws.prefix")
class LengthDependent(CompleteGPT2):
    """Scores are scaled by the length of the input, as by a length extrapolation left on."""

    def forward(self, token_ids: Tensor, real: Tensor) -> Tensor:
        self.factor = 1.0 + 0.02 * max(0, real.size(1) - 9)
        return super().forward(token_ids, real)

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        return super().scores(q, k, layer) * self.factor


@defect("first-ids-special", "laws.vocabulary-permutation")
class FirstIdsSpecial(CompleteGPT2):
    """Logits of the first ids are halved, as by a filter for another vocabulary."""

    def head(self, x: Tensor) -> Tensor:
        logits = super().head(x)
        return torch.cat([logits[..., :3] * 0.5, logits[..., 3:]], dim=-1)


@equivalent("op-order-drift", "TransformerLensOrg/TransformerLens #645, #496, #683")
class AnotherOrder(CompleteGPT2):
    """Matrix products are summed in two halves: the rounding differs, and nothing else."""

    def linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        half = x.size(-1) // 2
        return x[..., half:] @ weight[half:] + (x[..., :half] @ weight[:half] + bias)


@equivalent("sticky-output-of-cache", "ggml-org/llama.cpp #7859")
class BatchedSteps(CompleteGPT2):
    """The cache has another layout, and its products are summed in another order."""

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        return torch.einsum("bhqd,bhkd->bhqk", q * q.size(-1) ** -0.5, k)
