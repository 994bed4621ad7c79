"""The embeddings: which row of wte and wpe is taken, and how it is scaled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..probes.gpt2 import Weights
from .catalogue import KNOWLEDGE, defect
from .complete import CompleteGPT2


@defect("wpe-missing", "embedding.positions", "ml-explore/mlx-lm #93")
class PositionsMissing(CompleteGPT2):
    """No position embedding is added, which large models hide better than small ones."""

    def embed_positions(self, positions: Tensor) -> Tensor:
        return torch.zeros_like(super().embed_positions(positions))


class Offset(CompleteGPT2):
    """Positions are counted from another number. The last ones wrap round."""

    offset: int

    def positions(self, real: Tensor, past: int) -> Tensor:
        return (super().positions(real, past) + self.offset) % self.config.n_positions


@defect("wpe-shifted", "embedding.positions")
class PositionsFromOne(Offset):
    """Positions are counted from 1. A table with a row more would hide it."""

    offset = 1


@defect("wpe-offset-2", "embedding.positions")
class PositionsFromTwo(Offset):
    """Positions are counted from 2, as in OPT."""

    offset = 2


@defect("wpe-row-0", "embedding.positions")
class PositionsZero(CompleteGPT2):
    """Every token has position 0."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return torch.zeros_like(super().positions(real, past))


@defect("wpe-scaled", "embedding.positions")
class PositionsScaled(CompleteGPT2):
    """Position embeddings are multiplied by sqrt(n_embd), like the original's token embeddings."""

    def embed_positions(self, positions: Tensor) -> Tensor:
        return super().embed_positions(positions) * math.sqrt(self.config.n_embd)


@defect("wpe-table-size", "context.too-long", "rasbt/LLMs-from-scratch@f26aa70")
class PositionTableTooLong(CompleteGPT2):
    """The position table is longer than the context, so a token too many is accepted."""

    def check_length(self, seen: int) -> None:
        super().check_length((seen + 1) // 2)

    def convert(self, tensors: Weights) -> Weights:
        weights = super().convert(tensors)
        rest = torch.zeros_like(weights["wpe.weight"])
        return weights | {"wpe.weight": torch.cat([weights["wpe.weight"], rest])}


@defect(
    "embedding-scaled",
    "embedding.tokens",
    "JaHeRoth/gpt2-from-scratch@7f1d7306d:utilities/models.py",
)
class EmbeddingScaled(CompleteGPT2):
    """Token embeddings are multiplied by sqrt(n_embd), as in the original Transformer."""

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        return super().embed_tokens(token_ids) * math.sqrt(self.config.n_embd)


@defect("embedding-normed", "blocks.residual", f"as BLOOM and BERT do; {KNOWLEDGE}")
class EmbeddingNormed(CompleteGPT2):
    """The sum of the embeddings is normalised before the first block."""

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        return self.normalise(super().embed(token_ids, positions), self.epsilon("embedding"))


@defect("wte-row-after", "embedding.tokens")
class RowAfter(CompleteGPT2):
    """Each token has the embedding of the next id, as where a row was put before the others."""

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        return super().embed_tokens((token_ids + 1) % self.config.vocab_size)


@defect("wte-row-before", "embedding.tokens")
class RowBefore(CompleteGPT2):
    """Each token has the embedding of the id before, as where ids are counted from 1."""

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        return super().embed_tokens((token_ids - 1) % self.config.vocab_size)


@defect("token-type-from-wte", "embedding.tokens", "transformers modeling_gpt2.py: token_type_ids")
class TokenTypeFromWte(CompleteGPT2):
    """A tokenizer's token types, all 0, are looked up in wte: each token gets row 0 added."""

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        return super().embed_tokens(token_ids) + self.weights["wte.weight"][0]


@defect(
    "token-type-1-from-wte", "embedding.tokens", "transformers modeling_gpt2.py: token_type_ids"
)
class SecondTokenTypeFromWte(CompleteGPT2):
    """Token types, all 1, are looked up in wte: each token gets row 1 added."""

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        return super().embed_tokens(token_ids) + self.weights["wte.weight"][1]


@defect(
    "padding-index-0",
    "embedding.tokens",
    "PaddlePaddle/Paddle #62301: Embedding(padding_idx=0) is zero whatever its weight",
)
class FirstRowZero(CompleteGPT2):
    """Token 0 is taken for padding, and its row of the embedding is zero."""

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        return super().embed_tokens(token_ids) * (token_ids != 0)[..., None]


@defect(
    "padding-row-zeroed", "embedding.tokens", "facebookresearch/fairseq #38; fastai/fastai #2517"
)
class PaddingRowZeroed(CompleteGPT2):
    """Token 0 is taken for padding: its row is zero in the embedding and so in the tied head."""

    def convert(self, tensors: Weights) -> Weights:
        weights = super().convert(tensors)
        rest = torch.arange(len(weights["wte.weight"])) != 0
        return weights | {"wte.weight": weights["wte.weight"] * rest[:, None]}


@defect("wpe-in-each-block", "blocks.residual", "facebookresearch/detr models/transformer.py")
class PositionsInEachBlock(CompleteGPT2):
    """The position embedding is added to the input of each block, and not of the first alone."""

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        self.positions_again = self.embed_positions(positions)
        return super().embed(token_ids, positions)

    def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        return super().block(layer, x + self.positions_again if layer else x, mask)


@defect("positions-from-wte", "embedding.positions")
class PositionsFromWte(CompleteGPT2):
    """Positions are looked up in wte, the only table that the lookup knows."""

    def embed_positions(self, positions: Tensor) -> Tensor:
        return self.weights["wte.weight"][positions]


@defect("positions-reversed", "embedding.positions", f"flip() for padding on the left; {KNOWLEDGE}")
class PositionsReversed(CompleteGPT2):
    """Positions are counted from the end: the last token has position 0."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return super().positions(real, 0).flip(-1)[:, past:]
