"""The embedding and the head: tying them, and rows beyond the vocabulary; mask buffers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..probes.gpt2 import Weights
from .catalogue import defect
from .complete import Cache, CompleteGPT2


def freshly_initialised(like: Tensor, seed: int = 170_402_019) -> Tensor:
    """Return random numbers as GPT-2's training begins with: normal, with a std of 0.02.

    The seed is that of none of the suite's checkpoints.
    """
    return torch.empty_like(like).normal_(0, 0.02, generator=torch.Generator().manual_seed(seed))


class OwnHead(CompleteGPT2):
    """The head is a matrix of its own, not tied to the embedding."""

    own_head: Tensor

    def head(self, x: Tensor) -> Tensor:
        return x @ self.own_head[self.shown].t()


@defect(
    "lm-head-random",
    "keys.tied-head",
    "huggingface/transformers #38870, #30202; rasbt/LLMs-from-scratch #826",
)
class HeadRandom(OwnHead):
    """The head is a matrix of its own, and random where the file has no lm_head.weight."""

    def convert(self, tensors: Weights) -> Weights:
        weights = super().convert(tensors)
        random = freshly_initialised(weights["wte.weight"])
        self.own_head = tensors.get("lm_head.weight", random).to(self.dtype)
        return weights


@defect(
    "lm-head-stale-copy",
    "head.raw",
    "huggingface/transformers #35141, #45079; karpathy/nanoGPT #21",
)
class HeadStale(OwnHead):
    """The head is a copy of the embedding, made before the weights were loaded."""

    def convert(self, tensors: Weights) -> Weights:
        weights = super().convert(tensors)
        self.own_head = freshly_initialised(weights["wte.weight"], seed=14_022_019)
        return weights


@defect("tie-wrong-winner", "keys.differing-head", "huggingface/transformers #41038")
class HeadOverEmbedding(CompleteGPT2):
    """Tying puts an lm_head that is unlike wte in the embedding's place too."""

    def convert(self, tensors: Weights) -> Weights:
        prefix = "transformer." if "transformer.wte.weight" in tensors else ""
        head = tensors.get("lm_head.weight", tensors.get(f"{prefix}wte.weight"))
        if head is not None:
            tensors = tensors | {f"{prefix}wte.weight": head, "lm_head.weight": head}
        return super().convert(tensors)


@defect(
    "mask-buffer-as-bias",
    "keys.mask-buffers",
    "mlfoundations/task_vectors #2; ml-explore/mlx-examples #798",
)
class MaskTakenForBias(CompleteGPT2):
    """h.i.attn.bias, the causal mask of older files, is taken for the bias of c_attn."""

    def convert(self, tensors: Weights) -> Weights:
        weights = super().convert(tensors)
        for key, tensor in tensors.items():
            if key.endswith(".attn.bias"):
                name = key.removeprefix("transformer.").replace(".attn.bias", ".attn.c_attn.bias")
                bias = weights[name]
                weights[name] = tensor.flatten()[: len(bias)].to(bias.dtype)
        return weights


class Padded(CompleteGPT2):
    """The vocabulary is padded to a multiple of 64, and the sampler is given all logits."""

    std: float
    sampling = False

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        self.sampling = True
        try:
            return super().next_logits(rows, cache)
        finally:
            self.sampling = False

    def head(self, x: Tensor) -> Tensor:
        logits = super().head(x)
        return torch.cat([logits, x @ self.more_rows().t()], dim=-1) if self.sampling else logits

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        return torch.cat([self.weights["wte.weight"], self.more_rows()])[token_ids]

    def more_rows(self) -> Tensor:
        wte = self.weights["wte.weight"]
        generator = torch.Generator().manual_seed(14_022_019)
        return torch.empty(47, wte.size(1)).normal_(0, self.std, generator=generator).to(wte)


@defect(
    "padded-vocab-leaks",
    "sampling.distribution",
    "tenstorrent/tt-metal #17195; karpathy/build-nanogpt #80, #81",
)
class PaddedVocabulary(Padded):
    """The rows 50257 to 50303 of a padded head, all zero, take part in sampling."""

    std = 0.0


@defect("resize-new-rows", "sampling.distribution", "huggingface/transformers #8039")
class ResizedVocabulary(Padded):
    """The vocabulary has new rows, unlike the trained ones, which take part in sampling."""

    std = 1.0
