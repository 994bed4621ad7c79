"""Biases, and the weights and biases of the norms: which of them are not used."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..probes.gpt2 import Weights
from .catalogue import defect, equivalent
from .complete import MATRICES, CompleteGPT2, changed


class NotLoaded(CompleteGPT2):
    """Vectors keep their initial values: one for a norm's weight, zero for a bias."""

    vectors: tuple[str, ...]

    def convert(self, tensors: Weights) -> Weights:
        weights = super().convert(tensors)
        for name in self.vectors:
            initial = torch.ones_like if name.endswith("weight") else torch.zeros_like
            weights = changed(weights, name, initial)
        return weights


@defect("biases-missing", "vectors.c_fc-bias")
class BiasesMissing(NotLoaded):
    """Every nn.Linear has bias=False, though the checkpoint has biases.

    At initialisation, when they are zero, this cannot be seen.
    """

    vectors = tuple(name.replace("weight", "bias") for name in MATRICES)


@defect("qkv-bias-missing", "vectors.c_attn-bias")
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
            thirds[self.part] = torch.zeros_like(thirds[self.part])
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


@defect("attn-proj-bias-missing", "vectors.attn-c_proj-bias")
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
