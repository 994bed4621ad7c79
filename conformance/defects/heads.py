"""The heads: their number, how c_attn is split into them, how they are put together."""

from __future__ import annotations

import torch
from torch import Tensor

from ..probes.gpt2 import Weights
from .catalogue import KNOWLEDGE, defect
from .complete import CompleteGPT2, changed


@defect("n-head-wrong", "attention.heads", "SKT-AI/KoGPT2 #20; rasbt/LLMs-from-scratch #444")
class HalfTheHeads(CompleteGPT2):
    """There are half as many heads as the config says, which no tensor's shape tells."""

    @property
    def n_head(self) -> int:
        return self.config.n_head // 2 if self.config.n_head % 2 == 0 else 1


@defect("n-head-twice", "attention.heads")
class TwiceTheHeads(CompleteGPT2):
    """There are twice as many heads as the config says."""

    @property
    def n_head(self) -> int:
        return 2 * self.config.n_head


@defect("n-head-one", "attention.heads")
class OneHead(CompleteGPT2):
    """There is a single head over the whole width."""

    @property
    def n_head(self) -> int:
        return 1


@defect(
    "heads-split-by-view", "attention.head-split", "reczoo/FuxiCTR #30; hyunwoongko/transformer #15"
)
class HeadsByView(CompleteGPT2):
    """A view splits the heads without a transpose, so tokens are mixed into them."""

    def heads(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), self.n_head, x.size(1), -1)


@defect("head-dims-interleaved", "attention.head-split")
class HeadsInterleaved(CompleteGPT2):
    """Channel c belongs to head c mod n_head instead of c div head width."""

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.n_head)).permute(0, 3, 1, 2)


@defect(
    "head-merge-by-view",
    "attention.head-merge",
    "jsbaan/transformer-from-scratch #6; hackiey/QAnet-pytorch #2",
)
class MergeByView(CompleteGPT2):
    """A view puts the heads together without the transpose back."""

    def merge(self, attended: Tensor) -> Tensor:
        return attended.reshape(len(attended), attended.size(2), -1)


@defect("head-merge-interleaved", "attention.head-merge")
class MergeInterleaved(CompleteGPT2):
    """The heads' channels are merged in turn, not head after head."""

    def merge(self, attended: Tensor) -> Tensor:
        return attended.permute(0, 2, 3, 1).flatten(2)


class Ordered(CompleteGPT2):
    """The thirds of c_attn are taken for something else than q, k, v."""

    order: str

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        named = dict(zip(self.order, super().split(qkv), strict=True))
        return named["q"], named["k"], named["v"]


@defect("qkv-order", "attention.qkv-order")
class KeysFirst(Ordered):
    """The fused projection is read as k, q, v: scores are transposed before the mask."""

    order = "kqv"


@defect("qkv-order-vkq", "attention.qkv-order")
class ValuesFirst(Ordered):
    """The fused projection is read as v, k, q."""

    order = "vkq"


@defect("qkv-order-qvk", "attention.qkv-order")
class ValuesSecond(Ordered):
    """The fused projection is read as q, v, k."""

    order = "qvk"


@defect("qkv-order-kvq", "attention.qkv-order")
class QueriesLast(Ordered):
    """The fused projection is read as k, v, q."""

    order = "kvq"


@defect("qkv-order-vqk", "attention.qkv-order")
class KeysLast(Ordered):
    """The fused projection is read as v, q, k."""

    order = "vqk"


@defect(
    "qkv-interleaved",
    "attention.qkv-layout",
    "tensorflow/swift-models #564; NVIDIA/TransformerEngine #413; Lightning-AI/litgpt #1013",
)
class Interleaved(CompleteGPT2):
    """The fused matrix is read as q, k, v of each head (Megatron's layout), not as three blocks."""

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            part.transpose(1, 2) for part in qkv.unflatten(-1, (self.n_head, 3, -1)).unbind(-2)
        )
        return q, k, v


@defect("qkv-read-as-shards", "attention.qkv-layout")
class ReadAsShards(CompleteGPT2):
    """The fused matrix is read as q, k, v of one half of the heads, then of the other."""

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (self.heads(part.flatten(2)) for part in qkv.unflatten(-1, (2, 3, -1)).unbind(-2))
        return q, k, v


@defect("qkv-shard-merge", "attention.qkv-layout", "microsoft/LMOps #106; TabbyML/tabby #107")
class ShardsMergedWhole(CompleteGPT2):
    """Two tensor-parallel shards, each with its part of q, k and v, are joined as they are."""

    def convert(self, tensors: Weights) -> Weights:
        def merged(third: Tensor) -> Tensor:
            # [..., q0 q1 k0 k1 v0 v1] -> [..., q0 k0 v0 q1 k1 v1]
            return third.unflatten(-1, (3, 2, -1)).transpose(-3, -2).flatten(-3)

        names = ("attn.c_attn.weight", "attn.c_attn.bias")
        return changed(super().convert(tensors), names, merged)


class OrderedInOneBlock(CompleteGPT2):
    """The thirds of c_attn of the first block are taken for something else than q, k, v."""

    order: tuple[int, int, int]  # where q, k and v are

    def linear(self, x: Tensor, name: str) -> Tensor:
        out = super().linear(x, name)
        if name != "h.0.attn.c_attn":
            return out
        thirds = out.chunk(3, dim=-1)
        return torch.cat([thirds[third] for third in self.order], dim=-1)


@defect("qkv-order-qvk-in-first-block", "attention.qkv-order")
class ValuesSecondInOneBlock(OrderedInOneBlock):
    """In the first block, keys and values are exchanged, and in no other."""

    order = (0, 2, 1)


@defect("qkv-order-kqv-in-first-block", "attention.qkv-order")
class KeysFirstInOneBlock(OrderedInOneBlock):
    """In the first block, queries and keys are exchanged, and in no other."""

    order = (1, 0, 2)


@defect("attn-proj-missing", "attention.head-merge", f"no c_proj after the heads; {KNOWLEDGE}")
class OutputProjectionMissing(CompleteGPT2):
    """The heads' outputs are added as they are: attn.c_proj is left out."""

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x if name.endswith("attn.c_proj") else super().linear(x, name)


@defect("queries-keys-normalised", "attention.scale", "karpathy/nanochat gpt.py: QK norm")
class QueriesKeysNormalised(CompleteGPT2):
    """Queries and keys have their root mean square divided out, as in newer models."""

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        return super().scores(self.root_mean_square_one(q), self.root_mean_square_one(k), layer)

    def root_mean_square_one(self, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


@defect("queries-keys-of-length-one", "attention.scale", f"cosine attention; {KNOWLEDGE}")
class QueriesKeysOfLengthOne(CompleteGPT2):
    """Queries and keys are divided by their length, and the scores are divided as before."""

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        return super().scores(self.of_length_one(q), self.of_length_one(k), layer)

    def of_length_one(self, x: Tensor) -> Tensor:
        return x / x.pow(2).sum(-1, keepdim=True).sqrt().clamp(min=1e-12)


@defect("rotary-positions", "attention.scale", "karpathy/nanochat gpt.py: rotary embeddings")
class RotaryHalves(CompleteGPT2):
    """Queries and keys are rotated by their positions: channel c with channel c + width / 2."""

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two channels of each pair, which are rotated together: [..., width // 2]."""
        half = x.size(-1) // 2
        return x[..., :half], x[..., half : 2 * half]

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        at = torch.arange(k.size(-2), device=k.device)
        return super().scores(self.rotated(q, at[-q.size(-2) :]), self.rotated(k, at), layer)

    def rotated(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate [..., time, width]. The order of the channels is the same in q and k."""
        first, second = self.pairs(x)
        n = second.size(-1)
        speed = 10_000 ** (-torch.arange(n, device=x.device, dtype=torch.float64) / n)
        angles = positions[:, None] * speed
        cos, sin = angles.cos().to(x), angles.sin().to(x)
        return torch.cat(
            [first * cos - second * sin, first * sin + second * cos, x[..., 2 * n :]], dim=-1
        )


@defect("rotary-positions-interleaved", "attention.scale", "transformers modeling_gptj.py")
class RotaryPairs(RotaryHalves):
    """Queries and keys are rotated by their positions: channel 2c with channel 2c + 1."""

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        even = x[..., : x.size(-1) // 2 * 2]
        return even[..., ::2], even[..., 1::2]
