"""Between Hugging Face's tensors and ours: the key map, as data, and the two directions.

The published checkpoints keep OpenAI's layout, in which a weight multiplies from the right (`x @ w`, Hugging Face's
`Conv1D`): shape [in, out]. `nn.Linear` has [out, in]. Four matrices a block therefore change orientation. We take the
transposed *view*: nothing is copied, and the storage stays [in, out]. nanoGPT and minGPT use Hugging Face's names and
`nn.Linear`; their matrices are taken as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .config import GPT2Config
from .model import GPT2

PREFIX = "transformer."  # carried by the tensors of Hugging Face's GPT2LMHeadModel, not by the published files
_COMPILED = "_orig_mod."  # put before that by torch.compile

# Every tensor of a checkpoint, without the prefix; "{layer}" runs over the blocks.
COPIED = (
    "wte.weight",
    "wpe.weight",
    "h.{layer}.ln_1.weight",
    "h.{layer}.ln_1.bias",
    "h.{layer}.attn.c_attn.bias",
    "h.{layer}.attn.c_proj.bias",
    "h.{layer}.ln_2.weight",
    "h.{layer}.ln_2.bias",
    "h.{layer}.mlp.c_fc.bias",
    "h.{layer}.mlp.c_proj.bias",
    "ln_f.weight",
    "ln_f.bias",
)
TRANSPOSED = (
    "h.{layer}.attn.c_attn.weight",
    "h.{layer}.attn.c_proj.weight",
    "h.{layer}.mlp.c_fc.weight",
    "h.{layer}.mlp.c_proj.weight",
)
TIED = {"lm_head.weight": "wte.weight"}
IGNORED = {
    "h.{layer}.attn.bias": "the causal mask, saved as a buffer by older versions",
    "h.{layer}.attn.masked_bias": "the score given to hidden positions, likewise",
}
# Others' names of the fields of a GPT2Config.
HPARAMS = {
    "n_vocab": "vocab_size",
    "n_ctx": "n_positions",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}
MODEL_ARGS = {"vocab_size": "vocab_size", "block_size": "n_positions"} | {
    n: n for n in ("n_embd", "n_head", "n_layer")
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CheckpointError(ValueError):
    """The tensors are not those of a GPT-2 of the given shape. The message lists all that is wrong with them."""


def from_hugging_face_tensors(
    tensors: Mapping[str, Tensor], config: GPT2Config, *, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """A state dict for `GPT2(config)` from a checkpoint's tensors, with or without the `transformer.` prefix.

    Their matrices are in Hugging Face's orientation or all in `nn.Linear`'s, as nanoGPT's are. The shape of most tells,
    c_attn's always, and the square ones follow the majority of these; those that disagree with it have the wrong shape.

    The result shares the storage of `tensors`, unless a `dtype` other than theirs is asked for. Raises CheckpointError,
    with all their names at once, for tensors that are missing, unexpected, of the wrong shape or not floating point,
    and ValueError for a `dtype` that is not one of DTYPES.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype={dtype}: expected {', '.join(map(str, DTYPES))}")
    # Of layers without end, some are enough to say what is missing.
    config = replace(config, n_layer=min(config.n_layer, len(tensors) + 1000))
    found = _without_prefix(tensors)
    problems = []
    head, embedding = found.pop("lm_head.weight", None), found.get("wte.weight")
    if embedding is None and head is not None:  # a tied pair may have been saved under either name
        found["wte.weight"] = head
    elif head is not None and embedding is not None and not _same(head, embedding):
        problems.append(
            "lm_head.weight differs from wte.weight: GPT-2's head is its token embedding, one would be lost"
        )

    layers = range(config.n_layer)
    expected = shapes(config)
    turned = {key.format(layer=layer) for key in TRANSPOSED for layer in layers}
    pairs = [(found[key].shape, expected[key]) for key in turned & found.keys()]
    told = [
        shape == theirs
        for shape, theirs in pairs
        if shape in (theirs, theirs[::-1]) and theirs != theirs[::-1]
    ]
    if told.count(False) > told.count(True):
        expected = expected | {key: expected[key][::-1] for key in turned}
        turned = set()
    ignored = {key.format(layer=layer) for key in IGNORED for layer in layers}
    if missing := sorted(expected.keys() - found.keys()):
        problems.append(f"missing: {', '.join(missing)}")
    if unexpected := sorted(found.keys() - expected.keys() - ignored):
        problems.append(f"unexpected: {', '.join(unexpected)}")
    present = {key: found[key] for key in expected if key in found}
    if misshapen := [key for key, tensor in present.items() if tensor.shape != expected[key]]:
        listed = (
            f"{key} is {list(present[key].shape)}, expected {list(expected[key])}"
            for key in misshapen
        )
        problems.append(f"wrong shape: {', '.join(listed)}")
    if wrong := [
        f"{key} is {tensor.dtype}" for key, tensor in present.items() if tensor.dtype not in DTYPES
    ]:
        problems.append(f"not a floating-point dtype that GPT-2 runs in: {', '.join(wrong)}")
    elif dtype is None and len(mixed := {str(tensor.dtype) for tensor in present.values()}) > 1:
        problems.append(
            f"mixed dtypes {', '.join(sorted(mixed))}: say which one is wanted with dtype="
        )
    if problems:
        raise CheckpointError("\n".join(problems))

    return {
        PREFIX + key: (t.t() if key in turned else t).detach().to(dtype or t.dtype)
        for key, t in present.items()
    }


def config_from(fields: Mapping[str, Any], names: Mapping[str, str]) -> GPT2Config:
    """The shape that fields with other `names` give (HPARAMS, MODEL_ARGS). Raises ValueError for those that are missing."""
    if missing := names.keys() - fields.keys():
        raise ValueError(f"missing: {', '.join(sorted(missing))}")
    return GPT2Config(**{ours: fields[theirs] for theirs, ours in names.items()})


def to_hugging_face_tensors(model: GPT2) -> dict[str, Tensor]:
    """The reverse: the tensors of a Hugging Face checkpoint, `lm_head.weight` left out as `save_pretrained` does.

    They are contiguous, in Hugging Face's orientation, and share the model's storage where it has that already.
    """
    transposed = {
        PREFIX + key.format(layer=layer)
        for key in TRANSPOSED
        for layer in range(model.config.n_layer)
    }
    state = model.state_dict()
    return {
        key: (tensor.t() if key in transposed else tensor).contiguous()
        for key, tensor in state.items()
    }


@lru_cache(maxsize=8)
def shapes(config: GPT2Config) -> dict[str, torch.Size]:
    """Checkpoint key, without prefix -> shape in the checkpoint's orientation."""
    with torch.device("meta"):
        ours = GPT2(replace(config, n_layer=1)).state_dict()  # the layers are alike
    found = {}
    for key in COPIED + TRANSPOSED:
        for layer in range(config.n_layer) if "{layer}" in key else (0,):
            tensor = ours[PREFIX + key.format(layer=0)]
            found[key.format(layer=layer)] = tensor.t().shape if key in TRANSPOSED else tensor.shape
    return found


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {key: key.removeprefix(_COMPILED).removeprefix(PREFIX) for key in tensors}
    count = Counter(names.values())
    if twice := sorted(key for key, name in names.items() if key != name and count[name] > 1):
        raise CheckpointError(f"given with and without the prefix: {', '.join(twice)}")
    return {name: tensors[key] for key, name in names.items()}


def _same(a: Tensor, b: Tensor) -> bool:
    if a.is_meta or b.is_meta:
        return a.shape == b.shape  # there are no values to compare
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and (a.data_ptr() == b.data_ptr() or torch.equal(a, b))
    )
