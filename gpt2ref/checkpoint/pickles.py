"""Read pickles of tensors (pytorch_model.bin, nanoGPT's ckpt.pt) without running their code."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from ..conversion import CheckpointError


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
            _refuse_compressed(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged pickle raises anything
        raise CheckpointError(f"{path}: not a file of plain tensors: {error}") from None


def named_tensors(path: Path, tensors: object) -> dict[str, Tensor]:
    """Return `tensors` if they are a dictionary of names and dense tensors.

    Raises CheckpointError, with the file's name, if not.
    """
    expected = f"{path}: expected a dictionary of names and dense tensors"
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{expected}, found {type(tensors).__name__}")
    wrong = [
        str(key) for key, value in tensors.items() if not isinstance(key, str) or not _dense(value)
    ]
    if wrong:
        raise CheckpointError(f"{expected}, found something else at {', '.join(wrong)}")
    return tensors


def _refuse_compressed(path: Path) -> None:
    """torch.save never compresses. torch.load with mmap would take compressed bytes for weights."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is compressed, expected it stored as it is")


def _dense(value: object) -> bool:
    """Whether it is a tensor with memory for each of its numbers: not sparse, meta or expanded."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
        and value.nbytes <= value.untyped_storage().nbytes()
    )
