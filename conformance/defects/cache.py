"""The cache: positions, masks, and whose keys and values the earlier ones are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .catalogue import KNOWLEDGE, defect, equivalent
from .complete import Cache, CompleteGPT2, KeysValues, length


@defect("position-not-offset", "cache.splits", "ml-explore/mlx-lm #93; tinygrad/tinygrad #3061")
class PositionNotOffset(CompleteGPT2):
    """A cached step starts at position 0 again."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return super().positions(real[:, past:], 0)


@defect("offset-advances-wrong", "cache.splits", "skyzh/tiny-llm #46; huggingface/candle #1517")
class OffsetTwice(CompleteGPT2):
    """The offset grows by the prompt's length once too often: positions jump after it."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return (super().positions(real, past) + past) % self.config.n_positions


@defect("last-token-without-cache", "generation.greedy", "karpathy/llm.c@8919b66")
class LastTokenAlone(CompleteGPT2):
    """The loop feeds the newest token alone, to a model that keeps no cache."""

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        logits, _ = super().next_logits([row[-1:] for row in rows], [])
        return logits, cache


@defect(
    "sdpa-causal-top-left",
    "cache.splits",
    "pytorch/pytorch #103082, #108108; lucidrains/x-transformers #187; pytorch/executorch #21749",
)
class CausalTopLeft(CompleteGPT2):
    """is_causal=True starts the triangle at the first key where keys outnumber queries.

    A step of one token then sees key 0 alone.
    """

    def mask(self, real: Tensor, past: int) -> Tensor:
        return super().mask(real, 0)[:, :, : real.size(1) - past]


@defect("mask-none-when-cached", "cache.splits", "QwenLM/Qwen #979; mlx-node/mlx-node #24")
class NoMaskWhenCached(CompleteGPT2):
    """The mask is left out whenever there is a cache.

    Where several tokens are fed at once, they see each other's future.
    """

    def mask(self, real: Tensor, past: int) -> Tensor:
        mask = super().mask(real, past)
        return mask if past == 0 else real[:, None, None].expand_as(mask)


@defect(
    "mask-slice-rows-cols",
    "cache.splits",
    "rasbt/LLMs-from-scratch #1048, #697; meta-llama/llama #899",
)
class MaskSlicedWrong(CompleteGPT2):
    """The mask is the triangle's first [time, time] corner, with the past beside it as seen.

    These are the rows of other queries.
    """

    def mask(self, real: Tensor, past: int) -> Tensor:
        time = real.size(1) - past
        corner = super().mask(real[:, :time], 0)
        return torch.cat([corner, ~corner.new_zeros(*corner.shape[:-1], past)], dim=-1)


@defect(
    "cache-not-reset",
    "cache.second-prompt",
    "rasbt/LLMs-from-scratch #1048, #925; awslabs/keys_values #45",
)
class CacheNotReset(CompleteGPT2):
    """The cache lives on the model, and a second prompt of as many rows continues the first."""

    last_cache: Cache | None = None

    def prefill(self, token_ids: Tensor) -> tuple[Tensor, Cache]:
        kept = self.last_cache or []
        fits = kept and len(kept[0][0]) == len(token_ids)
        room = length(kept) + token_ids.size(1) <= self.config.n_positions
        return self.step(token_ids, kept if fits and room else [])

    def step(self, token_ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        logits, self.last_cache = super().step(token_ids, cache)
        return logits, self.last_cache

    def logits(self, token_ids: Tensor) -> Tensor:
        return super().step(token_ids, [])[0]


@defect(
    "cache-silently-unused",
    "cache.splits",
    "rasbt/LLMs-from-scratch #1048; huggingface/transformers #30108",
)
class CacheUnused(CompleteGPT2):
    """Each step makes a new cache and sees nothing of what came before; its position is right."""

    def extend(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        return super().extend((torch.zeros_like(past[0]), torch.zeros_like(past[1])), k, v)


@equivalent("cache-recomputed")
class CacheRecomputed(CompleteGPT2):
    """Every step feeds the whole sequence again, which is slow and right."""

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        return super().next_logits(rows, [])[0], cache


@defect("cache-aliased-branches", "cache.branches", "huggingface/transformers #30536, #32681")
class BranchesAliased(CompleteGPT2):
    """The cache is extended in place: a prefix's second continuation sees the first's tokens."""

    def step(self, token_ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        logits, cache[:] = super().step(token_ids, cache)
        return logits, cache


@defect("empty-cache-nan", "cache.splits", "tinygrad/tinygrad #15552")
class EmptyCache(CompleteGPT2):
    """A buffer from torch.empty holds a NaN: its weight is 0, and 0 times NaN is NaN."""

    def extend(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        k, v = super().extend(past, k, v)
        first_new = torch.arange(v.size(2), device=v.device)[:, None] == past[1].size(2)
        return k, v.masked_fill(first_new, torch.nan)


@defect(
    "batch-frozen-at-first-call",
    "cache.second-prompt",
    "tinygrad/tinygrad@a9069c177:examples/gpt2.py",
)
class BatchFrozen(CompleteGPT2):
    """The buffers have as many rows as the first call; a larger batch sees those rows in all."""

    batch: int | None = None

    def extend(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        self.batch = self.batch or len(k)
        rows = torch.arange(len(k), device=k.device) % self.batch
        return super().extend((past[0][rows], past[1][rows]), k, v)


@defect("cache-dtype", "cache.bfloat16", "TransformerLensOrg/TransformerLens #1260")
class CacheInFloat32(CompleteGPT2):
    """The cache is float32 whatever the model's dtype, and attention refuses the mixture."""

    def extend(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        return super().extend((past[0].float(), past[1].float()), k, v)


@defect("cache-in-half", "cache.splits")
class CacheInHalf(CompleteGPT2):
    """Keys and values are kept in bfloat16 in a float32 model, so cached logits drift."""

    def extend(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        return super().extend(
            (past[0].bfloat16().to(k.dtype), past[1].bfloat16().to(v.dtype)), k, v
        )


@defect("slide-past-block-size", "generation.window", "rasbt/LLMs-from-scratch #925")
class WindowSlides(CompleteGPT2):
    """Past the context the oldest keys and values are dropped.

    The others keep their old positions.
    """

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        n = self.config.n_positions
        if length(cache) < n:
            return super().next_logits(rows, cache)
        kept = [(k[:, :, 1:], v[:, :, 1:]) for k, v in cache]
        real = torch.ones(len(rows), n, dtype=torch.bool)
        logits, cache = self.feed(torch.tensor([row[-1:] for row in rows]), kept, real)
        return logits[:, -1], cache


@defect("cache-of-512", "cache.far-past", f"a cache with a size of its own; {KNOWLEDGE}")
class CacheOf512(CompleteGPT2):
    """The cache has room for 512 positions, and forgets the oldest."""

    cache_size = 512

    def extend(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        keys, values = super().extend(past, k, v)
        if keys.size(2) > self.cache_size:  # the positions are those of the whole text
            keys, values = keys.clone(), values.clone()
            keys[:, :, : -self.cache_size], values[:, :, : -self.cache_size] = 0.0, 0.0
        return keys, values


@defect("slot-700-lost", "cache.far-past", f"a slot of a cache that is written twice; {KNOWLEDGE}")
class SlotLost(CompleteGPT2):
    """A step loses the key and value of position 700, as they are overwritten."""

    lost_slot = 700

    def extend(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        keys, values = (each.clone() for each in super().extend(past, k, v))
        keys[:, :, self.lost_slot : self.lost_slot + 1] = 0.0
        values[:, :, self.lost_slot : self.lost_slot + 1] = 0.0
        return keys, values
