"""Biases, and the weights and biases of the norms: which of them are not used."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from ..probes.gpt2 import Weights
from .catalogue import KNOWLEDGE, defect, equivalent
from .complete import MATRICES, CompleteGPT2, changed, each_own


class NotLoaded(CompleteGPT2):
    """Vectors keep their initial values: one for a norm's weight, zero for a bias."""

    vectors: tuple[str, ...]

    def convert(self, tensors: Weights) -> Weights:
        weights = super().convert(tensors)
        for name in itertools.chain(*each_own(self, "vectors")):
            initial = torch.ones_like if name.endswith("weight") else torch.zeros_like
            weights = changed(weights, name, initial)
        return weights


@defect("biases-missing", "vectors.c_fc-bias")
class BiasesMissing(NotLoaded):
    """Every nn.Linear has bias=False, though the checkpoint has biases.

    At initialisation, when they are zero, this cannot be seen.
    """

    vectors = tuple(name.replace("weight", "bias") for name in MATRICES)


@defect("qkv-bias-missing", "vectors.c_attn-bias", "nabla0001/gpt-2@1eed2165:gpt.py")
class AttentionBiasMissing(NotLoaded):
    """The fused projection has no bias, as in later models."""

    vectors = ("attn.c_attn.bias",)


class PartOfBiasMissing(CompleteGPT2):
    """One third of c_attn.bias is lost. The weights are read back as they were given."""

    part: int  # 0: the queries' third, 1: the keys', 2: the values'
    given: Mapping[str, Tensor]

    def convert(self, tensors: Weights) -> Weights:
        def without(bias: Tensor) -> Tensor:
            thirds = list(bias.chunk(3))
            for part in each_own(self, "part"):
                thirds[part] = torch.zeros_like(thirds[part])
            return torch.cat(thirds)

        self.given = super().convert(tensors)
        return changed(self.given, "attn.c_attn.bias", without)

    def state_dict(self) -> Weights:
        return dict(self.given)


@defect("query-bias-missing", "vectors.c_attn-bias")
class QueryBiasMissing(PartOfBiasMissing):
    """The queries' third of c_attn.bias is not used."""

    part = 0


@equivalent("key-bias-missing")
class KeyBiasMissing(PartOfBiasMissing):
    """The keys' third of c_attn.bias is lost.

    It adds the same to all scores of a query, and the softmax takes it away.
    """

    part = 1


@defect("value-bias-missing", "vectors.c_attn-bias")
class ValueBiasMissing(PartOfBiasMissing):
    """The values' third of c_attn.bias is not used."""

    part = 2


@defect(
    "attn-proj-bias-missing",
    "vectors.attn-c_proj-bias",
    "jrajala6/gpt2-from-scratch@917123ef:model/gpt_model.py",
)
class AttentionOutputBiasMissing(NotLoaded):
    """Attention's output projection has no bias."""

    vectors = ("attn.c_proj.bias",)


@defect("c_fc-bias-missing", "vectors.c_fc-bias")
class MLPInputBiasMissing(NotLoaded):
    """The MLP's first projection has no bias."""

    vectors = ("mlp.c_fc.bias",)


@defect("mlp-proj-bias-missing", "vectors.mlp-c_proj-bias")
class MLPOutputBiasMissing(NotLoaded):
    """The MLP's output projection has no bias."""

    vectors = ("mlp.c_proj.bias",)


@defect("ln-affine-not-loaded", "vectors.ln_1", "0hq/WebGPT@87c703b; huggingface/candle@a7f03a7bb")
class FirstNormNotLoaded(NotLoaded):
    """ln_1's weight and bias are left at one and zero."""

    vectors = ("ln_1.weight", "ln_1.bias")


@defect("ln_1-weight-not-loaded", "vectors.ln_1")
class FirstWeightNotLoaded(NotLoaded):
    """ln_1's weight is left at one."""

    vectors = ("ln_1.weight",)


@defect("ln_1-bias-not-loaded", "vectors.ln_1")
class FirstBiasNotLoaded(NotLoaded):
    """ln_1's bias is left at zero."""

    vectors = ("ln_1.bias",)


@defect("ln_2-affine-not-loaded", "vectors.ln_2")
class SecondNormNotLoaded(NotLoaded):
    """ln_2's weight and bias are left at one and zero."""

    vectors = ("ln_2.weight", "ln_2.bias")


@defect("ln_2-weight-not-loaded", "vectors.ln_2")
class SecondWeightNotLoaded(NotLoaded):
    """ln_2's weight is left at one."""

    vectors = ("ln_2.weight",)


@defect("ln_2-bias-not-loaded", "vectors.ln_2")
class SecondBiasNotLoaded(NotLoaded):
    """ln_2's bias is left at zero."""

    vectors = ("ln_2.bias",)


@defect("ln_f-affine-not-loaded", "vectors.ln_f")
class FinalNormNotLoaded(NotLoaded):
    """ln_f's weight and bias are left at one and zero."""

    vectors = ("ln_f.weight", "ln_f.bias")


@defect("ln_f-weight-not-loaded", "vectors.ln_f")
class FinalWeightNotLoaded(NotLoaded):
    """ln_f's weight is left at one."""

    vectors = ("ln_f.weight",)


@defect("ln_f-bias-not-loaded", "vectors.ln_f")
class FinalBiasNotLoaded(NotLoaded):
    """ln_f's bias is left at zero."""

    vectors = ("ln_f.bias",)


@defect("ln-gain-scalar", "vectors.ln_1", "0hq/WebGPT@87c703b")
class ScalarGain(CompleteGPT2):
    """Each norm has one gain and one bias for all channels, those of the first channel."""

    def convert(self, tensors: Weights) -> Weights:
        norms = ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias", "ln_f.weight", "ln_f.bias")
        return changed(super().convert(tensors), norms, lambda t: t[:1].expand_as(t))


class GainsAndBiasesExchanged(CompleteGPT2):
    """A LayerNorm multiplies by its bias and adds its weight, as where two arguments change places.

    `exchanged`: how the names of the norms end that have the mistake.
    """

    exchanged: tuple[str, ...]

    def norm(self, x: Tensor, name: str) -> Tensor:
        if not any(map(name.endswith, each_own(self, "exchanged"))):
            return super().norm(x, name)
        normalised = self.normalise(x, self.epsilon(name))
        return normalised * self.weights[f"{name}.bias"] + self.weights[f"{name}.weight"]


@defect("ln-weight-bias-exchanged", "vectors.ln_f")
class AllExchanged(GainsAndBiasesExchanged):
    """Every LayerNorm multiplies by its bias and adds its weight."""

    exchanged = ("ln_1", "ln_2", "ln_f")


@defect("ln_1-weight-bias-exchanged", "vectors.ln_1")
class FirstExchanged(GainsAndBiasesExchanged):
    """ln_1 alone multiplies by its bias and adds its weight."""

    exchanged = ("ln_1",)


@defect("ln_2-weight-bias-exchanged", "vectors.ln_2")
class SecondExchanged(GainsAndBiasesExchanged):
    """ln_2 alone multiplies by its bias and adds its weight."""

    exchanged = ("ln_2",)


class GainPlusOne(CompleteGPT2):
    """A LayerNorm multiplies by 1 + weight. `raised` is as `exchanged` above."""

    raised: tuple[str, ...] = ("ln_1", "ln_2", "ln_f")

    def norm(self, x: Tensor, name: str) -> Tensor:
        normed = super().norm(x, name)
        if not name.endswith(self.raised):
            return normed
        return normed + self.normalise(x, self.epsilon(name))


@defect("ln-gain-plus-one", "vectors.ln_f", f"as Gemma's norms do; {KNOWLEDGE}")
class AllPlusOne(GainPlusOne):
    """Every LayerNorm multiplies by 1 + weight, where later models keep the weight less 1."""


@defect("ln-gain-plus-one-in-blocks", "vectors.ln_1", f"as Gemma's norms do; {KNOWLEDGE}")
class BlocksPlusOne(GainPlusOne):
    """ln_1 and ln_2 multiply by 1 + weight, and ln_f, which has code of its own, by its weight."""

    raised = ("ln_1", "ln_2")


class BiasRearranged(CompleteGPT2):
    """c_attn.bias is put in another order than its matrix."""

    def linear(self, x: Tensor, name: str) -> Tensor:
        out = super().linear(x, name)
        if not name.endswith("attn.c_attn"):
            return out
        bias = self.weights[f"{name}.bias"]
        return out - bias + self.rearranged(bias)

    def rearranged(self, bias: Tensor) -> Tensor:
        return bias


@defect("query-value-bias-exchanged", "vectors.c_attn-bias")
class QueryValueBiasExchanged(BiasRearranged):
    """Queries have the values' third of c_attn.bias, and values the queries' third."""

    def rearranged(self, bias: Tensor) -> Tensor:
        q, k, v = bias.chunk(3)
        return torch.cat([v, k, q])


@defect("query-key-bias-exchanged", "vectors.c_attn-bias")
class QueryKeyBiasExchanged(BiasRearranged):
    """Queries have the keys' third of c_attn.bias, and keys the queries' third."""

    def rearranged(self, bias: Tensor) -> Tensor:
        q, k, v = bias.chunk(3)
        return torch.cat([k, q, v])


@defect("qkv-bias-not-permuted", "vectors.c_attn-bias")
class BiasNotPermuted(BiasRearranged):
    """c_attn's matrix is brought into the layout of the code, and its bias is forgotten.

    The code wants q, k and v of each head, one head after the other.
    """

    def rearranged(self, bias: Tensor) -> Tensor:
        return bias.unflatten(0, (self.n_head, 3, -1)).transpose(0, 1).flatten()


@defect("proj-biases-exchanged", "vectors.mlp-c_proj-bias")
class OutputBiasesExchanged(CompleteGPT2):
    """attn.c_proj has the bias of mlp.c_proj, which is as long, and mlp.c_proj that of attn."""

    def linear(self, x: Tensor, name: str) -> Tensor:
        out = super().linear(x, name)
        block, _, part = name.partition(".attn." if ".attn." in name else ".mlp.")
        if part != "c_proj":
            return out
        attn, mlp = (self.weights[f"{block}.{each}.c_proj.bias"] for each in ("attn", "mlp"))
        return out - attn + mlp if ".attn." in name else out - mlp + attn


@defect("proj-bias-in-every-shard", "vectors.attn-c_proj-bias")
class BiasOfEveryShard(CompleteGPT2):
    """Each of two tensor-parallel shards adds the bias of c_proj, and the sum has it twice."""

    def linear(self, x: Tensor, name: str) -> Tensor:
        out = super().linear(x, name)
        return out + self.weights[f"{name}.bias"] if name.endswith("c_proj") else out
