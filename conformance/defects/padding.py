"""Padding: short rows of a batch that are padded, and tokens that are taken for padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpt2ref import EOS

from .catalogue import defect
from .complete import Cache, CompleteGPT2, KeysValues, each_own


@defect("kv-swapped-on-reorder", "generation.ragged", "huggingface/transformers #34232")
class ValuesReordered(CompleteGPT2):
    """Rows are sorted by length and put back, the keys and not the values: rows are mixed."""

    uneven = False

    def extend(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        return super().extend((past[0], past[1].flip(0) if self.uneven else past[1]), k, v)

    def padding(self, padded: Tensor, real: Tensor, cache: Cache) -> Tensor:
        self.uneven = not bool(real.all())
        return real


class TokenHidden(CompleteGPT2):
    """A token is taken for padding wherever it is fed, and hidden from all others."""

    hidden_token: int

    def forward(self, token_ids: Tensor, real: Tensor) -> Tensor:
        self.fed_now = token_ids
        return super().forward(token_ids, real)

    def mask(self, real: Tensor, past: int) -> Tensor:
        hidden = torch.zeros_like(real)
        for token_id in each_own(self, "hidden_token"):
            hidden[:, past:] |= self.fed_now == token_id
        return super().mask(real, past) & ~hidden[:, None, None]


@defect(
    "token-0-hidden", "attention.mask", "huggingface/transformers #3167: pad_sequence pads with 0"
)
class FirstTokenHidden(TokenHidden):
    """The mask is made of token_ids != 0: token 0, an exclamation mark, is never attended to."""

    hidden_token = 0


@defect("eos-hidden", "laws.vocabulary-permutation", "QwenLM/Qwen #1080: padding with EOS")
class EosHidden(TokenHidden):
    """The mask is made of token_ids != EOS, as EOS is used for padding: no text sees it."""

    hidden_token = EOS


@defect("pad-tokens-attended", "generation.ragged", "TransformerLensOrg/TransformerLens #1005")
class PaddingAttended(CompleteGPT2):
    """Padding is never masked."""

    def mask(self, real: Tensor, past: int) -> Tensor:
        return super().mask(torch.ones_like(real), past)


@defect(
    "left-pad-positions",
    "generation.ragged",
    "huggingface/transformers #7552, #21080, #21853; keras-team/keras-hub #571",
)
class PaddingCounted(CompleteGPT2):
    """Padding on the left of a short row shifts the positions of its tokens."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return super().positions(torch.ones_like(real), past)


@defect("right-pad-last-column", "generation.ragged", "huggingface/transformers #10289")
class LastColumn(CompleteGPT2):
    """Rows are padded on the right, and the next token is read after the padding."""

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        longest = max(map(len, rows))
        return super().next_logits([[*row, *[EOS] * (longest - len(row))] for row in rows], [])


@defect(
    "padding-with-cache",
    "generation.ragged",
    "huggingface/transformers #4130, #18104; mosaicml/examples #257",
)
class PaddingForgotten(CompleteGPT2):
    """The padding's mask is dropped once there is a cache."""

    def mask(self, real: Tensor, past: int) -> Tensor:
        return super().mask(real if past == 0 else torch.ones_like(real), past)


@defect(
    "fully-masked-row-nan",
    "generation.ragged",
    "pytorch/pytorch #131060, #103749; tracel-ai/burn #4697",
)
class MaskedRowNaN(CompleteGPT2):
    """Minus infinity hides everything from a padded position: its softmax is NaN, which spreads."""

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(~mask, float("-inf")).softmax(-1)


@defect(
    "mask-order-vs-head-fold", "generation.ragged", "lsdefine/attention-is-all-you-need-keras #36"
)
class MaskFoldedWrong(CompleteGPT2):
    """Heads are folded into the batch in one order and masks repeated in another.

    Rows have each other's masks.
    """

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        batch, n_head = scores.shape[:2]
        mask = mask.expand(batch, n_head, *mask.shape[2:])
        return super().attention_weights(scores, mask.transpose(0, 1).reshape(mask.shape))


@defect("pad-equals-eos", "generation.ragged-eos", "huggingface/transformers #17426, #8032")
class PaddingByToken(CompleteGPT2):
    """Padding is found by its id, which is that of EOS: a real EOS in a prompt is hidden too."""

    def padding(self, padded: Tensor, real: Tensor, cache: Cache) -> Tensor:
        return real & (padded != EOS) if not bool(real.all()) else real
