"""Pickles of tensors (`pytorch_model.bin`, nanoGPT's `ckpt.pt`), read without running their code or wearing the reader out."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..conversion import CheckpointError

_MOST_PARTS = 1000  # of a tuple in a pickle; a tensor's have thirty


def unpickle(path: Path) -> object:
    """What a pickle has in it: tensors in dictionaries. Raises CheckpointError, with the file's name, for one that has more."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (
        2,
        6,
    ):  # CVE-2025-32434: weights_only let code run
        raise CheckpointError(
            f"{path}: a .bin file is only safe to read from torch 2.6 on, this is {torch.__version__}"
        )
    try:
        zipped = zipfile.is_zipfile(
            path
        )  # files written before torch 1.6 are not, and can't be memory-mapped
        _check_pickle(path, zipped=zipped)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged pickle raises anything
        raise CheckpointError(f"{path}: not a file of plain tensors: {error}") from None


def named_tensors(path: Path, tensors: object) -> dict[str, Tensor]:
    """The same, when it is a dictionary of names and dense tensors. Raises CheckpointError, with the file's name, when not."""
    expected = f"{path}: expected a dictionary of names and dense tensors"
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{expected}, found {type(tensors).__name__}")
    if others := [
        str(key)
        for key, tensor in tensors.items()
        if not (isinstance(key, str) and _is_plain(tensor))
    ]:
        raise CheckpointError(f"{expected}, not so: {', '.join(others)}")
    return tensors


def _check_pickle(path: Path, *, zipped: bool) -> None:
    """What torch.save has never written, and torch.load takes for weights, or fails at without an exception."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if (
                    member.compress_type != zipfile.ZIP_STORED
                ):  # mapped into memory, it would be read as it is
                    raise ValueError(f"{member.filename} is compressed")
                if member.filename.lower().endswith("data.pkl"):
                    with archive.open(member) as file:
                        _check_tuples(file)
    else:
        with path.open("rb") as file:
            for _ in range(
                5
            ):  # pickles: a magic number, a version, the machine, the tensors, the storages' names
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
