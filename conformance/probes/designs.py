"""The probes' checkpoints: each is made so that one fact of the architecture decides its logits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from gpt2ref import GPT2Config

from ..checkpoints.tensors import Tensors, trained_like

# 12 layers, as h.10 sorts before h.2; 4 heads of width 6.
PROBE = GPT2Config(n_positions=16, n_embd=24, n_layer=12, n_head=4)
SEED = 20


@dataclass(frozen=True)
class Design:
    """A kind of checkpoint: what it has besides the embeddings and norms, which all have.

    `n_layer`: how many layers it uses, from the first; None for all of the shape's.
    `embedding_std`: the standard deviation of wte, with wpe zero; None for trained-like embeddings.
    `alike`: the value of every channel of every key and query, negative in the second layer's
    queries; None for trained-like ones. `vectors`: whether the blocks have biases, and norms with
    weights of their own.
    """

    name: str
    attention: bool = True
    mlp: bool = True
    n_layer: int | None = 2
    embedding_std: float | None = None
    n_inner: int | None = None
    alike: float | None = None
    vectors: bool = True

    def used(self, shape: GPT2Config) -> GPT2Config:
        """Return the shape cut to the layers that the design uses."""
        return replace(
            shape, n_layer=min(self.n_layer or shape.n_layer, shape.n_layer), n_inner=self.n_inner
        )

    def make(self, config: GPT2Config, seed: int = SEED) -> Tensors:
        """Return the tensors for a config that `used` returned."""
        tensors = trained_like(config, seed)
        for key, tensor in tensors.items():
            if (".attn." in key and not self.attention) or (".mlp." in key and not self.mlp):
                tensor.zero_()
            if not self.vectors and key.startswith("h.") and tensor.dim() == 1:
                tensor.fill_(1.0 if key.endswith("weight") else 0.0)
            if self.alike is not None and ".attn.c_attn." in key:
                tensor[..., : 2 * config.n_embd] = self.alike if key.endswith("bias") else 0.0
                tensor[..., : config.n_embd] *= -1.0 if key.startswith("h.1.") else 1.0
        if self.embedding_std is not None:
            tensors["wte.weight"] *= self.embedding_std / tensors["wte.weight"][1:].std()
            tensors["wpe.weight"].zero_()
        return tensors


EMBEDDING = Design("embedding alone", attention=False, mlp=False, n_layer=1)
ATTENTION = Design("attention alone", mlp=False)
MLP = Design("MLP alone", attention=False)
# Scores of 24^2 sqrt(head width), 1411 and more: float16 holds them, no dtype their exponential.
LARGE_SCORES = Design("attention with large scores, all alike", mlp=False, alike=24.0)
MATRICES_OF_ATTENTION = Design("attention without biases", mlp=False, vectors=False)
MATRICES_OF_MLP = Design("MLP without biases", attention=False, vectors=False)
ALL = Design("two whole blocks")
DEEP = Design("all layers", n_layer=None)
NARROW = Design("MLP of a width of its own", attention=False, n_inner=40)
SQUARE = Design("MLP as wide as the model", n_inner=PROBE.n_embd)
# A standard deviation at which LayerNorm's epsilon of 1e-5 is as large as the variance.
FAINT = math.sqrt(1e-5)
FAINT_LN_1 = Design("faint embedding, attention alone", mlp=False, n_layer=1, embedding_std=FAINT)
FAINT_LN_2 = Design("faint embedding, MLP alone", attention=False, n_layer=1, embedding_std=FAINT)
FAINT_LN_F = Design("faint embedding", attention=False, mlp=False, n_layer=1, embedding_std=FAINT)
DESIGNS = (
    *(EMBEDDING, ATTENTION, MLP, LARGE_SCORES, ALL, DEEP, NARROW, SQUARE),
    *(FAINT_LN_1, FAINT_LN_2, FAINT_LN_F),
)


class Probe(NamedTuple):
    """The checkpoint that shows a requirement's fact, and what GPT-2 has, in words."""

    design: Design
    expected: str


# Requirement -> its probe. The mistakes that it looks for are the requirement's defects.
FACT_PROBES: dict[str, Probe] = {
    "activation.curve": Probe(MLP, "tanh-GELU"),
    "layer-norm.variance": Probe(EMBEDDING, "the variance divided by n_embd"),
    "layer-norm.mean": Probe(EMBEDDING, "the mean subtracted"),
    "layer-norm.epsilon-place": Probe(FAINT_LN_F, "epsilon inside the root"),
    "blocks.norms": Probe(ALL, "ln_1 before attention and ln_2 before the MLP"),
    "blocks.residual": Probe(ALL, "the branches added to x"),
    "blocks.order": Probe(ALL, "the MLP after attention"),
    "blocks.branches": Probe(ALL, "the branches added as they are"),
    "blocks.layers": Probe(DEEP, "all layers, in their order"),
    "blocks.own-weights": Probe(DEEP, "weights of its own in each block"),
    "blocks.n-inner": Probe(NARROW, "the n_inner of its config"),
    "final-norm.count": Probe(EMBEDDING, "ln_f once"),
    "attention.scale": Probe(ATTENTION, "1/sqrt(head width)"),
    "attention.heads": Probe(ATTENTION, "n_head heads"),
    "attention.qkv-order": Probe(ATTENTION, "q, k, v"),
    "attention.qkv-layout": Probe(ATTENTION, "three thirds"),
    "attention.head-split": Probe(ATTENTION, "heads of neighbouring channels"),
    "attention.head-merge": Probe(ATTENTION, "heads side by side"),
    "attention.mask": Probe(ATTENTION, "a mask up to the position itself"),
    "attention.softmax": Probe(ATTENTION, "a softmax over the keys"),
    "embedding.positions": Probe(EMBEDDING, "positions 0, 1, 2, ..."),
    "embedding.tokens": Probe(EMBEDDING, "wte's rows as they are"),
    "vectors.c_attn-bias": Probe(ATTENTION, "attn.c_attn.bias in use"),
    "vectors.attn-c_proj-bias": Probe(ATTENTION, "attn.c_proj.bias in use"),
    "vectors.c_fc-bias": Probe(MLP, "mlp.c_fc.bias in use"),
    "vectors.mlp-c_proj-bias": Probe(MLP, "mlp.c_proj.bias in use"),
    "vectors.ln_1": Probe(ATTENTION, "ln_1.weight and ln_1.bias in use"),
    "vectors.ln_2": Probe(MLP, "ln_2.weight and ln_2.bias in use"),
    "vectors.ln_f": Probe(EMBEDDING, "ln_f.weight and ln_f.bias in use"),
    "transpose.square": Probe(SQUARE, "every matrix multiplying from the right"),
}


class ConstantProbe(NamedTuple):
    """The checkpoint that shows a constant, and the constant's name."""

    design: Design
    constant: str


# Requirement -> the constant that it reads.
CONSTANT_PROBES: dict[str, ConstantProbe] = {
    "layer-norm.epsilon-ln_1": ConstantProbe(FAINT_LN_1, "epsilon of ln_1"),
    "layer-norm.epsilon-ln_2": ConstantProbe(FAINT_LN_2, "epsilon of ln_2"),
    "layer-norm.epsilon-ln_f": ConstantProbe(FAINT_LN_F, "epsilon of ln_f"),
    "attention.scale": ConstantProbe(ATTENTION, "attention scale"),
}
