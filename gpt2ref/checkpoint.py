"""Checkpoints on disk: find one, open it, load it without a second copy, write one in Hugging Face's layout.

A checkpoint is a folder with `config.json` and `model.safetensors` (or its shards and their index), or, failing that,
`pytorch_model.bin`, which is a pickle and is read with `weights_only=True` alone. OpenAI's own folders, of TensorFlow's
files, and nanoGPT's `ckpt.pt` are read too.
"""

from __future__ import annotations

import json
import os
import pickletools
import re
import signal
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .config import GPT2Config
from .conversion import HPARAMS, MODEL_ARGS, CheckpointError, config_from, from_hugging_face_tensors, to_hugging_face_tensors
from .hub import download
from .model import GPT2
from .tensorflow_checkpoint import INDEX, read_tensors

if sys.platform != "win32":
    import fcntl

# In order of preference. An index lists the shards of a checkpoint that was split into several files.
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_MOST_JSON = 100_000_000  # bytes, as many as safetensors lets a header have
_MOST_PARTS = 1000  # of a tuple in a pickle; a tensor's have thirty
_TINY = Path(__file__).parent / "data" / "tiny"  # the package's own: see the model card there
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_checkpoint(
    checkpoint: str | os.PathLike[str], *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
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
    with torch.device("meta"):  # shapes without memory: the weights are taken as they are, not copied into others
        model = GPT2(config)
    model.load_state_dict({key: tensor.to(device or tensor.device) for key, tensor in state.items()}, assign=True)
    return model.eval().requires_grad_(False)


def save_checkpoint(model: GPT2, folder: str | os.PathLike[str]) -> None:
    """Write `config.json` and `model.safetensors` for Hugging Face's `from_pretrained`, or `load_checkpoint`.

    Both are written beside what is in the folder and moved there when they are whole, so whatever goes wrong the folder
    has the checkpoint that it had or the new one. In the instant between the two moves it has no config.json, and is none.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        if (folder / name).is_dir():
            raise IsADirectoryError(f"{folder / name}: a folder, expected a file or nothing")
    tensors = to_hugging_face_tensors(model)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        fresh = Path(scratch)
        (fresh / "config.json").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n", encoding="utf-8")
        try:
            save_file(tensors, fresh / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # which also stands for a full disk
            raise OSError(f"{folder / 'model.safetensors'}: can't be written: {error}") from None
        (fresh / "model.safetensors").chmod((fresh / "config.json").stat().st_mode)  # else its owner's alone
        with _alone_in(folder), _ctrl_c_waits():
            _put_in_place(fresh, folder)


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
        for name in (*_WEIGHT_FILES, INDEX):
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"{path}: expected one of {', '.join((*_WEIGHT_FILES, INDEX))} in this folder")
    if str(checkpoint) == "tiny":
        return _find(_TINY)
    if _HUB_ID.fullmatch(str(checkpoint)):
        return _find(download(str(checkpoint), _WEIGHT_FILES))
    raise FileNotFoundError(f"checkpoint {str(checkpoint)!r}: no such file or folder, and not the name of a hub repository")


def _read(weights: Path) -> tuple[GPT2Config, dict[str, Tensor]]:
    """The shape, from the file that has it, and the tensors."""
    if weights.suffix == ".index":
        return _read_config(weights.parent / "hparams.json", HPARAMS), read_tensors(weights)
    if weights.suffix == ".pt":
        saved = _unpickle(weights)
        if not isinstance(saved, dict) or "model_args" not in saved:
            return _read_config(weights.parent / "config.json"), _named_tensors(weights, saved)
        try:
            config = config_from(saved["model_args"], MODEL_ARGS)
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{weights}: model_args: {error}") from None
        return config, _named_tensors(weights, saved.get("model"))
    return _read_config(weights.parent / "config.json"), _read_tensors(weights)


def _read_config(path: Path, names: Mapping[str, str] | None = None) -> GPT2Config:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the model's shape in this file, beside the weights")
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
                raise CheckpointError(f"{shard}: already given by another shard: {', '.join(twice)}")
            tensors |= part
        return tensors
    if weights.suffix in (".bin", ".pt", ".pth"):
        return _named_tensors(weights, _unpickle(weights))
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


def _unpickle(path: Path) -> object:
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):  # CVE-2025-32434: weights_only let code run
        raise CheckpointError(f"{path}: a .bin file is only safe to read from torch 2.6 on, this is {torch.__version__}")
    try:
        zipped = zipfile.is_zipfile(path)  # files written before torch 1.6 are not, and can't be memory-mapped
        _check_pickle(path, zipped=zipped)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged pickle raises anything
        raise CheckpointError(f"{path}: not a file of plain tensors: {error}") from None


def _named_tensors(path: Path, tensors: object) -> dict[str, Tensor]:
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{path}: expected a dictionary of names and dense tensors, found {type(tensors).__name__}")
    if others := [str(key) for key, tensor in tensors.items() if not (isinstance(key, str) and _is_plain(tensor))]:
        raise CheckpointError(f"{path}: expected a dictionary of names and dense tensors, not so: {', '.join(others)}")
    return tensors


def _check_pickle(path: Path, *, zipped: bool) -> None:
    """What torch.save has never written, and torch.load takes for weights, or fails at without an exception."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:  # mapped into memory, it would be read as it is
                    raise ValueError(f"{member.filename} is compressed")
                if member.filename.lower().endswith("data.pkl"):
                    with archive.open(member) as file:
                        _check_tuples(file)
    else:
        with path.open("rb") as file:
            for _ in range(5):  # pickles: a magic number, a version, the machine, the tensors, the storages' names
                _check_tuples(file)


def _check_tuples(file: IO[bytes]) -> None:
    """Refuse a tuple of many parts, counting those of its parts: hashing it as a key may take years, or all of the stack."""
    stack: list[int] = []  # how many parts each value has; 0 is a mark
    memo: dict[Any, int] = {}
    for code, number, _ in pickletools.genops(file):
        if "PUT" in code.name:
            memo[number] = stack[-1]
        elif "GET" in code.name:
            stack.append(memo[number])
        elif code.name == "MARK":
            stack.append(0)
        else:
            start = len(stack) - len(code.stack_before)
            if pickletools.markobject in code.stack_before:
                mark = next(place for place in reversed(range(len(stack))) if stack[place] == 0)
                start = mark - code.stack_before.index(pickletools.markobject)
            parts = 1 + sum(stack[start:]) if "TUPLE" in code.name else 1
            if parts > _MOST_PARTS:
                raise ValueError(f"a tuple of {parts} parts, expected at most {_MOST_PARTS}")
            stack[start:] = [parts] * len(code.stack_after)


def _is_plain(value: object) -> bool:
    """Whether it is a tensor with memory for each of its numbers."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Move the two files from one folder to the other. A config.json is never beside weights that are not its own."""
    config, weights, old = folder / "config.json", folder / "model.safetensors", fresh / "old.json"
    with suppress(FileNotFoundError):
        os.replace(config, old)
    try:
        os.replace(fresh / weights.name, weights)
    except OSError:
        with suppress(FileNotFoundError):
            os.replace(old, config)
        raise
    os.replace(fresh / config.name, config)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until nobody else moves a checkpoint there. Without effect on Windows, and where a file system has no locks."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # the only one that it interrupts
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)
