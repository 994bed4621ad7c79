"""Rounding: what is more than rounding, and what is not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .catalogue import defect, equivalent
from .parts import Cache, Parts


@defect("tf32-or-autocast", "parity.float32")
class ReducedMatmul(Parts):
    """Matrix products in bfloat16 under a float32 model, as by autocast or allow_tf32: it hides smaller mistakes."""

    def linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.linear(x.bfloat16(), weight.bfloat16()).to(x.dtype) + bias


@defect(
    "device-kernel-wrong",
    "parity.full-context",
    "pytorch/pytorch #116331, #98212; huggingface/transformers #32005",
)
class KernelWrong(Parts):
    """A kernel that is wrong for exactly 1024 tokens: 1023 are fine."""

    def final_norm(self, x: Tensor) -> Tensor:
        return super().final_norm(x if x.size(1) != 1024 else x.roll(1, dims=1))


@defect(
    "decode-kernel-wrong",
    "cache.steps",
    "ml-explore/mlx-examples #977 (a tail left out, elsewhere)",
)
class DecodeKernelWrong(Parts):
    """A decode kernel that takes channels in blocks of 48 and leaves out the rest: heads of 48 and fewer are fine."""

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        if q.size(2) > 1 or q.size(-1) <= 48:
            return super().scores(q, k, layer)
        return super().scores(
            torch.cat([q[..., :48], torch.zeros_like(q[..., 48:])], dim=-1), k, layer
        )


@defect("fast-and-fallback-differ", "parity.bfloat16", "karpathy/nanoGPT #331, #398")
class FallbackUnmasked(Parts):
    """The fused attention is masked; the fallback, taken in bfloat16 here, is not."""

    def shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        return super().shares(
            scores, torch.ones_like(mask) if scores.dtype == torch.bfloat16 else mask
        )


@defect("float64-rounded", "parity.float64")
class DoubleRounded(Parts):
    """Somewhere a float64 model passes through float32."""

    def final_norm(self, x: Tensor) -> Tensor:
        return super().final_norm(x.float().to(x.dtype) if x.dtype == torch.float64 else x)


@defect("row-affects-row", "laws.rows-independent")
class QuantisedTogether(Parts):
    """Activations in 8 bits with one scale for the whole batch: a row is rounded as its neighbours say."""

    def final_norm(self, x: Tensor) -> Tensor:
        scale = x.abs().amax() / 127
        return super().final_norm((x / scale).round() * scale)


@defect("prefix-depends-on-length", "laws.prefix")
class LengthDependent(Parts):
    """Scores scaled by the length of what is fed, as by a "length extrapolation" left on."""

    def forward(self, token_ids: Tensor, cache: Cache, real: Tensor) -> tuple[Tensor, Cache]:
        self.factor = 1.0 + 0.02 * max(0, real.size(1) - 9)
        return super().forward(token_ids, cache, real)

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        return super().scores(q, k, layer) * self.factor


@defect("first-ids-special", "laws.vocabulary-permutation")
class FirstIdsSpecial(Parts):
    """Logits of the first ids are damped, as a filter on special tokens of another vocabulary would."""

    def head(self, x: Tensor) -> Tensor:
        logits = super().head(x)
        return torch.cat([logits[..., :3] * 0.5, logits[..., 3:]], dim=-1)


@equivalent("op-order-drift", "TransformerLensOrg/TransformerLens #645, #496, #683")
class AnotherOrder(Parts):
    """Matrix products summed in two halves: another rounding, and no mistake."""

    def linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        half = x.size(-1) // 2
        return x[..., half:] @ weight[:, half:].t() + (x[..., :half] @ weight[:, :half].t() + bias)


@equivalent("sticky-output-of-cache", "ggml-org/llama.cpp #7859")
class BatchedSteps(Parts):
    """Keys and values of a cache are laid out otherwise, and its products summed in another order."""

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        return torch.einsum("bhqd,bhkd->bhqk", q * q.size(-1) ** -0.5, k)
