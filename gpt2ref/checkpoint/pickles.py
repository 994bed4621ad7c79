"""Read pickles of tensors (pytorch_model.bin, nanoGPT's ckpt.pt) without running their code."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..conversion import CheckpointError
from ..wrappers import plain_names

# The start of what torch.save wrote before it wrote zip archives.
_LEGACY = b"l\xfc\x9cF\xf9 j\xa8P\x19"
_CLASS = re.compile(r"(?:GLOBAL|class|type|function) ([\w.]*\.\w+)")
_DEEPEST = 4  # dictionaries within dictionaries
_PLAINLY = (
    "torch.save({'model': model.state_dict(), 'model_args': dataclasses.asdict(config)}, path)"
)


def read_pickle(path: Path) -> object:
    """Read tensors, numbers and texts in lists and dictionaries, with `weights_only=True`.

    Raises CheckpointError, with the file's name, for a pickle that has more or is damaged.
    """
    version = torch.__version__
    if tuple(map(int, version.split(".")[:2])) < (2, 6):
        raise CheckpointError(  # CVE-2025-32434: weights_only=True lets a hostile file run code
            f"{path}: reading a pickle is only safe from torch 2.6 on, this is {version}"
        )
    try:
        zipped = zipfile.is_zipfile(path)  # torch before 1.6 wrote others, which can't be mapped
        if zipped:
            _refuse_other_archives(path)
        else:
            _refuse_other_pickles(path)
        if path.suffix == ".safetensors":  # torch would go by the name, but not of an open file
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged pickle raises anything
        raise CheckpointError(f"{path}: not a file of plain tensors: {_reason(error)}") from None


def _named_tensors(source: Path | str, tensors: object) -> dict[str, Tensor]:
    """Return `tensors` if they are a dictionary of names and dense tensors.

    Raises CheckpointError, with the source, if not.
    """
    expected = f"{source}: expected a dictionary of names and dense tensors"
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{expected}, found {type(tensors).__name__}")
    wrong = [
        str(key) for key, value in tensors.items() if not isinstance(key, str) or not _dense(value)
    ]
    if wrong:
        raise CheckpointError(f"{expected}, found something else at {', '.join(wrong)}")
    return tensors


def gpt2_tensors(path: Path, saved: object) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or of the only one within, such as `saved["model"]`.

    Raises CheckpointError, with the file's name, if several dictionaries within are a GPT-2's, or
    if the one, or none of them, is of names and dense tensors.
    """
    if _is_gpt2s(saved):
        return _named_tensors(path, saved)
    within = {".".join(where): tensors for where, tensors in _dictionaries(saved, (), set())}
    if len(within) > 1:
        raise CheckpointError(
            f"{path}: {len(within)} dictionaries have a GPT-2's tensors: {', '.join(within)}; "
            "save the one that you mean by itself"
        )
    for where, tensors in within.items():
        return _named_tensors(f"{path}: {where}", tensors)
    return _named_tensors(path, saved)


def _dictionaries(
    saved: object, where: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield the keys of each dictionary within that has a GPT-2's tensors, and the dictionary."""
    if not isinstance(saved, dict) or id(saved) in seen or len(where) > _DEEPEST:
        return
    seen.add(id(saved))
    if where and _is_gpt2s(saved):
        yield where, saved
    else:
        for key, value in saved.items():
            yield from _dictionaries(value, (*where, str(key)), seen)


def _is_gpt2s(value: object) -> bool:
    """Return whether it is a dictionary that has one of the embeddings of a GPT-2."""
    if not isinstance(value, dict):
        return False
    tensors = [
        key for key, each in value.items() if isinstance(key, str) and isinstance(each, Tensor)
    ]
    return not {"wte.weight", "wpe.weight"}.isdisjoint(plain_names(tensors).values())


def _refuse_other_archives(path: Path) -> None:
    """torch.save never compresses. torch.load with mmap would take compressed bytes for weights."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename
            if member.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{name} is compressed, expected it stored as it is")
            if name.endswith("/data.pkl"):
                _refuse_other_protocol(archive.open(member).read(2))


def _refuse_other_pickles(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(64)
    if start[:1] == b"\x80" and _LEGACY not in start:
        raise CheckpointError("it is a pickle, but not torch.save's: save its tensors with that")
    _refuse_other_protocol(start)


def _refuse_other_protocol(start: bytes) -> None:
    if start[:1] == b"\x80" and start[1:2] in (b"\4", b"\5"):  # torch cannot read these
        raise CheckpointError(
            f"it has pickle protocol {start[1]}: save it with torch.save's own, 2"
        )


def _reason(error: Exception) -> str:
    """Say why torch could not read a pickle, in one line, without torch's advice to trust it."""
    if isinstance(error, CheckpointError):
        return str(error)
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    if "WeightsUnpickler" not in text and "weights_only" not in text:
        line = text.strip().split("\n")[0].split(". ")[0]
        return f"it is cut off or damaged ({type(error).__name__}{line and f': {line}'})"
    if found := _CLASS.search(text.rpartition("WeightsUnpickler error:")[2]):
        return (
            f"it has an object of {found[1]}, which only that code can read; "
            f"where it is at hand, save the file plainly: {_PLAINLY}"
        )
    return "it is damaged, or has more in it than tensors, numbers and texts"


def _dense(value: object) -> bool:
    """Return whether it is a tensor with memory for each number: not sparse, meta or expanded."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
        and value.nbytes <= value.untyped_storage().nbytes()
    )
