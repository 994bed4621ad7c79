"""Reading a checkpoint: names, what is missing or too many, sizes, dtypes, what is left as it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt2ref import CheckpointError, GPT2Config
from gpt2ref.conversion import COPIED, IGNORED, TRANSPOSED

from .catalogue import defect, equivalent
from .parts import Parts, Weights, changed
from .weights import freshly_initialised


class Lenient(Parts):
    """load_state_dict(strict=False): what has no place is dropped, and what is not there stays as it was initialised."""

    def load(self, tensors: Weights) -> Weights:
        return super().load(self.completed(tensors))

    def completed(self, tensors: Weights) -> Weights:
        blank = {key: self.initial(key) for key in self.expected()}
        return blank | {key: t for key, t in tensors.items() if key in blank}

    def expected(self) -> list[str]:
        return [
            key.format(layer=layer)
            for layer in range(self.config.n_layer)
            for key in COPIED + TRANSPOSED
        ]

    def initial(self, key: str) -> Tensor:
        c = self.config
        n, inner = c.n_embd, c.mlp_width
        shapes: dict[str, tuple[int, ...]] = {
            "wte.weight": (c.vocab_size, n),
            "wpe.weight": (c.n_positions, n),
            "c_attn.weight": (n, 3 * n),
        }
        shapes |= {
            "attn.c_proj.weight": (n, n),
            "c_fc.weight": (n, inner),
            "mlp.c_proj.weight": (inner, n),
        }
        shapes |= {"c_attn.bias": (3 * n,), "c_fc.bias": (inner,)}
        shape = next((shape for ending, shape in shapes.items() if key.endswith(ending)), (n,))
        if len(shape) > 1:
            return freshly_initialised(torch.empty(shape))
        return torch.full(shape, float(key.endswith("weight")))


@defect("strict-false-prefix", "keys.prefix", "pytorch/examples #1029")
class PrefixDropped(Lenient):
    """Names with `transformer.` have no place, strict=False drops them all, and the model runs on random weights."""


@defect("partial-load-accepted", "keys.missing")
class PartialLoad(Lenient):
    """A tensor is missing, and the loader goes on with what was initialised."""

    def load(self, tensors: Weights) -> Weights:
        try:
            return super(Lenient, self).load(tensors)
        except CheckpointError as error:
            if "missing" not in str(error):
                raise
            return super().load({key.removeprefix("transformer."): t for key, t in tensors.items()})


@defect("unexpected-accepted", "keys.unexpected")
class UnexpectedAccepted(Parts):
    """Tensors that have no place are dropped without a word: a checkpoint of more layers loads, and loses them."""

    def load(self, tensors: Weights) -> Weights:
        places = {
            key.format(layer=layer)
            for layer in range(self.config.n_layer)
            for key in [*COPIED, *TRANSPOSED, *IGNORED]
        }
        known = {
            key: t
            for key, t in tensors.items()
            if key.removeprefix("transformer.") in places | {"lm_head.weight"}
        }
        return super().load(known)


@defect(
    "transformer-prefix",
    "keys.prefix",
    "microsoft/dp-transformers #33; huggingface/transformers #26173",
)
class OneNamingOnly(Parts):
    """Only the names without `transformer.` are known; the others are a KeyError."""

    def load(self, tensors: Weights) -> Weights:
        return super().load({"wte.weight": tensors["wte.weight"]} | tensors)


@defect(
    "buffers-required",
    "keys.mask-buffers",
    "karpathy/minGPT #122; karpathy/nanoGPT@d995c221; huggingface/transformers #24581",
)
class BuffersRefused(Parts):
    """assert len(keys) == len(state dict), without leaving out the mask buffers that older files have."""

    def load(self, tensors: Weights) -> Weights:
        weights = super().load(tensors)
        found = [key for key in tensors if key != "lm_head.weight"]
        assert len(found) == len(weights), f"mismatched keys: {len(found)} != {len(weights)}"
        return weights


@defect("shape-broadcast-copy", "keys.wrong-shape")
class BroadcastCopy(Parts):
    """parameter.copy_(tensor), which broadcasts one of the wrong shape."""

    def load(self, tensors: Weights) -> Weights:
        shapes = {
            "attn.c_proj.weight": (self.config.n_embd,) * 2,
            "attn.c_attn.bias": (3 * self.config.n_embd,),
        }
        shapes |= {"wpe.weight": (self.config.n_positions, self.config.n_embd)}
        for ending, shape in shapes.items():

            def broadcast(t: Tensor, shape: tuple[int, ...] = shape) -> Tensor:
                return t.expand(shape) if 1 in t.shape else t

            tensors = changed(tensors, ending, broadcast)
        return super().load(tensors)


@defect("config-size-mismatch", "keys.published-sizes", "huggingface/transformers #698")
class SizeFromTable(Parts):
    """Sizes come from a table by width, not from the config, and gpt2-large has medium's 24 layers in it."""

    def configure(self, fields: dict[str, Any]) -> GPT2Config:
        return super().configure(fields | ({"n_layer": 24} if fields["n_embd"] == 1280 else {}))

    def load(self, tensors: Weights) -> Weights:
        return super().load(
            {key: t for key, t in tensors.items() if not _beyond(key, self.config.n_layer)}
        )


def _beyond(key: str, n_layer: int) -> bool:
    parts = key.split(".")
    return "h" in parts and 24 <= n_layer <= int(parts[parts.index("h") + 1])


@defect(
    "dtype-changed-on-load",
    "keys.round-trip",
    "huggingface/transformers #12062, #21681; pytorch/pytorch #187138",
)
class RoundedOnLoad(Parts):
    """A float32 file is copied into a model in bfloat16, which is made float32 again afterwards."""

    def load(self, tensors: Weights) -> Weights:
        return {
            key: tensor.bfloat16().to(self.dtype) for key, tensor in super().load(tensors).items()
        }


@defect("half-file-as-float", "keys.half-file")
class HalfFileMisread(Parts):
    """bfloat16 in the file is read as float16, which has as many bits."""

    def read(self, checkpoint: Any) -> Weights:
        tensors = super().read(checkpoint)
        return {
            key: t.view(torch.float16) if t.dtype == torch.bfloat16 else t
            for key, t in tensors.items()
        }


@defect(
    "uninitialised-buffer",
    "attention.visibility",
    "huggingface/transformers #48892; pytorch/torchtitan #1371",
)
class MaskUninitialised(Parts):
    """The mask, a buffer that is not in the file, is left as the memory was: here, every other bit."""

    def mask(self, real: Tensor, past: int) -> Tensor:
        mask = super().mask(real, past)
        return (
            mask & (torch.arange(mask.size(-1), device=mask.device) % 2 == 0)
            | torch.eye(mask.size(-1), dtype=torch.bool, device=mask.device)[past:]
        )


class Dropout(Parts):
    """Drops each channel with the config's probability, as in training."""

    probability = 0.0

    def configure(self, fields: dict[str, Any]) -> GPT2Config:
        self.probability = fields.get("resid_pdrop", 0.0)
        return super().configure(fields)

    def dropped(self, x: Tensor) -> Tensor:
        return torch.dropout(x, self.probability, train=True)


@defect(
    "train-mode-after-load",
    "laws.repeatable",
    "karpathy/ng-video-lecture #16; huggingface/trl #155",
)
class TrainMode(Dropout):
    """eval() is never called: dropout is active."""

    def merge(self, attended: Tensor) -> Tensor:
        return self.dropped(super().merge(attended))


@defect(
    "sdpa-dropout-in-eval",
    "laws.repeatable",
    "karpathy/nanoGPT #240; pytorch/pytorch #124464; suno-ai/bark #662",
)
class AttentionDropout(Dropout):
    """The fused attention is given its dropout probability in evaluation too."""

    def shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        return self.dropped(super().shares(scores, mask))


@equivalent("dropout-of-zero")
class DropoutOfZero(Parts):
    """eval() is never called, and the dropout probability is 0."""

    def merge(self, attended: Tensor) -> Tensor:
        return torch.dropout(super().merge(attended), 0.0, train=True)


@defect(
    "generate-changes-mode",
    "generation.leaves-no-trace",
    "rohitg00/ai-engineering-from-scratch #206",
)
class ModeChanged(Parts):
    """generate() leaves the model in training mode, so what comes after it has dropout."""

    training = False

    def generate(self, token_ids: Tensor, **options: Any) -> list[list[int]]:
        new = super().generate(token_ids, **options)
        self.training = True
        return new

    def merge(self, attended: Tensor) -> Tensor:
        return torch.dropout(super().merge(attended), 0.1, train=self.training)


@defect("weights-read-back-transposed", "keys.round-trip")
class ReadBackTransposed(Parts):
    """Saving forgets to transpose back: what was read in is not what is written out."""

    def state_dict(self) -> Weights:
        return dict(self.weights)
