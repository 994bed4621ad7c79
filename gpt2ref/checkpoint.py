"""Checkpoints on disk, in Hugging Face's layout: find one, open it, load it without a second copy, write one.

A checkpoint is a folder with `config.json` and `model.safetensors` (or its shards and their index), or, failing that,
`pytorch_model.bin`, which is a pickle and is read with `weights_only=True` alone.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .config import GPT2Config
from .conversion import CheckpointError, from_hugging_face_tensors, to_hugging_face_tensors
from .model import GPT2

# In order of preference. An index lists the shards of a checkpoint that was split into several files.
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_checkpoint(
    checkpoint: str | os.PathLike[str], *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> GPT2:
    """The model in a folder, a weights file with its config.json beside it, or a repository of the Hugging Face hub.

    On the CPU in the file's own dtype (the default) the weights are the memory-mapped file itself: no copy is made and
    pages are read when first used, so the file must stay as it is while the model lives. The model is for inference:
    its parameters take no gradients.

    Raises FileNotFoundError if there is no such checkpoint, CheckpointError, with the file's name, if it is not a
    GPT-2's, and ValueError for a device or dtype that can't be used.
    """
    _check_device(device)
    weights = _find(checkpoint)
    config = _read_config(weights.parent / "config.json")
    tensors = _read_tensors(weights)
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
    with torch.device("meta"):  # shapes without memory: the weights are taken as they are, not copied into others
        model = GPT2(config)
    model.load_state_dict({key: tensor.to(device or tensor.device) for key, tensor in state.items()}, assign=True)
    return model.eval().requires_grad_(False)


def save_checkpoint(model: GPT2, folder: str | os.PathLike[str]) -> None:
    """Write `config.json` and `model.safetensors` for Hugging Face's `from_pretrained`, or `load_checkpoint`.

    Each file appears whole or not at all; the weights come first, so a folder with a config.json is complete.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = to_hugging_face_tensors(model)
    _replace(folder / "model.safetensors", lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    text = json.dumps(model.config.to_dict(), indent=2) + "\n"
    _replace(folder / "config.json", lambda path: path.write_text(text, encoding="utf-8"))


def _check_device(device: torch.device | str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA answers with an AssertionError
        raise ValueError(f"device={str(device)!r}: {error}") from None


def _find(checkpoint: str | os.PathLike[str]) -> Path:
    """The file with the weights, or with their index."""
    path = Path(checkpoint)
    if path.is_file():
        return path
    if path.is_dir():
        for name in _WEIGHT_FILES:
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"{path}: expected one of {', '.join(_WEIGHT_FILES)} in this folder")
    if _HUB_ID.fullmatch(str(checkpoint)):
        return _find(_download(str(checkpoint)))
    raise FileNotFoundError(f"checkpoint {str(checkpoint)!r}: no such file or folder, and not the name of a hub repository")


def _download(repository: str) -> Path:
    """Fetch what is needed of a hub repository, once, into the hub's cache: safetensors, or .bin if there are none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        for names in (("model*.safetensors", "model.safetensors.index.json"), ("pytorch_model*.bin*",)):
            folder = Path(snapshot_download(repository, allow_patterns=["config.json", *names]))
            if any((folder / name).is_file() for name in _WEIGHT_FILES):
                break
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"checkpoint {repository!r}: no such file or folder here, and the Hugging Face hub did not give it: {error}"
        ) from error
    return folder


def _read_config(path: Path) -> GPT2Config:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the model's shape in this file, beside the weights")
    try:
        return GPT2Config.from_dict(_read_json_object(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _read_json_object(path: Path) -> dict[str, Any]:
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
                raise CheckpointError(f"{shard}: already given by another shard: {', '.join(twice)}")
            tensors |= part
        return tensors
    return _read_pickle(weights) if weights.suffix in (".bin", ".pt", ".pth") else _read_safetensors(weights)


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
            raise CheckpointError(f"{index}: weight_map names {name!r}: expected the name of a weights file in the same folder")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: weight_map names {name!r}, which is not in the folder")
    return [index.parent / name for name in names]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):  # CVE-2025-32434: weights_only let code run
        raise CheckpointError(f"{path}: a .bin file is only safe to read from torch 2.6 on, this is {torch.__version__}")
    try:
        # Files written before torch 1.6 are no zip archives and can't be memory-mapped.
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle raises anything
        raise CheckpointError(f"{path}: not a file of plain tensors: {error}") from None
    if not isinstance(tensors, dict) or not all(isinstance(key, str) and _is_plain(t) for key, t in tensors.items()):
        raise CheckpointError(f"{path}: expected a dictionary of names and dense tensors")
    return tensors


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file in a folder of its own, next to where it belongs, and move it there when it is whole."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as scratch:
        unfinished = Path(scratch) / path.name
        write(unfinished)
        os.replace(unfinished, path)
