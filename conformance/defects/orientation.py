"""The orientation of the four matrices of a block."""

from __future__ import annotations

from torch import Tensor

from ..probes.gpt2 import Weights
from .catalogue import defect
from .complete import MATRICES, CompleteGPT2, changed, each_own


def transposed_if_square(w: Tensor) -> Tensor:
    return w.t() if w.size(0) == w.size(1) else w


@defect(
    "square-proj-untransposed",
    "transpose.attn.c_proj",
    "huggingface/peft #3531, #3532; nntile/nntile #370",
)
class SquareUntransposed(CompleteGPT2):
    """attn.c_proj, which is square, is not among the matrices to transpose: every shape fits."""

    def convert(self, tensors: Weights) -> Weights:
        return changed(super().convert(tensors), "attn.c_proj.weight", lambda w: w.t())


@defect(
    "conv1d-untransposed-all", "transpose.square", "AutoGPTQ/AutoGPTQ #139; predibase/lorax #106"
)
class TransposedByShape(CompleteGPT2):
    """A matrix is transposed where its shape does not fit: with n_inner = n_embd only c_attn is."""

    def convert(self, tensors: Weights) -> Weights:
        return changed(super().convert(tensors), MATRICES, transposed_if_square)


@defect("double-transpose", "transpose.square", "karpathy/nanoGPT #190")
class TransposedTwice(CompleteGPT2):
    """The MLP's matrices are transposed in the conversion and in the loader: squares fit still."""

    def convert(self, tensors: Weights) -> Weights:
        mlp = ("mlp.c_fc.weight", "mlp.c_proj.weight")
        return changed(super().convert(tensors), mlp, transposed_if_square)


class Reshaped(CompleteGPT2):
    """A matrix [in, out] is given nn.Linear's shape by a reshape."""

    matrices: tuple[str, ...]

    def convert(self, tensors: Weights) -> Weights:
        matrices = tuple({name for names in each_own(self, "matrices") for name in names})
        return changed(super().convert(tensors), matrices, lambda w: w.reshape(w.shape[::-1]).t())


@defect("reshape-for-transpose", "transpose.attn.c_attn")
class AllReshaped(Reshaped):
    """Every matrix is reshaped to [out, in] instead of transposed: the shapes are right."""

    matrices = MATRICES


@defect("reshape-for-transpose-c_attn", "transpose.attn.c_attn")
class AttentionReshaped(Reshaped):
    """attn.c_attn alone is reshaped to [out, in] instead of transposed."""

    matrices = ("attn.c_attn.weight",)


@defect("reshape-for-transpose-c_fc", "transpose.mlp.c_fc")
class FirstOfMLPReshaped(Reshaped):
    """mlp.c_fc alone is reshaped to [out, in] instead of transposed."""

    matrices = ("mlp.c_fc.weight",)


@defect("reshape-for-transpose-c_proj", "transpose.mlp.c_proj")
class SecondOfMLPReshaped(Reshaped):
    """mlp.c_proj alone is reshaped to [out, in] instead of transposed."""

    matrices = ("mlp.c_proj.weight",)
