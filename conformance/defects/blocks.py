"""The blocks: the place of the norms, what a branch adds to, the order of the layers, the head."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..probes.gpt2 import Weights
from .catalogue import KNOWLEDGE, defect
from .complete import CompleteGPT2


@defect("post-ln", "blocks.norms", "karpathy/minGPT #33, #52; karpathy/ng-video-lecture #22")
class PostNorm(CompleteGPT2):
    """Each norm comes after its branch, on the sum, as in the original Transformer."""

    def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(x + self.attention(layer, x, mask), f"h.{layer}.ln_1")
        return self.norm(x + self.mlp(layer, x), f"h.{layer}.ln_2")


@defect("residual-from-normalised", "blocks.residual", "Howuhh/faster-trajectory-transformer #3")
class ResidualFromNormalised(CompleteGPT2):
    """The branch is added to what was normalised: h = ln(x); x = h + attention(h)."""

    def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm(x, f"h.{layer}.ln_1")
        normed = self.norm(normed + self.attention(layer, normed, mask), f"h.{layer}.ln_2")
        return normed + self.mlp(layer, normed)


@defect("residual-missing", "blocks.residual")
class ResidualMissing(CompleteGPT2):
    """The branches follow one another: there is no residual connection."""

    def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(layer, self.norm(x, f"h.{layer}.ln_1"), mask)
        return self.mlp(layer, self.norm(x, f"h.{layer}.ln_2"))


@defect("parallel-residual", "blocks.order")
class ParallelResidual(CompleteGPT2):
    """The MLP reads the block's input beside attention, as in GPT-J."""

    def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        attended = self.attention(layer, self.norm(x, f"h.{layer}.ln_1"), mask)
        return x + attended + self.mlp(layer, self.norm(x, f"h.{layer}.ln_2"))


class BranchesDivided(CompleteGPT2):
    """Each branch adds its output divided by the root of the depth, times a factor."""

    factor: int

    def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        root = math.sqrt(self.factor * self.config.n_layer)
        x = x + self.attention(layer, self.norm(x, f"h.{layer}.ln_1"), mask) / root
        return x + self.mlp(layer, self.norm(x, f"h.{layer}.ln_2")) / root


@defect(
    "branches-scaled",
    "blocks.branches",
    "what the paper says of the initial weights: openai/gpt-2 #334; Biohub/esm #338",
)
class BranchesScaled(BranchesDivided):
    """Each branch is divided by sqrt(2 n_layer) in the forward pass.

    The factor belongs to the initial weights, once.
    """

    factor = 2


@defect(
    "branches-scaled-by-n_layer",
    "blocks.branches",
    "what the paper says of the initial weights, read as openai/gpt-2 #334 reads it",
)
class BranchesScaledByLayers(BranchesDivided):
    """Each branch is divided by sqrt(n_layer) in the forward pass.

    The factor belongs to the initial weights, once.
    """

    factor = 1


@defect("ln1-ln2-swapped", "blocks.norms")
class NormsExchanged(CompleteGPT2):
    """ln_1 and ln_2 are exchanged in the table of names."""

    def norm(self, x: Tensor, name: str) -> Tensor:
        other = {"ln_1": "ln_2", "ln_2": "ln_1"}
        block, _, norm = name.rpartition(".")
        return super().norm(x, f"{block}.{other[norm]}" if norm in other else name)


@defect("n-inner-ignored", "blocks.n-inner")
class InnerWidthIgnored(CompleteGPT2):
    """The MLP is always built 4 n_embd wide, and what does not fit keeps its initial values."""

    def convert(self, tensors: Weights) -> Weights:
        weights = super().convert(tensors)
        generator = torch.Generator().manual_seed(0)
        if self.config.mlp_width != 4 * self.config.n_embd:
            for key, tensor in weights.items():
                if key.endswith(("mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight")):
                    initial = torch.empty(tensor.shape).normal_(0, 0.02, generator=generator)
                    weights[key] = initial.to(self.dtype)
        return weights


@defect(
    "layer-order-lexicographic",
    "blocks.layers",
    f"aramis-lab/clinica #542 (same cause elsewhere); {KNOWLEDGE}",
)
class LayersByName(CompleteGPT2):
    """Blocks are filled in the order of their names as text: h.0, h.1, h.10, h.11, h.2."""

    def layers(self) -> list[int]:
        return sorted(super().layers(), key=str)


@defect("layers-reversed", "blocks.layers")
class LayersReversed(CompleteGPT2):
    """The blocks run from the last to the first."""

    def layers(self) -> list[int]:
        return list(super().layers())[::-1]


@defect("last-layer-missing", "blocks.layers")
class LastLayerMissing(CompleteGPT2):
    """The loop over the blocks ends one too early."""

    def layers(self) -> range:
        return range(self.config.n_layer - 1)


@defect("first-layer-missing", "blocks.layers", f"counting layers from 1; {KNOWLEDGE}")
class FirstLayerMissing(CompleteGPT2):
    """The loop over the blocks begins one too late."""

    def layers(self) -> range:
        return range(1, self.config.n_layer)


@defect("first-layer-shared", "blocks.layers")
class FirstLayerShared(CompleteGPT2):
    """Every block is the same object, as in [Block()] * n_layer."""

    def layers(self) -> list[int]:
        return [0] * self.config.n_layer


@defect("logits-soft-capped", "head.raw", f"Gemma 2's soft cap, left on; {KNOWLEDGE}")
class LogitsCapped(CompleteGPT2):
    """Logits are capped softly: 30 tanh(logits / 30)."""

    def head(self, x: Tensor) -> Tensor:
        return 30 * torch.tanh(super().head(x) / 30)


@defect("logits-scaled", "head.raw", "transformers modeling_t5.py: tied, so times d_model ** -0.5")
class LogitsScaled(CompleteGPT2):
    """Logits are divided by the root of the width, as in T5, where the head is tied, too."""

    def head(self, x: Tensor) -> Tensor:
        return super().head(x) / math.sqrt(self.config.n_embd)


@defect("last-layer-shared", "blocks.layers")
class LastLayerShared(CompleteGPT2):
    """Every block is the last one, as where a loop's lambdas all see its last value."""

    def layers(self) -> list[int]:
        return [self.config.n_layer - 1] * self.config.n_layer


@defect("ln_1-for-both", "blocks.norms")
class FirstNormForBoth(CompleteGPT2):
    """A block has one norm, ln_1, and uses it before the MLP too."""

    def norm(self, x: Tensor, name: str) -> Tensor:
        return super().norm(x, name.replace("ln_2", "ln_1"))


@defect("ln_2-for-both", "blocks.norms")
class SecondNormForBoth(CompleteGPT2):
    """A block has one norm, given ln_1 and then ln_2: ln_2 is used before attention too."""

    def norm(self, x: Tensor, name: str) -> Tensor:
        return super().norm(x, name.replace("ln_1", "ln_2"))


@defect("attention-shared", "blocks.own-weights", f"a shallow copy of a block; {KNOWLEDGE}")
class AttentionShared(CompleteGPT2):
    """All blocks have the attention of the first: a copy of the block has the same object."""

    def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(0, self.norm(x, f"h.{layer}.ln_1"), mask)
        return x + self.mlp(layer, self.norm(x, f"h.{layer}.ln_2"))


@defect("mlp-shared", "blocks.own-weights", f"a shallow copy of a block; {KNOWLEDGE}")
class MLPShared(CompleteGPT2):
    """All blocks have the MLP of the first: a copy of the block has the same object."""

    def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(layer, self.norm(x, f"h.{layer}.ln_1"), mask)
        return x + self.mlp(0, self.norm(x, f"h.{layer}.ln_2"))


@defect("norms-shared", "blocks.own-weights", f"a shallow copy of a block; {KNOWLEDGE}")
class NormsShared(CompleteGPT2):
    """All blocks have the norms of the first: a copy of the block has the same objects."""

    def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(layer, self.norm(x, "h.0.ln_1"), mask)
        return x + self.mlp(layer, self.norm(x, "h.0.ln_2"))
