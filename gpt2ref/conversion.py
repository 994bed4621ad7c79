"""Convert a checkpoint's tensors to a model and back.

Checkpoints store the four matrices of a block in one of two layouts. OpenAI and Hugging Face
(`Conv1D`) multiply from the right, `x @ w`, with weights [in, out]. nanoGPT, minGPT and this model
use `nn.Linear`'s [out, in]. A change of layout is a transposed *view*: nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from .config import GPT2Config
from .model import GPT2
from .wrappers import given_twice, plain_names, taken_off

Layout = Literal["in_out", "out_in"]
PREFIX = "transformer."  # GPT2LMHeadModel's tensors have it, the published files' do not

# Every tensor of a checkpoint, without the prefix; "{layer}" runs over the blocks.
COPIED = (
    "wte.weight", "wpe.weight",
    "h.{layer}.ln_1.weight", "h.{layer}.ln_1.bias",
    "h.{layer}.attn.c_attn.bias", "h.{layer}.attn.c_proj.bias",
    "h.{layer}.ln_2.weight", "h.{layer}.ln_2.bias",
    "h.{layer}.mlp.c_fc.bias", "h.{layer}.mlp.c_proj.bias",
    "ln_f.weight", "ln_f.bias",
)  # fmt: skip
TRANSPOSED = (
    "h.{layer}.attn.c_attn.weight", "h.{layer}.attn.c_proj.weight",
    "h.{layer}.mlp.c_fc.weight", "h.{layer}.mlp.c_proj.weight",
)  # fmt: skip
# Buffers of older versions: the causal mask, and the score of hidden positions.
IGNORED = ("h.{layer}.attn.bias", "h.{layer}.attn.masked_bias")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CheckpointError(ValueError):
    """The checkpoint is not a GPT-2's of the given shape. The message lists all that is wrong."""


def from_tensors(
    tensors: Mapping[str, Tensor],
    config: GPT2Config,
    *,
    layout: Layout | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> GPT2:
    """Make a model of a checkpoint's tensors. It shares their memory where nothing changes.

    The names are Hugging Face's, with or without what wrappers add, such as `module.` or
    `_orig_mod.` (`wrappers.py` has the rule). `layout` says how the matrices are stored: "in_out"
    (Hugging Face, OpenAI) or "out_in" (nanoGPT, minGPT). Give it where you know it. Without it, the
    layout is guessed from c_attn, the only matrix that is never square: all matrices are taken to
    be stored as most c_attn are.
    `device` and `dtype` default to the tensors' own. The parameters take no gradients.

    Raises CheckpointError, with all their names at once, for tensors that are missing, unexpected,
    of another shape or layout, or not floating point, and ValueError for another `layout` or a
    `dtype` that is not in DTYPES.
    """
    state = from_hugging_face_tensors(tensors, config, layout=layout, dtype=dtype)
    config = replace(config, tie_word_embeddings=True)  # GPT2 has one matrix for both
    with torch.device("meta"):  # no memory: the model takes the given tensors as its parameters
        model = GPT2(config)
    model.load_state_dict(state, assign=True)
    return model.to(device or model.device).eval().requires_grad_(False)


def from_hugging_face_tensors(
    tensors: Mapping[str, Tensor],
    config: GPT2Config,
    *,
    layout: Layout | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Return the state dict for `GPT2(config)`. Arguments and errors: `from_tensors`."""
    if layout not in (None, *get_args(Layout)):
        raise ValueError(f"layout={layout!r}: expected {', '.join(get_args(Layout))} or None")
    if dtype not in (None, *DTYPES):
        raise ValueError(f"dtype={dtype}: expected {', '.join(map(str, DTYPES))}")
    # A hostile config may have millions of layers; some are enough to say what is missing.
    config = replace(config, n_layer=min(config.n_layer, len(tensors) + 1000))
    names = plain_names(tensors)
    if twice := given_twice(names):
        raise CheckpointError(f"several names for one tensor: {', '.join(twice)}")
    found = {name: tensors[key] for key, name in names.items()}
    both = [] if config.tie_word_embeddings else ["lm_head.weight", "wte.weight"]
    denied = "the config has tie_word_embeddings=False, so the checkpoint needs both matrices"
    problems = [f"missing: {name} ({denied})" for name in both if name not in found]
    head = found.pop("lm_head.weight", None)
    if head is not None and not _same(head, found.setdefault("wte.weight", head)):
        problems.append("lm_head.weight differs from wte.weight: GPT-2 has one matrix for both")
    layout = layout or _guess_layout(found, config)
    problems += _differences(found, config, layout, dtype)
    if problems:
        if wrappers := taken_off(names):
            problems.append(f"taken off the names: {', '.join(wrappers)}")
        raise CheckpointError("\n".join(problems))
    turned = _names(TRANSPOSED, config) if layout == "in_out" else {}
    ours = {key: found[key].t() if key in turned else found[key] for key in shapes(config)}
    return {PREFIX + key: t.detach().to(dtype or t.dtype) for key, t in ours.items()}


def to_hugging_face_tensors(model: GPT2) -> dict[str, Tensor]:
    """Return the tensors of a Hugging Face checkpoint, without `lm_head.weight`, as in its files.

    They are contiguous, [in, out], and share the model's memory where it has that layout already.
    """
    turned = {PREFIX + key for key in _names(TRANSPOSED, model.config)}
    return {
        key: (tensor.t() if key in turned else tensor).contiguous()
        for key, tensor in model.state_dict().items()
    }


@lru_cache(maxsize=8)
def shapes(config: GPT2Config) -> dict[str, torch.Size]:
    """Return the shape of every tensor of a Hugging Face checkpoint, by its name without prefix."""
    with torch.device("meta"):
        ours = GPT2(replace(config, n_layer=1)).state_dict()  # all layers are alike
    first = {key: ours[PREFIX + key.format(layer=0)].shape for key in COPIED + TRANSPOSED}
    return {
        name: shape[::-1] if key in TRANSPOSED else shape
        for key, shape in first.items()
        for name in _names([key], config)
    }


def _names(keys: Iterable[str], config: GPT2Config) -> dict[str, None]:
    """Put each layer's number into the names. The result is a set that keeps the order."""
    return {key.format(layer=i): None for key in keys for i in range(config.n_layer)}


def _guess_layout(found: Mapping[str, Tensor], config: GPT2Config) -> Layout:
    """Return the layout of most c_attn matrices, "in_out" if none has either shape."""
    stored = [list(found[key].shape) for key in found if key.endswith(".attn.c_attn.weight")]
    in_out = [config.n_embd, 3 * config.n_embd]
    return "out_in" if stored.count(in_out[::-1]) > stored.count(in_out) else "in_out"


def _differences(
    found: Mapping[str, Tensor], config: GPT2Config, layout: Layout, dtype: torch.dtype | None
) -> list[str]:
    """List all in which the tensors differ from the config's: names, shapes, layout, dtypes."""
    expected = shapes(config)
    if layout == "out_in":
        expected = expected | {key: expected[key][::-1] for key in _names(TRANSPOSED, config)}
    present = {key: found[key] for key in expected if key in found}
    wrong = {key: list(t.shape) for key, t in present.items() if t.shape != expected[key]}
    shape = "wrong shape"
    if wrong and (other := _guess_layout(found, config)) != layout:
        remedy = f"from_tensors(..., layout={other!r}) loads them"
        shape = f"matrices stored {other}, expected {layout}; {remedy}"
    dtypes = sorted({str(t.dtype) for t in present.values() if t.dtype in DTYPES})
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys() - _names(IGNORED, config).keys())
    if 2 * len(missing) > len(expected) and 2 * len(unexpected) > len(found):
        sides = {"missing": missing, "unexpected": unexpected}
        counts = [f"{len(s)} {side}, such as {', '.join(s[:3])}" for side, s in sides.items()]
        return [f"the names are not GPT-2's: {'; '.join(counts)}"]
    if missing and missing == sorted(key for key in expected if key.endswith(".bias")):
        cause = "a model trained with bias=False has none"
        missing = [f"all {len(missing)} biases ({cause}; zeros in their place change nothing)"]
    problems = {
        "missing": missing,
        "unexpected": unexpected,
        shape: [f"{key} is {wrong[key]}, expected {list(expected[key])}" for key in wrong],
        "not a floating-point dtype that GPT-2 runs in": [
            f"{key} is {t.dtype}" for key, t in present.items() if t.dtype not in DTYPES
        ],
        "mixed dtypes, give dtype= to choose one": dtypes if len(dtypes) > 1 and not dtype else [],
    }
    return [f"{problem}: {', '.join(names)}" for problem, names in problems.items() if names]


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether the matrices are equal, in the coarser dtype if they have two."""
    if a.shape != b.shape or (a.dtype != b.dtype and not {a.dtype, b.dtype} <= set(DTYPES)):
        return False
    if a.is_meta or b.is_meta or (a.data_ptr() == b.data_ptr() and a.dtype == b.dtype):
        return True
    return torch.equal(a.to(b.dtype), b) or torch.equal(a, b.to(a.dtype))
