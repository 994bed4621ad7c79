"""Converting the weights: orientation, order, names, the tied head."""

from __future__ import annotations

import torch
from torch import Tensor

from .catalogue import defect, equivalent
from .parts import MATRICES, Parts, Weights, changed


def freshly_initialised(like: Tensor, seed: int = 170_402_019) -> Tensor:
    """As a GPT-2 begins its training: normal, with a standard deviation of 0.02. The seed is no checkpoint's."""
    return torch.empty_like(like).normal_(0, 0.02, generator=torch.Generator().manual_seed(seed))


@defect(
    "square-proj-untransposed",
    "transpose.attn.c_proj",
    "huggingface/peft #3531, #3532; nntile/nntile #370",
)
class SquareUntransposed(Parts):
    """attn.c_proj, which is square, is left out of the list of matrices to transpose: every shape fits."""

    def load(self, tensors: Weights) -> Weights:
        return changed(super().load(tensors), "attn.c_proj.weight", lambda w: w.t())


@defect(
    "conv1d-untransposed-all", "transpose.square", "AutoGPTQ/AutoGPTQ #139; predibase/lorax #106"
)
class TransposedByShape(Parts):
    """A matrix is transposed where its shape does not fit: with n_inner = n_embd, only c_attn is."""

    def load(self, tensors: Weights) -> Weights:
        return changed(
            super().load(tensors), MATRICES, lambda w: w.t() if w.size(0) == w.size(1) else w
        )


@defect("double-transpose", "transpose.square", "karpathy/nanoGPT #190")
class TransposedTwice(Parts):
    """The MLP's matrices transposed once in the conversion and once more in the loader, which only squares survive."""

    def load(self, tensors: Weights) -> Weights:
        mlp = ("mlp.c_fc.weight", "mlp.c_proj.weight")
        return changed(super().load(tensors), mlp, lambda w: w.t() if w.size(0) == w.size(1) else w)


class Reshaped(Parts):
    """A matrix [in, out] given nn.Linear's shape by a reshape."""

    matrices: tuple[str, ...] = MATRICES

    def load(self, tensors: Weights) -> Weights:
        return changed(super().load(tensors), self.matrices, lambda w: w.t().reshape(w.shape))


@defect("reshape-for-transpose", "transpose.attn.c_attn")
class AllReshaped(Reshaped):
    """reshape(out, in) where a transpose was meant: right shapes for every matrix, and garbage in them."""


@defect("reshape-for-transpose-c_fc", "transpose.mlp.c_fc")
class FirstOfMLPReshaped(Reshaped):
    """The same for mlp.c_fc alone."""

    matrices = ("mlp.c_fc.weight",)


@defect("reshape-for-transpose-c_proj", "transpose.mlp.c_proj")
class SecondOfMLPReshaped(Reshaped):
    """The same for mlp.c_proj alone."""

    matrices = ("mlp.c_proj.weight",)


class Ordered(Parts):
    """c_attn's thirds taken for something else than q, k, v."""

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


@defect(
    "qkv-interleaved",
    "attention.qkv-layout",
    "tensorflow/swift-models #564; NVIDIA/TransformerEngine #413; Lightning-AI/litgpt #1013",
)
class Interleaved(Parts):
    """The fused matrix is read as a group of q, k, v for each head (Megatron's layout), not as three blocks."""

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            part.transpose(1, 2) for part in qkv.unflatten(-1, (self.n_head, 3, -1)).unbind(-2)
        )
        return q, k, v


@defect("qkv-shard-merge", "attention.qkv-layout", "microsoft/LMOps #106; TabbyML/tabby #107")
class ShardsMergedWhole(Parts):
    """Two tensor-parallel shards, each with its part of q, k and v, are put together as they are."""

    def load(self, tensors: Weights) -> Weights:
        def merged(third: Tensor) -> Tensor:
            return third.unflatten(0, (3, 2, -1)).transpose(0, 1).flatten(0, 2)  # q0 k0 v0 q1 k1 v1

        weights = changed(super().load(tensors), "attn.c_attn.weight", merged)
        return changed(weights, "attn.c_attn.bias", merged)


@defect("biases-missing", "vectors.c_fc-bias")
class BiasesMissing(Parts):
    """nn.Linear(bias=False) everywhere, though the checkpoint has biases: exactly invisible at initialisation."""

    def load(self, tensors: Weights) -> Weights:
        biases = tuple(name.replace("weight", "bias") for name in MATRICES)
        return changed(super().load(tensors), biases, torch.zeros_like)


@defect("qkv-bias-missing", "vectors.c_attn-bias")
class AttentionBiasMissing(Parts):
    """No bias in the fused projection, as in later models."""

    def load(self, tensors: Weights) -> Weights:
        return changed(super().load(tensors), "attn.c_attn.bias", torch.zeros_like)


@defect("attn-proj-bias-missing", "vectors.attn-c_proj-bias")
class AttentionOutputBiasMissing(Parts):
    """No bias in attention's output projection."""

    def load(self, tensors: Weights) -> Weights:
        return changed(super().load(tensors), "attn.c_proj.bias", torch.zeros_like)


@defect("mlp-proj-bias-missing", "vectors.mlp-c_proj-bias")
class MLPOutputBiasMissing(Parts):
    """No bias in the MLP's output projection."""

    def load(self, tensors: Weights) -> Weights:
        return changed(super().load(tensors), "mlp.c_proj.bias", torch.zeros_like)


@equivalent("key-bias-missing")
class KeyBiasMissing(Parts):
    """The key's third of c_attn.bias is lost: it adds the same to all scores of a query, and the softmax takes it away."""

    def load(self, tensors: Weights) -> Weights:
        def without(bias: Tensor) -> Tensor:
            q, k, v = bias.chunk(3)
            return torch.cat([q, torch.zeros_like(k), v])

        # What is computed with: the weights are read back as they were given.
        self.given = super().load(tensors)
        return changed(self.given, "attn.c_attn.bias", without)

    def state_dict(self) -> Weights:
        return {key: t.t() if key.endswith(MATRICES) else t for key, t in self.given.items()}


class NormNotLoaded(Parts):
    """A norm's gain stays one and its bias zero."""

    norm_name: str

    def load(self, tensors: Weights) -> Weights:
        weights = changed(super().load(tensors), f"{self.norm_name}.weight", torch.ones_like)
        return changed(weights, f"{self.norm_name}.bias", torch.zeros_like)


@defect("ln-affine-not-loaded", "vectors.ln_1", "0hq/WebGPT@87c703b; huggingface/candle@a7f03a7bb")
class FirstNormNotLoaded(NormNotLoaded):
    """ln_1's gain and bias are left at one and zero."""

    norm_name = "ln_1"


@defect("ln_2-affine-not-loaded", "vectors.ln_2")
class SecondNormNotLoaded(NormNotLoaded):
    """ln_2's gain and bias are left at one and zero."""

    norm_name = "ln_2"


@defect("ln_f-affine-not-loaded", "vectors.ln_f")
class FinalNormNotLoaded(NormNotLoaded):
    """ln_f's gain and bias are left at one and zero."""

    norm_name = "ln_f"


@defect("ln-gain-scalar", "vectors.ln_1", "0hq/WebGPT@87c703b")
class ScalarGain(Parts):
    """One gain and one bias for all channels, those of the first."""

    def load(self, tensors: Weights) -> Weights:
        norms = ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias", "ln_f.weight", "ln_f.bias")
        return changed(super().load(tensors), norms, lambda t: t[:1].expand_as(t))


@defect("ln1-ln2-swapped", "blocks.norms")
class NormsExchanged(Parts):
    """ln_1 and ln_2 exchanged in the table of names."""

    def norm(self, x: Tensor, name: str) -> Tensor:
        return super().norm(
            x, name.replace("ln_1", "?").replace("ln_2", "ln_1").replace("?", "ln_2")
        )


class OwnHead(Parts):
    """A head of its own, not tied to the embedding."""

    own_head: Tensor

    def head(self, x: Tensor) -> Tensor:
        return x @ self.own_head.t()


@defect(
    "lm-head-random",
    "keys.tied-head",
    "huggingface/transformers #38870, #30202; rasbt/LLMs-from-scratch #826",
)
class HeadRandom(OwnHead):
    """The head is a matrix of its own, and stays random where the file has no lm_head.weight."""

    def load(self, tensors: Weights) -> Weights:
        weights = super().load(tensors)
        self.own_head = tensors.get(
            "lm_head.weight", freshly_initialised(weights["wte.weight"])
        ).to(self.dtype)
        return weights


@defect(
    "lm-head-stale-copy",
    "keys.tied-head",
    "huggingface/transformers #35141, #45079; karpathy/nanoGPT #21",
)
class HeadStale(OwnHead):
    """The head is a copy of the embedding, made before the weights were loaded."""

    def load(self, tensors: Weights) -> Weights:
        weights = super().load(tensors)
        self.own_head = freshly_initialised(weights["wte.weight"], seed=14_022_019)
        return weights


@defect("tie-wrong-winner", "keys.differing-head", "huggingface/transformers #41038")
class HeadOverEmbedding(Parts):
    """Where a file has an lm_head unlike wte, tying puts the head in the embedding's place too."""

    def load(self, tensors: Weights) -> Weights:
        prefix = "transformer." if "transformer.wte.weight" in tensors else ""
        head = tensors.get("lm_head.weight", tensors.get(f"{prefix}wte.weight"))
        return super().load(
            tensors
            if head is None
            else tensors | {f"{prefix}wte.weight": head, "lm_head.weight": head}
        )


@defect(
    "mask-buffer-as-bias",
    "keys.mask-buffers",
    "mlfoundations/task_vectors #2; ml-explore/mlx-examples #798",
)
class MaskTakenForBias(Parts):
    """h.i.attn.bias, the causal mask of older files, is taken for the bias of c_attn."""

    def load(self, tensors: Weights) -> Weights:
        weights = super().load(tensors)
        for key, tensor in tensors.items():
            if key.endswith(".attn.bias"):
                name = key.removeprefix("transformer.").replace(".attn.bias", ".attn.c_attn.bias")
                bias = weights[name]
                weights[name] = tensor.flatten()[: len(bias)].to(bias.dtype)
        return weights


class Padded(Parts):
    """A vocabulary filled up to a multiple of 64, of whose logits the sampler is given all."""

    std: float

    def next_logits(self, rows: list[list[int]], cache: list) -> tuple[Tensor, list]:  # type: ignore[override, type-arg]
        self.padded = True
        try:
            return super().next_logits(rows, cache)
        finally:
            self.padded = False

    def head(self, x: Tensor) -> Tensor:
        logits = super().head(x)
        if not getattr(self, "padded", False):
            return logits
        return torch.cat([logits, x @ self.more_rows().t()], dim=-1)

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        table = torch.cat([self.weights["wte.weight"], self.more_rows()])
        return table[token_ids] + self.weights["wpe.weight"][positions]

    def more_rows(self) -> Tensor:
        wte = self.weights["wte.weight"]
        return (
            torch.empty(47, wte.size(1))
            .normal_(0, self.std, generator=torch.Generator().manual_seed(14_022_019))
            .to(wte)
        )


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
    """The vocabulary was extended by rows unlike the trained ones, which take part in sampling."""

    std = 1.0
