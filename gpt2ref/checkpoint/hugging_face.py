"""Read Hugging Face's checkpoints: config.json beside safetensors, or pickles, whole or in shards.

A live model of transformers is read too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import GPT2Config
from ..conversion import CheckpointError, Layout, from_tensors
from ..model import GPT2
from .biases import with_biases
from .config_file import read_config, read_json_object
from .foreign import recognise, refuse_adapter
from .pickles import gpt2_tensors, read_pickle

# The published names, in order of preference. An index lists the shards of a large checkpoint.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def read(weights: Path) -> tuple[GPT2Config, dict[str, Tensor], Layout | None]:
    """Read a weights file, or the shards that an index names, with the config.json beside it.

    A file with one of the published names is Hugging Face's, so its matrices are [in, out]: any
    other is refused, as transformers refuses it. A file of another name may be anybody's, for
    example a nanoGPT state dict saved as safetensors, so its layout is unknown, as is that of MLX.
    """
    tensors = _read_tensors(weights)
    refuse_adapter(weights, tensors)
    config, fields = read_config(weights.parent / "config.json")
    published = weights.name in WEIGHT_FILES and not _is_mlx(weights)
    return config, with_biases(weights, tensors, fields, config), "in_out" if published else None


def from_hugging_face(model: Any) -> GPT2:
    """Make the same model as a `transformers` GPT2LMHeadModel, sharing its weights."""
    config = GPT2Config.from_dict(model.config.to_dict())
    return from_tensors(model.state_dict(), config, layout="in_out")


def _read_tensors(weights: Path) -> dict[str, Tensor]:
    if weights.name.endswith(".index.json"):
        tensors: dict[str, Tensor] = {}
        for shard in _shards(weights):
            part = _read_tensors(shard)
            if twice := sorted(tensors.keys() & part.keys()):
                raise CheckpointError(f"{shard}: another shard has these too: {', '.join(twice)}")
            tensors |= part
        return tensors
    kind = recognise(weights)
    if kind == "pickle":
        return gpt2_tensors(weights, read_pickle(weights))
    if kind != "safetensors":
        raise CheckpointError(f"{weights}: expected safetensors or a pickle, found {kind}'s format")
    return _read_safetensors(weights)


def _is_mlx(weights: Path) -> bool:
    """Return whether Apple's MLX wrote the file. Its matrices are nn.Linear's, [out, in]."""
    if weights.suffix != ".safetensors":
        return False
    with safe_open(weights, framework="pt") as file:
        return (file.metadata() or {}).get("format") == "mlx"


def _shards(index: Path) -> list[Path]:
    """Find the files that an index names. They must lie beside it: it may not name other files."""
    try:
        names = sorted(set(read_json_object(index)["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        expected = "expected a JSON object whose weight_map names a file for each tensor"
        raise CheckpointError(f"{index}: {expected} ({error!r})") from None
    for name in names:
        found = f"{index}: weight_map names {name!r}"
        if not isinstance(name, str) or Path(name).name != name or name.endswith(".index.json"):
            raise CheckpointError(f"{found}: expected the name of a weights file in this folder")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{found}, which is not in the folder")
    return [index.parent / name for name in names]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = f"{error} (if it was cut off, get it again)"
        raise CheckpointError(f"{path}: not a readable safetensors file: {reason}") from None
