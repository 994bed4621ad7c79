"""OpenAI's own files, read without TensorFlow: `hparams.json`, `model.ckpt.index` and `model.ckpt.data-00000-of-00001`.

The index is a table in LevelDB's format (google/leveldb, doc/table_format.md) from tensor names to protocol buffers
(tensorflow/core/protobuf/tensor_bundle.proto); the data file is the tensors' bytes. The index's checksums are verified, the
weights' are not: Python would take minutes for them.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .conversion import CheckpointError

INDEX = "model.ckpt.index"
_MAGIC = 0xDB4775248B80FB57
_MOST_BYTES, _LONGEST_NAME = 2**22, 500  # of an index; the one of 1.5 billion parameters has 20 KB and names of 30 bytes
_DTYPES = {1: torch.float32, 2: torch.float64, 14: torch.bfloat16, 19: torch.float16}  # TensorFlow's types.proto

# Names in OpenAI's model.py -> Hugging Face's. A matrix has a leading dimension of 1, it was a convolution's.
_TENSORS = {
    "model/wte": "wte.weight",
    "model/wpe": "wpe.weight",
    "model/ln_f/g": "ln_f.weight",
    "model/ln_f/b": "ln_f.bias",
}
_BLOCK_TENSORS = {
    "ln_1/g": "ln_1.weight",
    "ln_1/b": "ln_1.bias",
    "attn/c_attn/w": "attn.c_attn.weight",
    "attn/c_attn/b": "attn.c_attn.bias",
    "attn/c_proj/w": "attn.c_proj.weight",
    "attn/c_proj/b": "attn.c_proj.bias",
    "ln_2/g": "ln_2.weight",
    "ln_2/b": "ln_2.bias",
    "mlp/c_fc/w": "mlp.c_fc.weight",
    "mlp/c_fc/b": "mlp.c_fc.bias",
    "mlp/c_proj/w": "mlp.c_proj.weight",
    "mlp/c_proj/b": "mlp.c_proj.bias",
}


def read_tensors(index: Path) -> dict[str, Tensor]:
    """The tensors of an index, under Hugging Face's names and in its shapes; a name that is not GPT-2's stays as it is.

    They are the memory-mapped data file itself. Raises CheckpointError, with the file's name, for an index that is damaged
    or compressed, and for data that is missing, partitioned, big-endian or not floating point.
    """
    try:
        if (size := index.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"{size} bytes, expected at most {_MOST_BYTES}")
        entries = {key.decode(): _numbers_and_messages(value) for key, value in _table(index.read_bytes())}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{index}: not a readable TensorFlow index: {error}") from None
    header, _ = entries.pop("", ({}, {}))
    count = header.get(1, 0)
    if header.get(2, 0) != 0:
        raise CheckpointError(f"{index}: its data is big-endian, expected little-endian")
    tensors, shards = {}, dict[int, Tensor]()
    for key, (numbers, messages) in entries.items():
        dtype, shard = _DTYPES.get(numbers.get(1, 0)), numbers.get(3, 0)
        if dtype is None or 7 in messages or shard >= count:
            expected = f"one of types {list(_DTYPES)}, whole, in one of {count} shards"
            found = f"type {numbers.get(1, 0)}{', partitioned' if 7 in messages else ''}, in shard {shard}"
            raise CheckpointError(f"{index}: {key} is of {found}, expected {expected}")
        if shard not in shards:
            shards[shard] = _mapped(index.with_suffix(f".data-{shard:05d}-of-{count:05d}"), index)
        try:
            tensor = _tensor(shards[shard], dtype, numbers, messages)
        except ValueError as error:
            raise CheckpointError(f"{index}: {key}: {error}") from None
        tensors[_name(key)] = tensor.squeeze(0) if key.endswith("/w") and tensor.dim() == 3 else tensor
    return tensors


def _name(key: str) -> str:
    block = re.fullmatch(r"model/h(0|[1-9][0-9]*)/(.+)", key)
    if block and block[2] in _BLOCK_TENSORS:
        return f"h.{block[1]}.{_BLOCK_TENSORS[block[2]]}"
    return _TENSORS.get(key, key)


def _mapped(path: Path, index: Path) -> Tensor:
    """The bytes of a data file, uint8 [size]. Writing to them does not change the file."""
    if not path.is_file():
        raise CheckpointError(f"{index}: its data should be in {path}, which is no file")
    try:
        with path.open("rb") as file:
            return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)
    except (OSError, ValueError) as error:  # a ValueError if it is empty
        raise CheckpointError(f"{path}: {error}") from None


def _tensor(data: Tensor, dtype: torch.dtype, numbers: dict[int, int], messages: dict[int, list[bytes]]) -> Tensor:
    """The view that a BundleEntryProto describes: 2 its shape, 4 its offset, 5 its size."""
    dimensions = _numbers_and_messages(b"".join(messages.get(2, [])))[1].get(2, [])
    shape = [_numbers_and_messages(dimension)[0].get(1, 0) for dimension in dimensions[:9]]
    offset, size = numbers.get(4, 0), numbers.get(5, 0)
    if not all(shape) or len(shape) > 8 or size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{size} bytes, which is not {dtype} {shape}")
    if offset % dtype.itemsize or offset + size > len(data):
        raise ValueError(f"{size} bytes from {offset} on, in a data file of {len(data)}")
    return data[offset : offset + size].view(dtype).view(shape)


def _table(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a LevelDB table."""
    if len(file) < 48 or int.from_bytes(file[-8:], "little") != _MAGIC:
        raise ValueError("it does not end as one does; perhaps it was cut off")
    handle, at = file[-48:-8], 0
    for _ in range(2):  # the place and size of a block of statistics, which is not wanted
        _, at = _varint(handle, at)
    end, last = 0, None
    for _, place in _block(file, *_handle(handle[at:])):
        offset, size = _handle(place)
        if offset < end:  # else a small file could stand for an endless one
            raise ValueError(f"the block at {offset} begins before the previous one ends")
        end = offset + size
        for key, value in _block(file, offset, size):
            if last is not None and key <= last:
                raise ValueError(f"{key!r} after {last!r}: expected names in order, each once")
            yield key, value
            last = key


def _handle(data: bytes) -> tuple[int, int]:
    """Where a block is, and its size without the trailer."""
    offset, at = _varint(data, 0)
    return offset, _varint(data, at)[0]


def _block(file: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block. A key is given as how much of the previous one it begins with, and the rest."""
    block = _cut(file, offset, size + 5)
    if int.from_bytes(block[-4:], "little") != _masked_crc32c(block[:-4]):
        raise ValueError(f"the block at {offset} does not have the checksum that it should")
    if block[size]:
        raise ValueError(f"the block at {offset} is compressed (type {block[size]}; 1 is Snappy), expected type 0, none")
    entries = size - 4 - 4 * int.from_bytes(block[size - 4 : size], "little")  # at the end, where whole keys are
    if entries < 0:
        raise ValueError(f"the block at {offset} is smaller than its list of keys")
    block, at, key = block[:entries], 0, b""
    while at < entries:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or shared + rest > _LONGEST_NAME:
            raise ValueError(f"a name of {shared} + {rest} bytes after one of {len(key)}, expected at most {_LONGEST_NAME}")
        key = key[:shared] + _cut(block, at, rest)
        yield key, _cut(block, at + rest, length)
        at += rest + length


def _numbers_and_messages(data: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """The fields of a protocol buffer by their number: the integers, and the embedded messages."""
    numbers: dict[int, int] = {}
    messages: dict[int, list[bytes]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            numbers[tag >> 3], at = _varint(data, at)
        elif tag & 7 == 2:
            length, at = _varint(data, at)
            messages.setdefault(tag >> 3, []).append(_cut(data, at, length))
            at += length
        elif tag & 7 == 5:
            at += len(_cut(data, at, 4))  # a checksum of weights
        else:
            raise ValueError(f"a field of type {tag & 7}, expected 0, 2 or 5")
    return numbers, messages


def _cut(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise ValueError(f"{size} bytes expected at {at}, of {len(data)}")
    return data[at : at + size]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The integer at a place, seven bits a byte, and the place after it."""
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ValueError(f"an integer of more than 10 bytes, or cut off, at {at} of {len(data)}")


def _masked_crc32c(data: bytes) -> int:
    """Castagnoli's checksum, turned round and shifted as LevelDB stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_OF_BYTE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_OF_BYTE = tuple(map(_crc_of_byte, range(256)))
