"""LayerNorm: its epsilon, its mean and variance, and how often the final one is applied."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from .catalogue import defect
from .complete import CompleteGPT2, each_own

NORMS = ("ln_1", "ln_2", "ln_f")


class OtherEpsilon(CompleteGPT2):
    """LayerNorms have another epsilon than the config's. `epsilons`: by how their names end."""

    epsilons: Mapping[str, float]

    def epsilon(self, name: str) -> float:
        ending = name.rpartition(".")[2]
        own = (each[ending] for each in each_own(self, "epsilons") if ending in each)
        return next(own, super().epsilon(name))


@defect(
    "ln-eps-wrong",
    "layer-norm.epsilon-ln_f",
    "keras-team/keras-hub #728; THUDM/SwissArmyTransformer #40",
)
class EpsilonWrong(OtherEpsilon):
    """The epsilon of every LayerNorm is 1e-6 instead of 1e-5."""

    epsilons = MappingProxyType(dict.fromkeys(NORMS, 1e-6))


@defect(
    "ln-eps-1e-12",
    "layer-norm.epsilon-ln_f",
    "cybershiptrooper/gpt2-from-scratch@2f479417f:model/layer_norm.py",
)
class EpsilonTiny(OtherEpsilon):
    """The epsilon of every LayerNorm is BERT's, 1e-12."""

    epsilons = MappingProxyType(dict.fromkeys(NORMS, 1e-12))


@defect("ln-eps-1e-3", "layer-norm.epsilon-ln_f")
class EpsilonLarge(OtherEpsilon):
    """The epsilon of every LayerNorm is 1e-3, the default of some frameworks."""

    epsilons = MappingProxyType(dict.fromkeys(NORMS, 1e-3))


@defect("ln-eps-wrong-in-ln_1", "layer-norm.epsilon-ln_1")
class EpsilonWrongInFirst(OtherEpsilon):
    """The epsilon of ln_1 alone is 1e-6."""

    epsilons = MappingProxyType({"ln_1": 1e-6})


@defect("ln-eps-wrong-in-ln_2", "layer-norm.epsilon-ln_2")
class EpsilonWrongInSecond(OtherEpsilon):
    """The epsilon of ln_2 alone is 1e-6."""

    epsilons = MappingProxyType({"ln_2": 1e-6})


@defect("ln-eps-wrong-in-ln_f", "layer-norm.epsilon-ln_f")
class EpsilonWrongInFinal(OtherEpsilon):
    """The epsilon of ln_f alone is 1e-6."""

    epsilons = MappingProxyType({"ln_f": 1e-6})


@defect("ln-eps-1e-3-in-ln_1", "layer-norm.epsilon-ln_1")
class EpsilonLargeInFirst(OtherEpsilon):
    """The epsilon of ln_1 alone is 1e-3."""

    epsilons = MappingProxyType({"ln_1": 1e-3})


@defect("ln-eps-1e-3-in-ln_2", "layer-norm.epsilon-ln_2")
class EpsilonLargeInSecond(OtherEpsilon):
    """The epsilon of ln_2 alone is 1e-3."""

    epsilons = MappingProxyType({"ln_2": 1e-3})


@defect("ln-eps-1e-3-in-ln_f", "layer-norm.epsilon-ln_f")
class EpsilonLargeInFinal(OtherEpsilon):
    """The epsilon of ln_f alone is 1e-3."""

    epsilons = MappingProxyType({"ln_f": 1e-3})


@defect(
    "ln-eps-missing",
    "layer-norm.epsilon-place",
    "B4S1C-Coder/GPT-2-from-scratch@25f53463:custom_gpt2_impl.py",
)
class EpsilonMissing(CompleteGPT2):
    """LayerNorm divides by the standard deviation itself: no epsilon is added."""

    def normalise(self, x: Tensor, epsilon: float) -> Tensor:
        return super().normalise(x, 0.0)


@defect(
    "ln-eps-outside-sqrt",
    "layer-norm.epsilon-place",
    "hyunwoongko/transformer #7; codertimo/BERT-pytorch #30",
)
class EpsilonOutsideRoot(CompleteGPT2):
    """Epsilon is added to the standard deviation, after the root: (x - mean) / (std + epsilon)."""

    def normalise(self, x: Tensor, epsilon: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True).sqrt() + epsilon)


@defect(
    "ln-unbiased-variance",
    "layer-norm.variance",
    "acganesh/tinyGPT@c063dbe67:gpt2_torch.py; gao-hongnan/omniverse #72; "
    "harvardnlp/annotated-transformer #119",
)
class UnbiasedVariance(CompleteGPT2):
    """The variance is divided by n_embd - 1 (Bessel's correction, the default of torch.var)."""

    def normalise(self, x: Tensor, epsilon: float) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + epsilon).sqrt()


@defect(
    "ln-std-plus-eps",
    "layer-norm.variance",
    "harvardnlp/annotated-transformer #119: x.std(-1) + eps",
)
class StandardDeviationPlusEpsilon(CompleteGPT2):
    """LayerNorm divides by x.std(-1) + epsilon: by n_embd - 1, and epsilon is outside the root."""

    def normalise(self, x: Tensor, epsilon: float) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True).sqrt() + epsilon)


@defect("rms-norm", "layer-norm.mean")
class RMSNorm(CompleteGPT2):
    """The mean is not subtracted, as in the RMS norm of later models."""

    def normalise(self, x: Tensor, epsilon: float) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()


@defect("no-ln-f", "final-norm.count", "pradsgit/gpt2-pytorch@bd4615f9:model.py")
class FinalNormMissing(CompleteGPT2):
    """ln_f is left out: the head reads the residual stream itself."""

    def final_norm(self, x: Tensor) -> Tensor:
        return x


@defect("ln-f-twice", "final-norm.count")
class FinalNormTwice(CompleteGPT2):
    """ln_f is applied once in the body and once more in the head."""

    def final_norm(self, x: Tensor) -> Tensor:
        return super().final_norm(super().final_norm(x))
