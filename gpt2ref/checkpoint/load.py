"""Checkpoints on disk: find one, open it, load it without a second copy.

A checkpoint is a folder with `config.json` and `model.safetensors` (or its shards and their index), or, failing that,
`pytorch_model.bin`, which is a pickle and is read with `weights_only=True` alone. OpenAI's own folders, of TensorFlow's
files, and nanoGPT's `ckpt.pt` are read too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import GPT2Config
from ..conversion import (
    HPARAMS,
    MODEL_ARGS,
    CheckpointError,
    config_from,
    from_hugging_face_tensors,
)
from ..model import GPT2
from .hub import download
from .pickles import named_tensors, unpickle
from .tensorflow import INDEX, read_tensors

# In order of preference. An index lists the shards of a checkpoint that was split into several files.
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_MOST_JSON = 100_000_000  # bytes, as many as safetensors lets a header have
_TINY = Path(__file__).parents[1] / "data" / "tiny"  # the package's own: see the model card there
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_checkpoint(
    checkpoint: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> GPT2:
    """The model in a folder, a weights file with its config.json beside it, or a repository of the Hugging Face hub.

    "tiny" is the package's own, "gpt2" to "gpt2-xl" and "distilgpt2" are the published ones, where no file has that name.

    Also OpenAI's `model.ckpt.index`, or its folder, with hparams.json beside it, and nanoGPT's `ckpt.pt`, which has its
    shape in it. It does not have its activation: GPT-2's is used, where nanoGPT since 2023 trains with the exact GELU.

    On the CPU in the file's own dtype (the default) the weights are the memory-mapped file itself: no copy is made and
    pages are read when first used, so the file must stay as it is while the model lives. Nor is it looked for a NaN or
    an infinity, which the sampler refuses when it comes to the logits. The model is for inference: its parameters take
    no gradients.

    Raises FileNotFoundError if there is no such checkpoint, CheckpointError, with the file's name, if it is not a
    GPT-2's, and ValueError for a device or dtype that can't be used.
    """
    _check_device(device)
    weights = _find(checkpoint)
    config, tensors = _read(weights)
    try:
        return from_tensors(tensors, config, device=device, dtype=dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{weights}:\n{error}") from None


def from_hugging_face(model: Any) -> GPT2:
    """The same model as a live `transformers` GPT2LMHeadModel, sharing its weights."""
    config = GPT2Config.from_dict(model.config.to_dict())
    return from_tensors(model.state_dict(), config)


def from_tensors(
    tensors: Mapping[str, Tensor],
    config: GPT2Config,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> GPT2:
    """The model of a checkpoint's tensors (Hugging Face's names and orientation), sharing them where nothing changes.

    `device` and `dtype` default to the tensors' own. Raises CheckpointError if they are not those of the config's GPT-2.
    """
    state = from_hugging_face_tensors(tensors, config, dtype=dtype)
    with torch.device(
        "meta"
    ):  # shapes without memory: the weights are taken as they are, not copied into others
        model = GPT2(config)
    model.load_state_dict(
        {key: tensor.to(device or tensor.device) for key, tensor in state.items()}, assign=True
    )
    return model.eval().requires_grad_(False)


def _check_device(device: torch.device | str) -> None:
    try:
        torch.empty(0, device=device)
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # a build without CUDA answers with an AssertionError
        raise ValueError(f"device={str(device)!r}: {error}") from None


def _find(checkpoint: str | os.PathLike[str]) -> Path:
    """The file with the weights, or with their index."""
    path = Path(checkpoint)
    if path.is_file():
        return path
    if path.is_dir():
        for name in (*_WEIGHT_FILES, INDEX):
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(
            f"{path}: expected one of {', '.join((*_WEIGHT_FILES, INDEX))} in this folder"
        )
    if str(checkpoint) == "tiny":
        return _find(_TINY)
    if _HUB_ID.fullmatch(str(checkpoint)):
        return _find(download(str(checkpoint), _WEIGHT_FILES))
    raise FileNotFoundError(
        f"checkpoint {str(checkpoint)!r}: no such file or folder, and not the name of a hub repository"
    )


def _read(weights: Path) -> tuple[GPT2Config, dict[str, Tensor]]:
    """The shape, from the file that has it, and the tensors."""
    if weights.suffix == ".index":
        return _read_config(weights.parent / "hparams.json", HPARAMS), read_tensors(weights)
    if weights.suffix == ".pt":
        saved = unpickle(weights)
        if not isinstance(saved, dict) or "model_args" not in saved:
            return _read_config(weights.parent / "config.json"), named_tensors(weights, saved)
        try:
            config = config_from(saved["model_args"], MODEL_ARGS)
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{weights}: model_args: {error}") from None
        return config, named_tensors(weights, saved.get("model"))
    return _read_config(weights.parent / "config.json"), _read_tensors(weights)


def _read_config(path: Path, names: Mapping[str, str] | None = None) -> GPT2Config:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the model's shape in this file, beside the weights"
        )
    try:
        fields = _read_json_object(path)
        return config_from(fields, names) if names else GPT2Config.from_dict(fields)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _read_json_object(path: Path) -> dict[str, Any]:
    if (size := path.stat().st_size) > _MOST_JSON:
        raise ValueError(f"{size} bytes, expected at most {_MOST_JSON}")
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value


def _read_tensors(weights: Path) -> dict[str, Tensor]:
    if weights.name.endswith(".index.json"):
        tensors: dict[str, Tensor] = {}
        for shard in _shards(weights):
            part = _read_tensors(shard)
            if twice := sorted(tensors.keys() & part.keys()):
                raise CheckpointError(
                    f"{shard}: already given by another shard: {', '.join(twice)}"
                )
            tensors |= part
        return tensors
    if weights.suffix in (".bin", ".pt", ".pth"):
        return named_tensors(weights, unpickle(weights))
    return _read_safetensors(weights)


def _shards(index: Path) -> list[Path]:
    """The files that an index names: beside it, and nowhere else."""
    try:
        names = sorted(set(_read_json_object(index)["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{index}: expected a JSON object whose weight_map names a file for each tensor ({error!r})"
        ) from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name.endswith(".index.json"):
            raise CheckpointError(
                f"{index}: weight_map names {name!r}: expected the name of a weights file in the same folder"
            )
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: weight_map names {name!r}, which is not in the folder")
    return [index.parent / name for name in names]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None
