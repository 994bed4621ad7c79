"""Attention: scores, mask, softmax, heads."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .catalogue import KNOWLEDGE, defect, equivalent
from .parts import Parts


@defect("no-scale", "attention.scale", "PAIR-code/tiny-transformers #71; mlc-ai/mlc-llm #3426")
class NoScale(Parts):
    """1/sqrt(head width) is missing."""

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        return q @ k.mT


@defect(
    "scale-by-n-embd",
    "attention.scale",
    "karpathy/ng-video-lecture #6; Graylab/DL4Proteins-notebooks #12",
)
class ScaleByWidth(Parts):
    """1/sqrt(n_embd) instead of 1/sqrt(head width)."""

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        return q @ k.mT / math.sqrt(self.config.n_embd)


@defect("scale-without-root", "attention.scale")
class ScaleWithoutRoot(Parts):
    """1/head width instead of its root."""

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        return q @ k.mT / q.size(-1)


@defect("scale-by-layer", "attention.scale")
class ScaleByLayer(Parts):
    """Divided by the layer's number too, as a config option of Hugging Face's asks, which GPT-2 does not set."""

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        return super().scores(q, k, layer) / (layer + 1)


class Seen(Parts):
    """A mask with another set of keys seen."""

    seen: Callable[[Tensor], Tensor]  # all ones [seen, seen] -> the keys that each query sees

    def mask(self, real: Tensor, past: int) -> Tensor:
        ones = torch.ones(real.size(1), real.size(1), dtype=torch.bool, device=real.device)
        return (type(self).seen(ones)[past:] & real[:, None])[:, None]


@defect("no-causal-mask", "attention.mask", "huggingface/transformers #48745; paiml/entrenar #310")
class NoMask(Seen):
    """Every position sees all others."""

    seen = staticmethod(lambda ones: ones)


@defect("mask-inverted", "attention.mask", "harvard-edge/cs249r_book #1785; nntile/nntile #370")
class MaskInverted(Seen):
    """True and False exchanged between who makes the mask and who uses it: each position sees itself and the future."""

    seen = staticmethod(torch.triu)


@defect(
    "mask-sees-next", "attention.mask", "flashinfer-ai/flashinfer #348; RVC-Boss/GPT-SoVITS #965"
)
class MaskSeesNext(Seen):
    """tril(diagonal=1): one token of the future is seen."""

    seen = staticmethod(lambda ones: ones.tril(1))


@defect("mask-hides-self", "attention.mask")
class MaskHidesSelf(Seen):
    """tril(diagonal=-1): a position does not see itself."""

    seen = staticmethod(lambda ones: ones.tril(-1))


@defect("mask-after-softmax", "attention.mask", "lucidrains/memory-compressed-attention #2")
class MaskAfterSoftmax(Parts):
    """Shares are put to zero after the softmax, and no longer add up to one."""

    def shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.softmax(-1) * mask


@equivalent("mask-after-softmax-renormalised")
class MaskAfterSoftmaxRenormalised(Parts):
    """The same, with each row divided by its sum: algebraically the mask before the softmax."""

    def shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        shares = scores.softmax(-1) * mask
        return shares / shares.sum(-1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)


@defect("mask-multiplied", "attention.mask")
class MaskMultiplied(Parts):
    """Scores multiplied by the mask: future scores become 0, not minus infinity."""

    def shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        return (scores * mask).softmax(-1)


@equivalent("mask-minus-10000")
class MaskMinusTenThousand(Parts):
    """-1e4 instead of minus infinity: its exponential is 0 in float32 all the same."""

    def shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(~mask, -1e4).softmax(-1)


@defect("sentinel-overflows-half", "parity.float16", "huggingface/transformers #382, #4098")
class SentinelOverflowsHalf(Parts):
    """OpenAI's w b - 1e10 (1 - b): in float16 1e10 is infinite, and 0 times it is NaN."""

    def shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        sentinel = torch.tensor(1e10, dtype=scores.dtype)
        return (scores * mask - sentinel * (1 - mask.to(scores.dtype))).softmax(-1)


@defect(
    "softmax-wrong-axis",
    "attention.softmax",
    "nerdai/llms-from-scratch-rs #30; labmlai/annotated_deep_learning_paper_implementations #146",
)
class SoftmaxOverQueries(Parts):
    """The softmax is taken over the queries."""

    def shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-2)


@defect("softmax-over-heads", "attention.softmax")
class SoftmaxOverHeads(Parts):
    """The softmax is taken over the heads."""

    def shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(1)


@defect(
    "softmax-without-maximum",
    "attention.large-scores",
    "NVIDIA/FasterTransformer #43; ggml-org/llama.cpp #2665",
)
class SoftmaxOverflows(Parts):
    """exp(scores) over their sum, without taking the largest away: infinite for a score of 89, all 0 below -104."""

    def shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        shares = scores.exp() * mask
        return shares / shares.sum(-1, keepdim=True)


@defect(
    "heads-split-by-view", "attention.head-split", "reczoo/FuxiCTR #30; hyunwoongko/transformer #15"
)
class HeadsByView(Parts):
    """view(batch, n_head, time, width) without the transpose: tokens are mixed into the heads."""

    def heads(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), self.n_head, x.size(1), -1)


@defect("head-dims-interleaved", "attention.head-split")
class HeadsInterleaved(Parts):
    """Channel c belongs to head c mod n_head instead of c div head width."""

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.n_head)).permute(0, 3, 1, 2)


@defect(
    "head-merge-by-view",
    "attention.head-merge",
    "jsbaan/transformer-from-scratch #6; hackiey/QAnet-pytorch #2",
)
class MergeByView(Parts):
    """The heads are put together by a view, without the transpose back."""

    def merge(self, attended: Tensor) -> Tensor:
        return attended.reshape(len(attended), attended.size(2), -1)


@defect("head-merge-interleaved", "attention.head-merge")
class MergeInterleaved(Parts):
    """The channels of the heads in turn, instead of the heads side by side."""

    def merge(self, attended: Tensor) -> Tensor:
        return attended.permute(0, 2, 3, 1).flatten(2)


@defect("n-head-wrong", "attention.heads", "SKT-AI/KoGPT2 #20; rasbt/LLMs-from-scratch #444")
class HalfTheHeads(Parts):
    """Half as many heads as the config says: no tensor's shape tells."""

    @property
    def n_head(self) -> int:
        return self.config.n_head // 2 if self.config.n_head % 2 == 0 else 1


@defect("n-head-one", "attention.heads")
class OneHead(Parts):
    """A single head over the whole width."""

    @property
    def n_head(self) -> int:
        return 1


@defect("window-of-eight", "attention.visibility", f"local attention, as GPT-Neo's; {KNOWLEDGE}")
class Window(Seen):
    """Only the last eight positions are seen, which no short test notices."""

    seen = staticmethod(lambda ones: ones.tril() & ones.triu(-7))
