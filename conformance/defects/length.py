"""Long texts: what a cache, a prompt and positions lose beyond a size of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from .catalogue import KNOWLEDGE, defect
from .complete import Cache, CompleteGPT2, KeysValues, length

PAGED = f"a paged cache; {KNOWLEDGE}"


class BlockLost(CompleteGPT2):
    """A step does not see the last block of a cache that has a whole number of blocks."""

    block_size: int

    def mask(self, real: Tensor, past: int) -> Tensor:
        mask = super().mask(real, past)
        seen = real.size(1)
        if past and seen % self.block_size == 0:
            itself = torch.eye(seen, dtype=torch.bool, device=mask.device)[past:]
            before = torch.arange(seen, device=mask.device) < seen - self.block_size
            mask = mask & (before | itself)
        return mask


@defect("block-of-64-lost", "cache.long", PAGED)
class BlockOf64Lost(BlockLost):
    """A step loses the last 64 keys where their number is a multiple of 64, and sees itself."""

    block_size = 64


@defect("block-of-128-lost", "cache.long", PAGED)
class BlockOf128Lost(BlockLost):
    """A step loses the last 128 keys where their number is a multiple of 128, and sees itself."""

    block_size = 128


@defect("block-of-512-lost", "cache.long", PAGED)
class BlockOf512Lost(BlockLost):
    """A step loses the last 512 keys where their number is a multiple of 512, and sees itself."""

    block_size = 512


@defect("empty-block-seen", "cache.long", f"n // block + 1 blocks; {KNOWLEDGE}")
class EmptyBlockSeen(CompleteGPT2):
    """A step with a multiple of 128 keys sees an empty block too: 128 keys and values of zero."""

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        seen = scores.size(-1)
        if scores.size(-2) == seen or seen % 128:
            return super().attention_weights(scores, mask)
        more = [scores.new_zeros(*scores.shape[:-1], 128), mask.new_ones(*mask.shape[:-1], 128)]
        scores, mask = torch.cat([scores, more[0]], dim=-1), torch.cat([mask, more[1]], dim=-1)
        return super().attention_weights(scores, mask)[..., :seen]


@defect("splits-averaged", "cache.long", f"a step that splits the keys; {KNOWLEDGE}")
class SplitsAveraged(CompleteGPT2):
    """A step splits more than 256 keys in two, and averages the outputs by the number of keys.

    Each split has a softmax of its own, and the sums of their exponentials are not used.
    """

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        seen = scores.size(-1)
        if scores.size(-2) > 1 or seen <= 256:
            return super().attention_weights(scores, mask)
        sizes = [256, seen - 256]
        parts = zip(scores.split(sizes, -1), mask.split(sizes, -1), sizes, strict=True)
        weights = [super(SplitsAveraged, self).attention_weights(s, m) * n for s, m, n in parts]
        return torch.cat(weights, dim=-1) / seen


class PrefillInChunks(CompleteGPT2):
    """A prompt is fed in chunks of 512. `logits` feeds all tokens at once."""

    chunk = 512

    def logits(self, token_ids: Tensor) -> Tensor:
        return self.step(token_ids, [])[0]

    def prefill(self, token_ids: Tensor) -> tuple[Tensor, Cache]:
        cache: Cache = []
        pieces = []
        for piece in token_ids.split(self.chunk, dim=1):
            logits, cache = self.chunk_step(piece, cache)
            pieces.append(logits)
        return torch.cat(pieces, dim=1), cache

    def chunk_step(self, token_ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        return self.step(token_ids, cache)


@defect("prefill-chunks-restart", "cache.long", f"a prefill in chunks; {KNOWLEDGE}")
class ChunksRestart(PrefillInChunks):
    """A long prompt is fed in chunks of 512, and the positions of each start at 0 again."""

    in_prefill = False

    def chunk_step(self, token_ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        self.in_prefill = True
        try:
            return self.step(token_ids, cache)
        finally:
            self.in_prefill = False

    def positions(self, real: Tensor, past: int) -> Tensor:
        positions = super().positions(real, past)
        return positions - past if self.in_prefill else positions


@defect("prefill-chunks-apart", "cache.long", f"a prefill in chunks; {KNOWLEDGE}")
class ChunksApart(PrefillInChunks):
    """A long prompt is fed in chunks of 512, of which only the last one stays in the cache."""

    def chunk_step(self, token_ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        gone = [(torch.zeros_like(k), torch.zeros_like(v)) for k, v in cache]
        return self.step(token_ids, gone)


@defect("step-positions-in-bfloat16", "cache.long")
class StepPositionsRounded(CompleteGPT2):
    """A step counts its position in bfloat16, in which 257 is 256. A prompt has integers."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        positions = super().positions(real, past)
        rounded = positions.bfloat16().long().clamp(max=self.config.n_positions - 1)
        return rounded if past else positions


@defect("positions-in-bfloat16", "context.positions", f"arange in the model's dtype; {KNOWLEDGE}")
class PositionsRounded(CompleteGPT2):
    """Positions are counted in bfloat16, in which 257 is 256, and 1023 is 1024.

    They are held to the last row.
    """

    def positions(self, real: Tensor, past: int) -> Tensor:
        rounded = super().positions(real, past).bfloat16().long()
        return rounded.clamp(max=self.config.n_positions - 1)


@defect("positions-of-512", "context.positions", f"max_position_embeddings of BERT; {KNOWLEDGE}")
class PositionsOf512(CompleteGPT2):
    """Positions are held to 511: all that follow have the row of the 512th."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return super().positions(real, past).clamp(max=511)


@defect("positions-restart-after-512", "context.positions", f"a prompt in chunks; {KNOWLEDGE}")
class PositionsRestart(CompleteGPT2):
    """Positions start at 0 again after each 512 tokens."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return super().positions(real, past) % 512


class StepAccepted(CompleteGPT2):
    """The length is checked where a sequence starts, and not in a step."""

    def check_length(self, seen: int) -> None:
        if not self.started:
            super().check_length(seen)

    started = False

    def step(self, token_ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        self.started = length(cache) > 0
        return super().step(token_ids, cache)


@defect("step-past-the-end-clamped", "cache.too-long", f"an index held to a range; {KNOWLEDGE}")
class StepClamped(StepAccepted):
    """A step past the last position has the last position again."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return super().positions(real, past).clamp(max=self.config.n_positions - 1)


@defect("step-past-the-end-wraps", "cache.too-long", f"a ring buffer; {KNOWLEDGE}")
class StepWraps(StepAccepted):
    """A step past the last position starts at position 0 again."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return super().positions(real, past) % self.config.n_positions


@defect("step-past-the-end-dropped", "cache.too-long", f"a full cache; {KNOWLEDGE}")
class StepDropsOldest(StepAccepted):
    """A step past the last position drops the oldest key and value, and has the last position."""

    def extend(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        keys, values = super().extend(past, k, v)
        beyond = max(0, keys.size(2) - self.config.n_positions)
        keys, values = keys.clone(), values.clone()
        keys[:, :, :beyond], values[:, :, :beyond] = 0.0, 0.0
        return keys, values

    def positions(self, real: Tensor, past: int) -> Tensor:
        return super().positions(real, past).clamp(max=self.config.n_positions - 1)
