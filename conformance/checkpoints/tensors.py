"""Checkpoints that the suite writes itself, in Hugging Face's layout. Nothing is downloaded.

Tensors are float32. Their names, without the prefix `transformer.`, and their orientation (`x @ w`,
[in, out]) are those of the published files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gpt2ref import GPT2Config

Tensors = dict[str, Tensor]

# No two dimensions are equal, so none can be mistaken for another: 11 layers (h.10 sorts before
# h.2), 3 heads of width 16, 37 positions, width 48, MLP 192, and the real vocabulary.
SMALL = GPT2Config(n_positions=37, n_embd=48, n_layer=11, n_head=3)

# What Hugging Face's config.json has beside the fields of a GPT2Config: converters ask for them.
TRAINING_FIELDS = {
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "initializer_range": 0.02,
    "reorder_and_upcast_attn": False,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "use_cache": True,
}

# A very small GPT-2, for what does not depend on the model: the draw, and whether an adapter works.
DICE = GPT2Config(n_positions=128, n_embd=8, n_layer=1, n_head=2)


def blank(config: GPT2Config) -> Tensors:
    """Return zeros, with gains of one for the LayerNorms: the logits of any input are all zero."""
    width = config.n_embd
    tensors = {
        "wte.weight": torch.zeros(config.vocab_size, width),
        "wpe.weight": torch.zeros(config.n_positions, width),
        "ln_f.weight": torch.ones(width),
        "ln_f.bias": torch.zeros(width),
    }
    for layer in range(config.n_layer):
        tensors |= {
            f"h.{layer}.ln_1.weight": torch.ones(width),
            f"h.{layer}.ln_1.bias": torch.zeros(width),
            f"h.{layer}.attn.c_attn.weight": torch.zeros(width, 3 * width),
            f"h.{layer}.attn.c_attn.bias": torch.zeros(3 * width),
            f"h.{layer}.attn.c_proj.weight": torch.zeros(width, width),
            f"h.{layer}.attn.c_proj.bias": torch.zeros(width),
            f"h.{layer}.ln_2.weight": torch.ones(width),
            f"h.{layer}.ln_2.bias": torch.zeros(width),
            f"h.{layer}.mlp.c_fc.weight": torch.zeros(width, config.mlp_width),
            f"h.{layer}.mlp.c_fc.bias": torch.zeros(config.mlp_width),
            f"h.{layer}.mlp.c_proj.weight": torch.zeros(config.mlp_width, width),
            f"h.{layer}.mlp.c_proj.bias": torch.zeros(width),
        }
    return tensors


@lru_cache(maxsize=8)
def shapes(config: GPT2Config) -> dict[str, torch.Size]:
    """Return the shape of each tensor of a checkpoint, by its name without a prefix."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in blank(config).items()}


def trained_like(config: GPT2Config, seed: int, device: torch.device | str = "cpu") -> Tensors:
    """Return random weights with the statistics of a trained GPT-2, under which mistakes show.

    At the initial standard deviation of 0.02, with zero biases and unit gains, most defects change
    nothing: attention is nearly uniform, GELU nearly linear, a missing bias exactly invisible. Here
    attention scores and GELU inputs have a standard deviation of about one, no bias is zero, no
    gain is one, and every layer differs. Token 0 at position 0 has a variance near LayerNorm's
    epsilon, which shows elsewhere only in the last digits. Each kind of device draws other numbers.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int, std: float, mean: float = 0.0) -> Tensor:
        return torch.empty(*shape, device=device).normal_(mean, std, generator=generator)

    width, inner = config.n_embd, config.mlp_width
    tensors = {
        "wte.weight": normal(config.vocab_size, width, std=0.14),
        "wpe.weight": normal(config.n_positions, width, std=0.08),
        "ln_f.weight": normal(width, std=0.5, mean=3.0),
        "ln_f.bias": normal(width, std=0.3),
    }
    tensors["wte.weight"][0] *= 0.02
    tensors["wpe.weight"][0] *= 0.02
    for layer in range(config.n_layer):
        tensors |= {
            f"h.{layer}.ln_1.weight": normal(width, std=0.3, mean=1.0),
            f"h.{layer}.ln_1.bias": normal(width, std=0.2),
            f"h.{layer}.attn.c_attn.weight": normal(width, 3 * width, std=1.2 / math.sqrt(width)),
            f"h.{layer}.attn.c_attn.bias": normal(3 * width, std=0.3),
            f"h.{layer}.attn.c_proj.weight": normal(width, width, std=0.5 / math.sqrt(width)),
            f"h.{layer}.attn.c_proj.bias": normal(width, std=0.1),
            f"h.{layer}.ln_2.weight": normal(width, std=0.3, mean=1.0),
            f"h.{layer}.ln_2.bias": normal(width, std=0.2),
            f"h.{layer}.mlp.c_fc.weight": normal(width, inner, std=1.2 / math.sqrt(width)),
            f"h.{layer}.mlp.c_fc.bias": normal(inner, std=0.3),
            f"h.{layer}.mlp.c_proj.weight": normal(inner, width, std=0.5 / math.sqrt(inner)),
            f"h.{layer}.mlp.c_proj.bias": normal(width, std=0.1),
        }
    return tensors


def far_below_zero(tensors: Tensors) -> Tensors:
    """Return the same tensors with all logits about 120 lower.

    Those of the published 124M weights lie between -35 and -180. The first dimension of every
    embedding is nearly 0.6, and the final LayerNorm turns it into -200. In bfloat16 two different
    logits of that size differ by at least 1/2 or 1, in float16 by 1/16 or 1/8.
    """
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    tensors["ln_f.weight"][0], tensors["ln_f.bias"][0] = 0.0, -200.0
    tensors["wte.weight"][:, 0] = 0.6 + tensors["wte.weight"][:, 0] / 8
    return tensors


def write_checkpoint(
    folder: Path,
    config: GPT2Config,
    tensors: Mapping[str, Tensor],
    fields: Mapping[str, Any] | None = None,
) -> Path:
    """Write `config.json` and `model.safetensors` as Hugging Face's `save_pretrained` does.

    `fields`: more fields for config.json, which a GPT2Config does not have. Returns the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_config(folder, config, fields or {})
    save_file(
        {key: tensor.contiguous() for key, tensor in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


def write_sparse_checkpoint(folder: Path, config: GPT2Config) -> Path:
    """Write a float32 checkpoint of zeros that takes no disk space. Returns the folder.

    The safetensors header is followed by a hole in the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape in shapes(config).items():
        start, end = end, end + 4 * shape.numel()
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)
    _write_config(folder, config, {})
    return folder


def _write_config(folder: Path, config: GPT2Config, fields: Mapping[str, Any]) -> None:
    text = json.dumps(TRAINING_FIELDS | config.to_dict() | dict(fields), indent=2)
    (folder / "config.json").write_text(text, encoding="utf-8")


def random_token_ids(config: GPT2Config, batch: int, time: int, seed: int = 0) -> Tensor:
    """Return int64 [batch, time]. The first row begins with token 0, whose variance is low."""
    token_ids = torch.randint(
        config.vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed)
    )
    token_ids[0, 0] = 0
    return token_ids
