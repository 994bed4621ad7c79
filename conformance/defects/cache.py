"""Going on from what was fed before: positions, masks, and whose keys and values they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .catalogue import defect, equivalent
from .parts import Cache, KeysValues, Parts, length


@defect("position-not-offset", "cache.splits", "ml-explore/mlx-lm #93; tinygrad/tinygrad #3061")
class PositionNotOffset(Parts):
    """A cached step starts at position 0 again."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return super().positions(real[:, past:], 0)


@defect("offset-advances-wrong", "cache.splits", "skyzh/tiny-llm #46; huggingface/candle #1517")
class OffsetTwice(Parts):
    """The offset grows by the length of the prompt once too often: positions jump after it."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return (super().positions(real, past) + past) % self.config.n_positions


@defect("last-token-without-cache", "generation.greedy", "karpathy/llm.c@8919b66")
class LastTokenAlone(Parts):
    """The loop feeds the newest token alone, to a model that keeps no cache."""

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        logits, _ = super().next_logits([row[-1:] for row in rows], [])
        return logits, cache


@defect(
    "sdpa-causal-top-left",
    "cache.splits",
    "pytorch/pytorch #103082, #108108; lucidrains/x-transformers #187; pytorch/executorch #21749",
)
class CausalTopLeft(Parts):
    """is_causal=True with fewer queries than keys: the triangle starts at the first key, and a step sees key 0 alone."""

    def mask(self, real: Tensor, past: int) -> Tensor:
        return super().mask(real, 0)[:, :, : real.size(1) - past]


@defect("mask-none-when-cached", "cache.splits", "QwenLM/Qwen #979; mlx-node/mlx-node #24")
class NoMaskWhenCached(Parts):
    """The mask is left out whenever there is a cache, though several tokens may be fed: they see each other's future."""

    def mask(self, real: Tensor, past: int) -> Tensor:
        mask = super().mask(real, past)
        return mask if past == 0 else real[:, None, None].expand_as(mask)


@defect(
    "mask-slice-rows-cols",
    "cache.splits",
    "rasbt/LLMs-from-scratch #1048, #697; meta-llama/llama #899",
)
class MaskSlicedWrong(Parts):
    """mask[:time, :time] of the whole triangle, with the past filled up as seen: rows of the wrong queries."""

    def mask(self, real: Tensor, past: int) -> Tensor:
        time = real.size(1) - past
        corner = super().mask(real[:, :time], 0)
        return torch.cat([corner, ~corner.new_zeros(*corner.shape[:-1], past)], dim=-1)


@defect(
    "cache-not-reset",
    "cache.second-prompt",
    "rasbt/LLMs-from-scratch #1048, #925; awslabs/keys_values #45",
)
class CacheNotReset(Parts):
    """The cache lives on the model: a second prompt of as many rows goes on from the first one's keys and values."""

    kept: Cache | None = None

    def prefill(self, token_ids: Tensor) -> tuple[Tensor, Cache]:
        kept = self.kept or []
        fits = kept and len(kept[0][0]) == len(token_ids)
        room = length(kept) + token_ids.size(1) <= self.config.n_positions
        return self.step(token_ids, kept if fits and room else [])

    def step(self, token_ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        logits, self.kept = super().step(token_ids, cache)
        return logits, self.kept

    def logits(self, token_ids: Tensor) -> Tensor:
        return super().step(token_ids, [])[0]


@defect(
    "cache-silently-unused",
    "cache.splits",
    "rasbt/LLMs-from-scratch #1048; huggingface/transformers #30108",
)
class CacheUnused(Parts):
    """A new cache is made in each step, so that a step sees nothing of what came before (its position is right)."""

    def remember(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        return torch.cat([torch.zeros_like(past[0]), k], dim=2), torch.cat(
            [torch.zeros_like(past[1]), v], dim=2
        )


@equivalent("cache-recomputed")
class CacheRecomputed(Parts):
    """Every step feeds the whole sequence again: slow, and right."""

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        return super().next_logits(rows, [])[0], cache


@defect("cache-aliased-branches", "cache.branches", "huggingface/transformers #30536, #32681")
class BranchesAliased(Parts):
    """The cache is extended in place: a second continuation of a prefix sees the tokens of the first."""

    def step(self, token_ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        if length(cache) + token_ids.size(1) > self.config.n_positions:
            cache[:] = [
                (k[:, :, : -token_ids.size(1)], v[:, :, : -token_ids.size(1)]) for k, v in cache
            ]
        logits, cache[:] = super().step(token_ids, cache)
        return logits, cache


@defect("empty-cache-nan", "cache.splits", "tinygrad/tinygrad #15552")
class EmptyCache(Parts):
    """A buffer from torch.empty, which holds a NaN here: its share is 0, and 0 times NaN is NaN."""

    def remember(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        k, v = super().remember(past, k, v)
        return k, torch.where(
            torch.arange(v.size(2), device=v.device)[:, None] == past[1].size(2),
            v + torch.nan * (v - v),
            v,
        )


@defect(
    "batch-frozen-at-first-call",
    "cache.second-prompt",
    "tinygrad/tinygrad@a9069c177:examples/gpt2.py",
)
class BatchFrozen(Parts):
    """The buffers have as many rows as the first call had; in a larger batch its rows are seen by all."""

    batch: int | None = None

    def remember(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        self.batch = self.batch or len(k)
        rows = torch.arange(len(k), device=k.device) % self.batch
        return super().remember((past[0][rows], past[1][rows]), k, v)


@defect("cache-dtype", "cache.bfloat16", "TransformerLensOrg/TransformerLens #1260")
class CacheInFloat32(Parts):
    """The cache is float32 whatever the model's dtype, and attention refuses the mixture."""

    def remember(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        return torch.cat([past[0].float(), k], dim=2), torch.cat([past[1].float(), v], dim=2)


@defect("cache-in-half", "cache.splits")
class CacheInHalf(Parts):
    """Keys and values are kept in bfloat16 though the model is float32: cached logits drift."""

    def remember(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        return super().remember(
            (past[0].bfloat16().to(k.dtype), past[1].bfloat16().to(v.dtype)), k, v
        )


@defect("slide-past-block-size", "generation.window", "rasbt/LLMs-from-scratch #925")
class WindowSlides(Parts):
    """Past the context the oldest keys and values are dropped, and the others keep their old positions."""

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        n = self.config.n_positions
        if length(cache) < n:
            return super().next_logits(rows, cache)
        kept = [(k[:, :, 1:], v[:, :, 1:]) for k, v in cache]
        real = torch.ones(len(rows), n, dtype=torch.bool)
        logits, cache = self.forward(torch.tensor([row[-1:] for row in rows]), kept, real)
        return logits[:, -1], cache


@defect("kv-swapped-on-reorder", "generation.ragged", "huggingface/transformers #34232")
class KeysReorderedAlone(Parts):
    """Rows of a batch are sorted by length and put back, the keys and not the values: rows are mixed."""

    def remember(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        return super().remember((past[0], past[1].flip(0) if self.uneven else past[1]), k, v)

    uneven = False

    def padding(self, filled: Tensor, real: Tensor, cache: Cache) -> Tensor:
        self.uneven = not bool(real.all())
        return real


# Prompts of different lengths in one batch, filled up on the left.


@defect("pad-tokens-attended", "generation.ragged", "TransformerLensOrg/TransformerLens #1005")
class PaddingAttended(Parts):
    """What fills up a short row is never masked."""

    def mask(self, real: Tensor, past: int) -> Tensor:
        return super().mask(torch.ones_like(real), past)


@defect(
    "left-pad-positions",
    "generation.ragged",
    "huggingface/transformers #7552, #21080, #21853; keras-team/keras-hub #571",
)
class PaddingCounted(Parts):
    """What fills up a short row on the left shifts the positions of its real tokens."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return super().positions(torch.ones_like(real), past)


@defect("right-pad-last-column", "generation.ragged", "huggingface/transformers #10289")
class LastColumn(Parts):
    """Rows are filled up on the right, and the next token is read off the last column: after what fills up."""

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        longest = max(map(len, rows))
        return super().next_logits([[*row, *[50256] * (longest - len(row))] for row in rows], [])


@defect(
    "padding-with-cache",
    "generation.ragged",
    "huggingface/transformers #4130, #18104; mosaicml/examples #257",
)
class PaddingForgotten(Parts):
    """The mask of what fills up is dropped once there is a cache."""

    def mask(self, real: Tensor, past: int) -> Tensor:
        return super().mask(real if past == 0 else torch.ones_like(real), past)


@defect(
    "fully-masked-row-nan",
    "generation.ragged",
    "pytorch/pytorch #131060, #103749; tracel-ai/burn #4697",
)
class MaskedRowNaN(Parts):
    """Minus infinity hides everything from a position that only fills up: its softmax is NaN, which spreads."""

    def shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(~mask, float("-inf")).softmax(-1)


@defect(
    "mask-order-vs-head-fold", "generation.ragged", "lsdefine/attention-is-all-you-need-keras #36"
)
class MaskFoldedWrong(Parts):
    """Heads are folded into the batch in one order and masks repeated in another: rows have each other's masks."""

    def shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        batch, n_head = scores.shape[:2]
        mask = mask.expand(batch, n_head, *mask.shape[2:])
        return super().shares(scores, mask.transpose(0, 1).reshape(mask.shape))


@defect("pad-equals-eos", "generation.ragged-eos", "huggingface/transformers #17426, #8032")
class PaddingByToken(Parts):
    """Padding is told by comparing with its id, which is EOS's: a real EOS in a prompt is hidden too."""

    def padding(self, filled: Tensor, real: Tensor, cache: Cache) -> Tensor:
        return real & (filled != 50256) if not bool(real.all()) else real
