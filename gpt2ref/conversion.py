"""Between Hugging Face's tensors and ours: the key map, as data, and the two directions.

The published checkpoints keep OpenAI's layout, in which a weight multiplies from the right (`x @ w`, Hugging Face's
`Conv1D`): shape [in, out]. `nn.Linear` has [out, in]. Four matrices a block therefore change orientation. We take the
transposed *view*: nothing is copied, and the storage stays [in, out].
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from .config import GPT2Config
from .model import GPT2

PREFIX = "transformer."  # carried by the tensors of Hugging Face's GPT2LMHeadModel, not by the published files

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
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CheckpointError(ValueError):
    """The tensors are not those of a GPT-2 of the given shape. The message lists all that is wrong with them."""


def from_hugging_face_tensors(
    tensors: Mapping[str, Tensor], config: GPT2Config, *, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """A state dict for `GPT2(config)` from a checkpoint's tensors, with or without the `transformer.` prefix.

    The result shares the storage of `tensors`, unless a `dtype` other than theirs is asked for. Raises CheckpointError,
    with all their names at once, for tensors that are missing, unexpected, of the wrong shape or not floating point,
    and ValueError for a `dtype` that is not one of DTYPES.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype={dtype}: expected {', '.join(map(str, DTYPES))}")
    found = _without_prefix(tensors)
    problems = []
    head, embedding = found.pop("lm_head.weight", None), found.get("wte.weight")
    if embedding is None and head is not None:  # a tied pair may have been saved under either name
        found["wte.weight"] = head
    elif head is not None and embedding is not None and not _same(head, embedding):
        problems.append("lm_head.weight differs from wte.weight: GPT-2's head is its token embedding, one would be lost")

    layers = range(config.n_layer)
    expected = _shapes(config)
    ignored = {key.format(layer=layer) for key in IGNORED for layer in layers}
    if missing := sorted(expected.keys() - found.keys()):
        problems.append(f"missing: {', '.join(missing)}")
    if unexpected := sorted(found.keys() - expected.keys() - ignored):
        problems.append(f"unexpected: {', '.join(unexpected)}")
    present = {key: found[key] for key in expected if key in found}
    if misshapen := [key for key, tensor in present.items() if tensor.shape != expected[key]]:
        listed = (f"{key} is {list(present[key].shape)}, expected {list(expected[key])}" for key in misshapen)
        problems.append(f"wrong shape: {', '.join(listed)}")
    if wrong := [f"{key} is {tensor.dtype}" for key, tensor in present.items() if tensor.dtype not in DTYPES]:
        problems.append(f"not a floating-point dtype that GPT-2 runs in: {', '.join(wrong)}")
    elif dtype is None and len(mixed := {str(tensor.dtype) for tensor in present.values()}) > 1:
        problems.append(f"mixed dtypes {', '.join(sorted(mixed))}: say which one is wanted with dtype=")
    if problems:
        raise CheckpointError("\n".join(problems))

    transposed = {key.format(layer=layer) for key in TRANSPOSED for layer in layers}
    return {PREFIX + key: (t.t() if key in transposed else t).detach().to(dtype or t.dtype) for key, t in present.items()}


def to_hugging_face_tensors(model: GPT2) -> dict[str, Tensor]:
    """The reverse: the tensors of a Hugging Face checkpoint, `lm_head.weight` left out as `save_pretrained` does.

    They are contiguous, in Hugging Face's orientation, and share the model's storage where it has that already.
    """
    transposed = {PREFIX + key.format(layer=layer) for key in TRANSPOSED for layer in range(model.config.n_layer)}
    state = model.state_dict()
    return {key: (tensor.t() if key in transposed else tensor).contiguous() for key, tensor in state.items()}


@lru_cache(maxsize=8)
def _shapes(config: GPT2Config) -> dict[str, torch.Size]:
    """Checkpoint key, without prefix -> shape in the checkpoint's orientation."""
    with torch.device("meta"):
        ours = GPT2(config).state_dict()
    shapes = {}
    for key in COPIED + TRANSPOSED:
        for layer in range(config.n_layer) if "{layer}" in key else (0,):
            name = key.format(layer=layer)
            tensor = ours[PREFIX + name]
            shapes[name] = tensor.t().shape if key in TRANSPOSED else tensor.shape
    return shapes


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}
    if len(found) < len(tensors):
        twice = sorted(key for key in tensors if key.startswith(PREFIX) and key.removeprefix(PREFIX) in tensors)
        raise CheckpointError(f"given with and without the prefix: {', '.join(twice)}")
    return found


def _same(a: Tensor, b: Tensor) -> bool:
    if a.is_meta or b.is_meta:
        return a.shape == b.shape  # there are no values to compare
    return a.shape == b.shape and a.dtype == b.dtype and (a.data_ptr() == b.data_ptr() or torch.equal(a, b))
