"""The checkpoints of the cases, by name. Several cases may share one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gpt2ref import EOS, GPT2Config

from ..checkpoints.tensors import TRAINING_FIELDS, Tensors, blank
from ..defects import CompleteGPT2
from .generator import trained_like
from .in_order import InOrder

SEED = 20
# No two dimensions are equal. 97 tokens are enough where nothing depends on 50257.
SMALL = GPT2Config(vocab_size=97, n_positions=16, n_embd=24, n_layer=2, n_head=4)
ONE_LAYER = replace(SMALL, n_layer=1)
DEEP = replace(SMALL, n_embd=12, n_layer=12, n_head=3)  # h.10 sorts before h.2
LONG = replace(ONE_LAYER, n_positions=1024, n_embd=8, n_head=1)
WIDE_HEADS = replace(ONE_LAYER, n_embd=64, n_head=1)  # 64, as in all published sizes
FILES = replace(SMALL, n_embd=12, n_head=3)
UNIFORM = replace(SMALL, n_positions=64)
DIE = GPT2Config(vocab_size=97, n_positions=32, n_embd=4, n_layer=1, n_head=2)
# These have <|endoftext|>.
WORDS = GPT2Config(n_positions=32, n_embd=8, n_layer=1, n_head=2)
WHOLE_VOCABULARY = GPT2Config(n_positions=16, n_embd=4, n_layer=2, n_head=2)

A, B, C = 11, 198, 628  # a comma, a line end, and two
FOLLOWERS = {A: EOS, B: C, C: B, EOS: A}  # which token follows which in WORDS
# Prompts of the whole vocabulary; the first one ends before the others do.
ENDING = [
    [14857, 24275, 24600, 8279, 12656],
    [46190, 2869, 5582, 8968, 16216],
    [33184, 13723, 26260, 42065, 1985],
]
FACES = {96: 2.0, 17: 1.25, 0: 0.5, 31: 0.5, 60: -0.5}  # the logits of a die; two are tied
NEVER = -100.0
FAINT = 11 / 2048  # the half range of an embedding whose variance is that of epsilon


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint. `fields` are those of config.json which a GPT2Config does not have."""

    config: GPT2Config
    tensors: Tensors
    fields: Mapping[str, Any] = field(default_factory=dict)


Maker = Callable[[], Checkpoint]


def config_text(checkpoint: Checkpoint) -> str:
    fields = TRAINING_FIELDS | checkpoint.config.to_dict() | dict(checkpoint.fields)
    return json.dumps(fields, indent=1, sort_keys=True) + "\n"


_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8"}


def flat_file(tensors: Tensors) -> tuple[bytes, list[dict[str, Any]]]:
    """Return a safetensors file, and the place of each tensor in it.

    It is written here, as the order of the tensors in a file is the library's own affair.
    """
    places, header, parts, end = list[dict[str, Any]](), dict[str, Any](), list[bytes](), 0
    for name, tensor in sorted(tensors.items()):
        raw = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        start, end = end, end + len(raw)
        about = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = about | {"data_offsets": [start, end]}
        places.append({"name": name, **about, "offset": start})
        parts.append(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    before = 8 + len(text)
    places = [each | {"offset": each["offset"] + before} for each in places]
    return b"".join([len(text).to_bytes(8, "little"), text, *parts]), places


def plain(config: GPT2Config = SMALL, **fields: Any) -> Checkpoint:
    return Checkpoint(config, trained_like(config, SEED), fields)


def changed(change: Callable[[Tensors], Tensors]) -> Checkpoint:
    """Return one whose file is changed."""
    return Checkpoint(FILES, change(trained_like(FILES, SEED)))


def stage(*endings: str, config: GPT2Config = ONE_LAYER) -> Checkpoint:
    """Return a checkpoint that is blank but for the tensors whose names contain one of these."""
    tensors = trained_like(config, SEED)
    used = {name: t for name, t in tensors.items() if any(each in name for each in endings)}
    return Checkpoint(config, blank(config) | used)


def head() -> Checkpoint:
    """Return one whose logits are ln_f.bias times wte."""
    made = stage("wte", "ln_f.bias")
    made.tensors["ln_f.weight"].zero_()
    return made


def final_norm() -> Checkpoint:
    """Return one in which all tokens but the last thirty have the same row, at any position."""
    made = stage("wte", "ln_f")
    made.tensors["wte.weight"][:67] = made.tensors["wte.weight"][67].clone()
    return made


def faint(*endings: str) -> Checkpoint:
    """Return one whose embedding has a variance as small as epsilon."""
    made = stage("wte", "ln_f", *endings)
    made.tensors["wte.weight"] *= FAINT / 0.25
    made.tensors["wte.weight"][0] *= 64
    return made


def alike(value: float, config: GPT2Config = SMALL) -> Checkpoint:
    """Return one in which every channel of each key and query has this value.

    It is negative in the second layer's queries. The MLPs are blank.
    """
    made = stage("wte", "wpe", "ln_f", "ln_1", "attn", config=config)
    for name, tensor in made.tensors.items():
        if ".attn.c_attn." in name:
            tensor[..., : 2 * config.n_embd] = value if name.endswith("bias") else 0.0
            tensor[..., : config.n_embd] *= -1.0 if name.startswith("h.1.") else 1.0
    return made


def with_buffers(tensors: Tensors) -> Tensors:
    n = FILES.n_positions
    mask = torch.ones(n, n, dtype=torch.uint8).tril()[None, None]
    return tensors | {f"h.{layer}.attn.bias": mask.clone() for layer in range(FILES.n_layer)}


def lacking(name: str, tensors: Tensors) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if key != name}


def die(
    logits: Mapping[int, float] = FACES, offset: float = 0.0, others: float = NEVER
) -> Checkpoint:
    """Return one whose next token has these logits in any context (see `scripts.dice`)."""
    tensors = blank(DIE)
    tensors["ln_f.weight"].zero_()
    tensors["ln_f.bias"][0] = 1.0
    wte = tensors["wte.weight"]
    wte[:, 0] = others
    wte[list(logits), 0] = torch.tensor(list(logits.values()))
    wte[:, 0] += offset
    return Checkpoint(DIE, tensors)


def even_die() -> Checkpoint:
    """Return one in which all tokens are nearly alike."""
    last = DIE.vocab_size - 1
    return die({token: 0.01 * (last - token) / last for token in range(DIE.vocab_size)})


def words() -> Checkpoint:
    """Return one in which each of four tokens is followed by FOLLOWERS (see `scripts.chain`)."""
    tensors, dims = blank(WORDS), {token: 2 * n for n, token in enumerate(FOLLOWERS)}
    s, code = math.sqrt(WORDS.n_embd / 2), torch.tensor([1.0, -1.0])
    tensors["ln_f.weight"].fill_(8.0)
    for unit, (token, follower) in enumerate(FOLLOWERS.items()):
        own, said = dims[token], dims[follower]
        tensors["wte.weight"][token, own : own + 2] = code
        tensors["h.0.mlp.c_fc.weight"][own : own + 2, unit] = 10.0 / s * code
        tensors["h.0.mlp.c_fc.bias"][unit] = -10.0
        tensors["h.0.mlp.c_proj.weight"][unit, said : said + 2] = 4.0 * code
    return Checkpoint(WORDS, tensors)


def whole_vocabulary() -> Checkpoint:
    """Return one with which the first prompt of ENDING ends after one token.

    EOS and the second token that would follow that prompt have changed places.
    """
    made = plain(WHOLE_VOCABULARY)
    right = CompleteGPT2(made.tensors, WHOLE_VOCABULARY, dtype=torch.float64)
    with InOrder():
        second = right.generate_ragged(ENDING[:1], max_new_tokens=2, temperature=0.0)[0][1]
    made.tensors["wte.weight"][[EOS, second]] = made.tensors["wte.weight"][[second, EOS]]
    return made


def _half(dtype: torch.dtype) -> Maker:
    return partial(changed, lambda t: {name: tensor.to(dtype) for name, tensor in t.items()})


def _flipped(t: Tensors) -> Tensor:
    return t["wte.weight"].flip(0)


CHECKPOINTS: dict[str, Maker] = {
    "head": head,
    "final-norm": final_norm,
    "embedding": partial(stage, "wte", "wpe", "ln_f"),
    "faint-ln_f": faint,
    "faint-ln_1": partial(faint, "ln_1", "attn"),
    "faint-ln_2": partial(faint, "ln_2", "mlp"),
    "attention": partial(stage, "wte", "wpe", "ln_f", "ln_1", "attn", config=SMALL),
    "mlp": partial(stage, "wte", "wpe", "ln_f", "ln_2", "mlp", config=SMALL),
    "large-scores": partial(alike, 24.0),
    "uniform": partial(alike, 0.0, UNIFORM),
    "narrow": partial(
        stage, "wte", "wpe", "ln_f", "ln_2", "mlp", config=replace(ONE_LAYER, n_inner=40)
    ),
    "square": partial(plain, replace(SMALL, n_inner=SMALL.n_embd)),
    "plain": plain,
    "deep": partial(plain, DEEP),
    "wide-heads": partial(plain, WIDE_HEADS),
    "long": partial(plain, LONG),
    "prefixed": partial(changed, lambda t: {f"transformer.{key}": each for key, each in t.items()}),
    "buffers": partial(changed, with_buffers),
    "own-head": partial(changed, lambda t: t | {"lm_head.weight": t["wte.weight"].clone()}),
    "other-head": partial(changed, lambda t: t | {"lm_head.weight": _flipped(t)}),
    "bfloat16": _half(torch.bfloat16),
    "float16": _half(torch.float16),
    "lacks-c_fc": partial(changed, partial(lacking, "h.1.mlp.c_fc.weight")),
    "lacks-ln_f": partial(changed, partial(lacking, "ln_f.weight")),
    "third-block": partial(changed, lambda t: t | {"h.2.ln_1.weight": torch.ones(FILES.n_embd)}),
    "one-position": partial(changed, lambda t: t | {"wpe.weight": t["wpe.weight"][:1].clone()}),
    "one-bias": partial(
        changed, lambda t: t | {"h.0.attn.c_attn.bias": t["h.0.attn.c_attn.bias"][:1].clone()}
    ),
    "unscaled": partial(plain, FILES, scale_attn_weights=False),
    "scaled-by-layer": partial(plain, FILES, scale_attn_by_inverse_layer_idx=True),
    "gelu": partial(plain, FILES, activation_function="gelu"),
    "relu": partial(plain, FILES, activation_function="relu"),
    "epsilon": partial(plain, replace(FILES, layer_norm_epsilon=1.0)),
    "dropout": lambda: plain(SMALL, resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5),
    "die": die,
    "low-die": partial(die, offset=-120.0),
    "hot-die": partial(die, {17: 10.0, 30: 0.0}),
    "rare-die": partial(die, {17: 6.0, 40: 0.0, 41: 0.0, 50: -3.0, 96: -1.0}),
    "nan-die": partial(die, {17: 1.0, 30: math.nan}),
    "close-die-12": partial(die, {95: 2.0, 17: 2.0 - 2**-12}),
    "close-die-9": partial(die, {95: 2.0, 17: 2.0 - 2**-9}),
    "repeating-die": partial(die, {17: 3.0, 30: 2.9}),
    "even-die": even_die,
    "words": words,
    "whole-vocabulary": whole_vocabulary,
}
