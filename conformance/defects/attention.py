"""Attention: the scale of the scores, the mask, the softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .catalogue import KNOWLEDGE, defect, equivalent
from .complete import CompleteGPT2


@defect("no-scale", "attention.scale", "PAIR-code/tiny-transformers #71; mlc-ai/mlc-llm #3426")
class NoScale(CompleteGPT2):
    """Scores are not divided by the root of the head width."""

    def attention_scale(self, layer: int, head_width: int) -> float:
        return 1.0


@defect(
    "scale-by-n-embd",
    "attention.scale",
    "karpathy/ng-video-lecture #6; Graylab/DL4Proteins-notebooks #12",
)
class ScaleByWidth(CompleteGPT2):
    """Scores are divided by sqrt(n_embd) instead of sqrt(head width)."""

    def attention_scale(self, layer: int, head_width: int) -> float:
        return 1 / math.sqrt(self.config.n_embd)


@defect("scale-without-root", "attention.scale")
class ScaleWithoutRoot(CompleteGPT2):
    """Scores are divided by the head width instead of its root."""

    def attention_scale(self, layer: int, head_width: int) -> float:
        return 1 / head_width


@defect("scale-by-n-head", "attention.scale")
class ScaleByHeads(CompleteGPT2):
    """Scores are divided by sqrt(n_head) instead of sqrt(head width)."""

    def attention_scale(self, layer: int, head_width: int) -> float:
        return 1 / math.sqrt(self.n_head)


@defect("scale-by-layer", "attention.scale")
class ScaleByLayer(CompleteGPT2):
    """Scores are divided by the layer's number too, an option that GPT-2's config does not set."""

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        return super().scores(q, k, layer) / (layer + 1)


class Seen(CompleteGPT2):
    """A mask with another set of keys seen."""

    seen: Callable[[Tensor], Tensor]  # all ones [seen, seen] -> the keys that each query sees

    def mask(self, real: Tensor, past: int) -> Tensor:
        ones = torch.ones(real.size(1), real.size(1), dtype=torch.bool, device=real.device)
        return (type(self).seen(ones)[past:] & real[:, None])[:, None]


@defect("no-causal-mask", "attention.mask", "huggingface/transformers #48745; paiml/entrenar #310")
class NoMask(Seen):
    """There is no mask: every position sees all others."""

    seen = staticmethod(lambda ones: ones)


@defect("mask-inverted", "attention.mask", "harvard-edge/cs249r_book #1785; nntile/nntile #370")
class MaskInverted(Seen):
    """The mask is the other triangle: each position sees itself and the future."""

    seen = staticmethod(torch.triu)


@defect("mask-negated", "attention.mask")
class MaskNegated(Seen):
    """True and False are exchanged in the mask: each position sees the future alone."""

    seen = staticmethod(lambda ones: ones.triu(1))


@defect(
    "mask-sees-next", "attention.mask", "flashinfer-ai/flashinfer #348; RVC-Boss/GPT-SoVITS #965"
)
class MaskSeesNext(Seen):
    """The mask is tril(diagonal=1): each position sees the next one."""

    seen = staticmethod(lambda ones: ones.tril(1))


@defect("mask-hides-self", "attention.mask")
class MaskHidesSelf(Seen):
    """The mask is tril(diagonal=-1): a position does not see itself."""

    seen = staticmethod(lambda ones: ones.tril(-1))


@defect("mask-flipped-keys", "attention.mask")
class MaskFlippedKeys(Seen):
    """The triangle stands in the upper right corner: position i sees the last i + 1 ones."""

    seen = staticmethod(lambda ones: ones.tril().flip(1))


@defect("mask-flipped-queries", "attention.mask")
class MaskFlippedQueries(Seen):
    """The triangle stands in the upper left corner: the first sees all, the last the first one."""

    seen = staticmethod(lambda ones: ones.tril().flip(0))


@defect("mask-accumulates", "attention.mask")
class MaskAccumulates(Seen):
    """Each row of the mask is multiplied into the next: what one query does not see, none sees.

    All of them see the first position alone.
    """

    seen = staticmethod(lambda ones: ones.tril().cumprod(0).bool())


class Corner(CompleteGPT2):
    """The mask is cut out of a triangle of n_positions, at the wrong corner."""

    rows: bool  # whether the rows are the last ones; otherwise the columns are

    def mask(self, real: Tensor, past: int) -> Tensor:
        n, seen = self.config.n_positions, real.size(1)
        whole = torch.ones(n, n, dtype=torch.bool, device=real.device).tril()
        corner = whole[n - seen :, :seen] if self.rows else whole[:seen, n - seen :]
        return (corner[past:] & real[:, None])[:, None]


@defect("mask-of-last-rows", "attention.mask")
class LastRows(Corner):
    """The mask is the buffer's last rows and first columns: the future is seen.

    A context as long as the buffer is right.
    """

    rows = True


@defect("mask-of-last-columns", "attention.mask")
class LastColumns(Corner):
    """The mask is the buffer's first rows and last columns, which hide nearly all.

    A context as long as the buffer is right.
    """

    rows = False


@defect("window-of-eight", "attention.visibility", f"local attention, as GPT-Neo's; {KNOWLEDGE}")
class Window(CompleteGPT2):
    """Only the last eight positions are seen, which no short test notices."""

    window = 8

    def mask(self, real: Tensor, past: int) -> Tensor:
        mask = super().mask(real, past)
        at = torch.arange(real.size(1), device=real.device)
        return mask & (at > at[past:, None] - self.window)


@defect(
    "uninitialised-buffer",
    "attention.visibility",
    "huggingface/transformers #48892; pytorch/torchtitan #1371",
)
class MaskUninitialised(CompleteGPT2):
    """The mask is a buffer that is not in the file, and has what was in memory.

    Here every other bit of it is lost.
    """

    def mask(self, real: Tensor, past: int) -> Tensor:
        mask = super().mask(real, past)
        even = torch.arange(mask.size(-1), device=mask.device) % 2 == 0
        itself = torch.eye(mask.size(-1), dtype=torch.bool, device=mask.device)[past:]
        return mask & even | itself


@defect("mask-after-softmax", "attention.mask", "lucidrains/memory-compressed-attention #2")
class MaskAfterSoftmax(CompleteGPT2):
    """Weights are put to zero after the softmax, so they do not add up to one."""

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.softmax(-1) * mask


@equivalent("mask-after-softmax-renormalised")
class MaskAfterSoftmaxRenormalised(CompleteGPT2):
    """Weights are masked after the softmax and divided by their sum, which is the same."""

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        weights = scores.softmax(-1) * mask
        return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


@defect("mask-multiplied", "attention.mask")
class MaskMultiplied(CompleteGPT2):
    """Scores are multiplied by the mask: future scores become 0, not minus infinity."""

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        return (scores * mask).softmax(-1)


@equivalent("mask-minus-10000")
class MaskMinusTenThousand(CompleteGPT2):
    """Hidden scores are -1e4, not minus infinity: the exponential is 0 in float32 all the same."""

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(~mask, -1e4).softmax(-1)


@defect("sentinel-overflows-half", "parity.float16", "huggingface/transformers #382, #4098")
class SentinelOverflowsHalf(CompleteGPT2):
    """Scores are masked as w b - 1e10 (1 - b): in float16 1e10 is infinite, and 0 times it NaN."""

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        sentinel = torch.tensor(1e10, dtype=scores.dtype)
        return (scores * mask - sentinel * (1 - mask.to(scores.dtype))).softmax(-1)


def masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)


@defect(
    "softmax-wrong-axis",
    "attention.softmax",
    "nerdai/llms-from-scratch-rs #30; labmlai/annotated_deep_learning_paper_implementations #146",
)
class SoftmaxOverQueries(CompleteGPT2):
    """The softmax is taken over the queries instead of the keys."""

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        return masked(scores, mask).softmax(-2)


@defect("softmax-over-heads", "attention.softmax")
class SoftmaxOverHeads(CompleteGPT2):
    """The softmax is taken over the heads instead of the keys."""

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        return masked(scores, mask).softmax(1)


@defect("softmax-over-matrix", "attention.softmax", f"softmax() of a flattened matrix; {KNOWLEDGE}")
class SoftmaxOverMatrix(CompleteGPT2):
    """The softmax is taken over all queries and keys, so a query's weights do not sum to one."""

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        return masked(scores, mask).flatten(-2).softmax(-1).view(scores.shape)


@defect(
    "softmax-without-maximum",
    "attention.large-scores",
    "NVIDIA/FasterTransformer #43; ggml-org/llama.cpp #2665",
)
class SoftmaxOverflows(CompleteGPT2):
    """The softmax does not subtract the largest score first.

    The exponential is infinite for a score of 89, and all are 0 below -104.
    """

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        weights = scores.exp() * mask
        return weights / weights.sum(-1, keepdim=True)
