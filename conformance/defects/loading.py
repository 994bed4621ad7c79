"""Reading a checkpoint: names, missing and unexpected tensors, sizes, dtypes, training mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import shapes
from ..probes.gpt2 import Weights
from .catalogue import defect, equivalent
from .complete import MATRICES, PREFIX, CompleteGPT2, changed
from .weights import freshly_initialised


class Lenient(CompleteGPT2):
    """load_state_dict has strict=False: it drops unknown names and keeps the initial values."""

    def convert(self, tensors: Weights) -> Weights:
        initial = {name: self.initial(name, shape) for name, shape in shapes(self.config).items()}
        known = {name: tensor for name, tensor in tensors.items() if name in initial}
        return super().convert(initial | known)

    def initial(self, name: str, shape: torch.Size) -> Tensor:
        if len(shape) > 1:
            return freshly_initialised(torch.empty(shape))
        return torch.full(shape, float(name.endswith("weight")))


@defect("strict-false-prefix", "keys.prefix", "pytorch/examples #1029")
class PrefixDropped(Lenient):
    """strict=False drops all names with `transformer.`, and the model runs on random weights."""


@defect("partial-load-accepted", "keys.missing")
class PartialLoad(Lenient):
    """The loader goes on with the initial values of a tensor that is missing."""

    def convert(self, tensors: Weights) -> Weights:
        tensors = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        if tensors.keys() >= shapes(self.config).keys():
            return super(Lenient, self).convert(tensors)
        return super().convert(tensors)


@defect("unexpected-accepted", "keys.unexpected")
class UnexpectedAccepted(CompleteGPT2):
    """Unexpected tensors are dropped without a word: a checkpoint of more layers loses them."""

    def convert(self, tensors: Weights) -> Weights:
        places = {*shapes(self.config), "lm_head.weight"}
        known = {n: t for n, t in tensors.items() if n.removeprefix(PREFIX) in places}
        return super().convert(known)


@defect(
    "transformer-prefix",
    "keys.prefix",
    "microsoft/dp-transformers #33; huggingface/transformers #26173",
)
class OneNamingOnly(CompleteGPT2):
    """Only names without `transformer.` are known; with it they are a KeyError."""

    def convert(self, tensors: Weights) -> Weights:
        return super().convert({"wte.weight": tensors["wte.weight"]} | tensors)


@defect(
    "buffers-required",
    "keys.mask-buffers",
    "karpathy/minGPT #122; karpathy/nanoGPT@d995c221; huggingface/transformers #24581",
)
class BuffersRefused(CompleteGPT2):
    """The loader compares the number of names, and counts the mask buffers of older files."""

    def convert(self, tensors: Weights) -> Weights:
        weights = super().convert(tensors)
        found = [name for name in tensors if name != "lm_head.weight"]
        assert len(found) == len(weights), f"mismatched keys: {len(found)} != {len(weights)}"
        return weights


@defect("shape-broadcast-copy", "keys.wrong-shape")
class BroadcastCopy(CompleteGPT2):
    """parameter.copy_(tensor) broadcasts a tensor of the wrong shape."""

    def convert(self, tensors: Weights) -> Weights:
        for ending in ("attn.c_proj.weight", "attn.c_attn.bias", "wpe.weight"):
            name = ending if ending == "wpe.weight" else f"h.0.{ending}"
            shape = shapes(self.config)[name]

            def broadcast(t: Tensor, shape: torch.Size = shape) -> Tensor:
                return t.expand(shape) if 1 in t.shape else t

            tensors = changed(tensors, ending, broadcast)
        return super().convert(tensors)


@defect("config-size-mismatch", "keys.published-sizes", "huggingface/transformers #698")
class SizeFromTable(CompleteGPT2):
    """Sizes come from a table by width, in which gpt2-large has the 24 layers of gpt2-medium."""

    @classmethod
    def configure(cls, fields: dict[str, Any]) -> GPT2Config:
        return super().configure(fields | ({"n_layer": 24} if fields["n_embd"] == 1280 else {}))

    def convert(self, tensors: Weights) -> Weights:
        beyond = {f"h.{layer}." for layer in range(self.config.n_layer, 36)}
        if self.config.n_layer < 24:
            beyond = set()
        return super().convert(
            {
                name: tensor
                for name, tensor in tensors.items()
                if not name.removeprefix(PREFIX).startswith(tuple(beyond))
            }
        )


@defect(
    "dtype-changed-on-load",
    "keys.round-trip",
    "huggingface/transformers #12062, #21681; pytorch/pytorch #187138",
)
class RoundedOnLoad(CompleteGPT2):
    """A float32 file is copied into a model in bfloat16, which is then made float32 again."""

    @classmethod
    def read(cls, folder: Path) -> Weights:
        tensors = super().read(folder).items()
        return {name: tensor.bfloat16().to(tensor.dtype) for name, tensor in tensors}


@defect("half-file-as-float", "keys.half-file")
class HalfFileMisread(CompleteGPT2):
    """bfloat16 in the file is read as float16, which has as many bits."""

    @classmethod
    def read(cls, folder: Path) -> Weights:
        return {
            name: t.view(torch.float16) if t.dtype == torch.bfloat16 else t
            for name, t in super().read(folder).items()
        }


class Dropout(CompleteGPT2):
    """Drops each channel with a probability of the config, as in training."""

    def dropped(self, x: Tensor) -> Tensor:
        return torch.dropout(x, self.fields.get("resid_pdrop", 0.0), train=True)


@defect(
    "train-mode-after-load",
    "laws.repeatable",
    "karpathy/ng-video-lecture #16; huggingface/trl #155",
)
class TrainMode(Dropout):
    """eval() is never called, so dropout is active."""

    def merge(self, attended: Tensor) -> Tensor:
        return self.dropped(super().merge(attended))


@defect(
    "sdpa-dropout-in-eval",
    "laws.repeatable",
    "karpathy/nanoGPT #240; pytorch/pytorch #124464; suno-ai/bark #662",
)
class AttentionDropout(Dropout):
    """The fused attention is given its dropout probability in evaluation too."""

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        return self.dropped(super().attention_weights(scores, mask))


@equivalent("dropout-of-zero")
class DropoutOfZero(CompleteGPT2):
    """eval() is never called, and the dropout probability is 0."""

    def merge(self, attended: Tensor) -> Tensor:
        return torch.dropout(super().merge(attended), 0.0, train=True)


@defect(
    "generate-changes-mode",
    "generation.leaves-no-trace",
    "rohitg00/ai-engineering-from-scratch #206",
)
class ModeChanged(CompleteGPT2):
    """generate() leaves the model in training mode, so what comes after it has dropout."""

    training = False

    def generate(self, token_ids: Tensor, **options: Any) -> list[list[int]]:
        new = super().generate(token_ids, **options)
        self.training = True
        return new

    def merge(self, attended: Tensor) -> Tensor:
        return torch.dropout(super().merge(attended), 0.1, train=self.training)


@defect("weights-read-back-transposed", "keys.round-trip")
class ReadBackTransposed(CompleteGPT2):
    """Saving forgets to transpose back, so the matrices written are not those read."""

    def state_dict(self) -> Weights:
        return changed(super().state_dict(), MATRICES, lambda w: w.t())
