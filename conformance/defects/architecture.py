"""The blocks around attention: activation, LayerNorm, residual stream, embeddings."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2ref import GPT2Config

from .catalogue import KNOWLEDGE, defect
from .parts import KeysValues, Parts, Weights


@defect(
    "gelu-erf",
    "activation.curve",
    "karpathy/nanoGPT #274; huggingface/candle #900; huggingface/transformers #40053",
)
class GeluErf(Parts):
    """Exact (erf) GELU instead of the tanh form that the weights were trained with."""

    def activation(self, x: Tensor) -> Tensor:
        return F.gelu(x)


@defect("gelu-sigmoid", "activation.curve")
class GeluSigmoid(Parts):
    """x sigmoid(1.702 x), the quick approximation of GELU."""

    def activation(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


@defect("gelu-constant-typo", "activation.curve")
class GeluConstantTypo(Parts):
    """0.44715 for 0.044715."""

    def activation(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.44715 * x**3)))


@defect("gelu-square", "activation.curve")
class GeluSquare(Parts):
    """x squared for x cubed."""

    def activation(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**2)))


@defect("relu", "activation.curve")
class ReLU(Parts):
    """ReLU, as in the original Transformer."""

    def activation(self, x: Tensor) -> Tensor:
        return F.relu(x)


@defect("silu", "activation.curve", "affjljoo3581/GPT2 #5")
class SiLU(Parts):
    """SiLU (Swish), as in later models."""

    def activation(self, x: Tensor) -> Tensor:
        return F.silu(x)


@defect("activation-missing", "activation.curve")
class ActivationMissing(Parts):
    """No activation between the two matrices of the MLP."""

    def activation(self, x: Tensor) -> Tensor:
        return x


class WithEpsilon(Parts):
    """LayerNorm with an epsilon of its own, in the norms whose name ends so."""

    epsilon: float
    where: tuple[str, ...] = ("ln_1", "ln_2", "ln_f")

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        epsilon = self.epsilon if name.endswith(self.where) else self.config.layer_norm_epsilon
        return F.layer_norm(x, weight.shape, weight, bias, epsilon)


@defect(
    "ln-eps-wrong",
    "layer-norm.epsilon-ln_f",
    "keras-team/keras-hub #728; THUDM/SwissArmyTransformer #40",
)
class EpsilonWrong(WithEpsilon):
    """LayerNorm's epsilon 1e-6 instead of 1e-5."""

    epsilon = 1e-6


@defect(
    "ln-eps-1e-12",
    "layer-norm.epsilon-ln_f",
    "cybershiptrooper/gpt2-from-scratch@2f479417f:model/layer_norm.py",
)
class EpsilonTiny(WithEpsilon):
    """BERT's epsilon, 1e-12."""

    epsilon = 1e-12


@defect("ln-eps-1e-3", "layer-norm.epsilon-ln_f")
class EpsilonLarge(WithEpsilon):
    """An epsilon of 1e-3, the default of some frameworks."""

    epsilon = 1e-3


@defect("ln-eps-wrong-in-ln_1", "layer-norm.epsilon-ln_1")
class EpsilonWrongInFirst(WithEpsilon):
    """Epsilon 1e-6 in ln_1 alone."""

    epsilon, where = 1e-6, ("ln_1",)


@defect("ln-eps-wrong-in-ln_2", "layer-norm.epsilon-ln_2")
class EpsilonWrongInSecond(WithEpsilon):
    """Epsilon 1e-6 in ln_2 alone."""

    epsilon, where = 1e-6, ("ln_2",)


@defect("ln-eps-wrong-in-ln_f", "layer-norm.epsilon-ln_f")
class EpsilonWrongInFinal(WithEpsilon):
    """Epsilon 1e-6 in ln_f alone."""

    epsilon, where = 1e-6, ("ln_f",)


class OwnNorm(Parts):
    """LayerNorm written out."""

    def norm(self, x: Tensor, name: str) -> Tensor:
        return (
            self.normalised(x, x.mean(-1, keepdim=True)) * self.weights[f"{name}.weight"]
            + self.weights[f"{name}.bias"]
        )

    def normalised(self, x: Tensor, mean: Tensor) -> Tensor:
        raise NotImplementedError


@defect(
    "ln-eps-outside-sqrt",
    "layer-norm.epsilon-place",
    "hyunwoongko/transformer #7; codertimo/BERT-pytorch #30",
)
class EpsilonOutsideRoot(OwnNorm):
    """(x - mean) / (std + epsilon): epsilon added after the root."""

    def normalised(self, x: Tensor, mean: Tensor) -> Tensor:
        return (x - mean) / (
            x.var(-1, keepdim=True, correction=0).sqrt() + self.config.layer_norm_epsilon
        )


@defect(
    "ln-unbiased-variance",
    "layer-norm.variance",
    "acganesh/tinyGPT@c063dbe67:gpt2_torch.py; gao-hongnan/omniverse #72; harvardnlp/annotated-transformer #119",
)
class UnbiasedVariance(OwnNorm):
    """var() with Bessel's correction, which is torch's default."""

    def normalised(self, x: Tensor, mean: Tensor) -> Tensor:
        return (x - mean) * (x.var(-1, keepdim=True) + self.config.layer_norm_epsilon).rsqrt()


@defect("rms-norm", "layer-norm.mean")
class RMSNorm(OwnNorm):
    """The mean is not subtracted, as in later models."""

    def normalised(self, x: Tensor, mean: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.config.layer_norm_epsilon).rsqrt()


@defect("post-ln", "blocks.norms", "karpathy/minGPT #33, #52; karpathy/ng-video-lecture #22")
class PostNorm(Parts):
    """The norm after the sum, as in the original Transformer."""

    def block(
        self, layer: int, x: Tensor, mask: Tensor, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        attended, keys_values = self.attention(layer, x, mask, past)
        x = self.norm(x + attended, f"h.{layer}.ln_1")
        return self.norm(x + self.mlp(layer, x), f"h.{layer}.ln_2"), keys_values


@defect("residual-from-normalised", "blocks.residual", "Howuhh/faster-trajectory-transformer #3")
class ResidualFromNormalised(Parts):
    """h = ln(x); x = h + attention(h): the branch is added to what was normalised."""

    def block(
        self, layer: int, x: Tensor, mask: Tensor, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        normed = self.norm(x, f"h.{layer}.ln_1")
        attended, keys_values = self.attention(layer, normed, mask, past)
        normed = self.norm(normed + attended, f"h.{layer}.ln_2")
        return normed + self.mlp(layer, normed), keys_values


@defect("residual-missing", "blocks.residual")
class ResidualMissing(Parts):
    """The branches follow one another, and nothing goes past them."""

    def block(
        self, layer: int, x: Tensor, mask: Tensor, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        x, keys_values = self.attention(layer, self.norm(x, f"h.{layer}.ln_1"), mask, past)
        return self.mlp(layer, self.norm(x, f"h.{layer}.ln_2")), keys_values


@defect("parallel-residual", "blocks.order")
class ParallelResidual(Parts):
    """The MLP reads the block's input beside attention, as in GPT-J."""

    def block(
        self, layer: int, x: Tensor, mask: Tensor, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        attended, keys_values = self.attention(layer, self.norm(x, f"h.{layer}.ln_1"), mask, past)
        return x + attended + self.mlp(layer, self.norm(x, f"h.{layer}.ln_2")), keys_values


@defect(
    "branches-scaled",
    "blocks.branches",
    "what the paper says of the initial weights: openai/gpt-2 #334; Biohub/esm #338",
)
class BranchesScaled(Parts):
    """Each branch is divided by sqrt(2 n_layer) in the forward pass, and not the initial weights, once."""

    def linear(self, x: Tensor, name: str) -> Tensor:
        added = super().linear(x, name)
        return added / math.sqrt(2 * self.config.n_layer) if name.endswith(".c_proj") else added


@defect("no-ln-f", "final-norm.count")
class FinalNormMissing(Parts):
    """The head reads the residual stream itself."""

    def final_norm(self, x: Tensor) -> Tensor:
        return x


@defect("ln-f-twice", "final-norm.count")
class FinalNormTwice(Parts):
    """ln_f once in the body and once more in the head."""

    def final_norm(self, x: Tensor) -> Tensor:
        return super().final_norm(super().final_norm(x))


@defect("logits-soft-capped", "head.raw", f"Gemma 2's soft cap, left on; {KNOWLEDGE}")
class LogitsCapped(Parts):
    """30 tanh(logits / 30)."""

    def head(self, x: Tensor) -> Tensor:
        return 30 * torch.tanh(super().head(x) / 30)


@defect("wpe-missing", "embedding.positions", "ml-explore/mlx-lm #93")
class PositionsMissing(Parts):
    """No position embedding is added; large models hide it better than small ones."""

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        return self.weights["wte.weight"][token_ids]


@defect("wpe-shifted", "embedding.positions")
class PositionsFromOne(Parts):
    """Positions counted from 1 (the last one wraps round, which a larger table would hide)."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return (super().positions(real, past) + 1) % self.config.n_positions


@defect("wpe-offset-2", "embedding.positions")
class PositionsFromTwo(Parts):
    """OPT's offset of 2."""

    def positions(self, real: Tensor, past: int) -> Tensor:
        return (super().positions(real, past) + 2) % self.config.n_positions


@defect("wpe-table-size", "context.too-long", "rasbt/LLMs-from-scratch@f26aa70")
class PositionTableTooLong(Parts):
    """A position table longer than the context, so that a token too many is accepted without a word."""

    def forward(self, token_ids: Tensor, cache: Any, real: Tensor) -> Any:
        given, self.config = (
            self.config,
            GPT2Config(**vars(self.config) | {"n_positions": 2 * self.config.n_positions}),
        )
        try:
            return super().forward(token_ids, cache, real)
        finally:
            self.config = given

    def load(self, tensors: Weights) -> Weights:
        weights = super().load(tensors)
        rest = torch.zeros_like(weights["wpe.weight"])
        return weights | {"wpe.weight": torch.cat([weights["wpe.weight"], rest])}


@defect(
    "embedding-scaled",
    "embedding.tokens",
    "JaHeRoth/gpt2-from-scratch@7f1d7306d:utilities/models.py",
)
class EmbeddingScaled(Parts):
    """Token embeddings multiplied by sqrt(n_embd), as in the original Transformer."""

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        tokens = self.weights["wte.weight"][token_ids] * math.sqrt(self.config.n_embd)
        return tokens + self.weights["wpe.weight"][positions]


@defect("n-inner-ignored", "blocks.n-inner")
class InnerWidthIgnored(Parts):
    """The MLP is always built 4 n_embd wide, and what does not fit stays as it was initialised."""

    def load(self, tensors: Weights) -> Weights:
        weights = super().load(tensors)
        generator = torch.Generator().manual_seed(0)
        if self.config.mlp_width != 4 * self.config.n_embd:
            for key, tensor in weights.items():
                if key.endswith(("mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight")):
                    weights[key] = torch.empty_like(tensor).normal_(0, 0.02, generator=generator)
        return weights


@defect(
    "config-scale-option-ignored",
    "config.attention-scaling",
    "huggingface/transformers #44380, #44397; mlc-ai/mlc-llm #1389",
)
class ScaleOptionIgnored(Parts):
    """scale_attn_by_inverse_layer_idx in the config is read past: 1/sqrt(head width) is hard-coded."""

    def configure(self, fields: dict[str, Any]) -> GPT2Config:
        return super().configure(fields | {"scale_attn_by_inverse_layer_idx": False})


@defect(
    "scale-kwarg-dropped",
    "config.attention-scaling",
    "huggingface/pytorch-image-models #2280; huggingface/transformers #44380",
)
class ScaleArgumentDropped(Parts):
    """scale_attn_weights=False in the config reaches the manual path alone; the fused one has its default scale."""

    def configure(self, fields: dict[str, Any]) -> GPT2Config:
        return super().configure(fields | {"scale_attn_weights": True})


@defect(
    "layer-order-lexicographic",
    "blocks.layers",
    f"aramis-lab/clinica #542 (same cause elsewhere); {KNOWLEDGE}",
)
class LayersByName(Parts):
    """Blocks filled in the order of their names as text: h.0, h.1, h.10, h.11, h.2."""

    def layers(self) -> list[int]:
        return sorted(super().layers(), key=str)


@defect("last-layer-missing", "blocks.layers")
class LastLayerMissing(Parts):
    """A loop that ends one layer early."""

    def layers(self) -> range:
        return range(max(1, self.config.n_layer - 1))


@defect("first-layer-shared", "blocks.layers")
class FirstLayerShared(Parts):
    """Every block is the same object, as in [Block()] * n_layer."""

    def layers(self) -> list[int]:
        return [0] * self.config.n_layer
