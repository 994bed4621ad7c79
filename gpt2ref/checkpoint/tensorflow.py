"""OpenAI's own files, read without TensorFlow: `hparams.json`, `model.ckpt.index` and `model.ckpt.data-00000-of-00001`.

The index is a table in LevelDB's format (google/leveldb, doc/table_format.md) from tensor names to protocol buffers
(tensorflow/core/protobuf/tensor_bundle.proto); the data file is the tensors' bytes. The index's checksums are verified, the
weights' are not: Python would take minutes for them.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..conversion import COPIED, TRANSPOSED, CheckpointError

INDEX = "model.ckpt.index"
_MAGIC = bytes.fromhex("57fb808b247547db")
_MOST_BYTES, _LONGEST_NAME = (
    2**19,
    500,
)  # of an index; the one of 1.5 billion parameters has 20 KB and names of 30 bytes
_DTYPES = {
    1: torch.float32,
    2: torch.float64,
    14: torch.bfloat16,
    19: torch.float16,
}  # TensorFlow's types.proto


def read_tensors(index: Path) -> dict[str, Tensor]:
    """The tensors of an index, under Hugging Face's names and in its shapes; a name that is not GPT-2's stays as it is.

    They are the memory-mapped data file itself. Raises CheckpointError, with the file's name, for an index that is damaged
    or compressed, and for data that is missing, partitioned, big-endian or not floating point.
    """
    try:
        if (size := index.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"{size} bytes, expected at most {_MOST_BYTES}")
        entries = {key.decode(): _fields(value) for key, value in _table(index.read_bytes())}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{index}: not a readable TensorFlow index: {error}") from None
    header, _ = entries.pop("", _fields(b""))
    count = header[1]
    if header[2] != 0:
        raise CheckpointError(f"{index}: its data is big-endian, expected little-endian")
    tensors, shards = {}, dict[int, Tensor]()
    for key, (numbers, messages) in entries.items():
        dtype, shard = _DTYPES.get(numbers[1]), numbers[3]
        if dtype is None or 7 in messages or shard >= count:
            expected = f"one of types {list(_DTYPES)}, whole, in one of {count} shards"
            found = f"type {numbers[1]}{', partitioned' if 7 in messages else ''}, in shard {shard}"
            raise CheckpointError(f"{index}: {key} is of {found}, expected {expected}")
        path = index.with_suffix(f".data-{shard:05d}-of-{count:05d}")
        if shard not in shards:
            shards[shard] = _mapped(path, index)
        try:
            tensor = _tensor(shards[shard], dtype, numbers, messages)
        except ValueError as error:
            raise CheckpointError(f"{index}: {key}: {error} ({path.name})") from None
        # A matrix has a leading dimension of 1, it was a convolution's.
        tensors[_name(key)] = (
            tensor.squeeze(0) if key.endswith("/w") and tensor.dim() == 3 else tensor
        )
    return tensors


def _openais(key: str) -> str:
    """The name in OpenAI's model.py: h.{layer}.ln_1.weight is model/h{layer}/ln_1/g."""
    *modules, kind = key.replace("h.{layer}", "h{layer}").split(".")
    if modules[0] in ("wte", "wpe"):
        return f"model/{modules[0]}"
    letter = "b" if kind == "bias" else "g" if modules[-1].startswith("ln_") else "w"
    return "/".join(["model", *modules, letter])


_NAMES = {_openais(key): key for key in COPIED + TRANSPOSED}


def _name(key: str) -> str:
    layer = re.match(r"model/h(0|[1-9][0-9]*)/", key)
    if not layer:
        return _NAMES.get(key, key)
    name = _NAMES.get(key.replace(layer[0], "model/h{layer}/"), key)
    return name.replace("{layer}", layer[1])


def _mapped(path: Path, index: Path) -> Tensor:
    """The bytes of a data file, uint8 [size]. Writing to them does not change the file."""
    if not path.is_file():
        raise CheckpointError(f"{index}: its data should be in {path}, which is no file")
    try:
        return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _tensor(
    data: Tensor, dtype: torch.dtype, numbers: dict[int, int], messages: dict[int, list[bytes]]
) -> Tensor:
    """The view that a BundleEntryProto describes: 2 its shape, 4 its offset, 5 its size."""
    dimensions = _fields(b"".join(messages[2]))[1][2]
    shape = [_fields(dimension)[0][1] for dimension in dimensions[:9]]
    offset, size = numbers[4], numbers[5]
    if not all(shape) or len(shape) > 8 or size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{size} bytes, which is not {dtype} {shape}")
    if offset % dtype.itemsize or offset + size > len(data):
        raise ValueError(f"{size} bytes from {offset} on, in a data file of {len(data)}")
    return data[offset : offset + size].view(dtype).view(shape)


class _Reader:
    """Bytes, taken one after the other. Raises ValueError where there are none left."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise ValueError(f"{size} bytes expected at {self.at}, of {len(self.data)}: cut off")
        self.at += size
        return self.data[self.at - size : self.at]

    def integer(self) -> int:
        """Seven bits a byte, the lowest first; the eighth bit says that there are more."""
        value = 0
        for i in range(10):
            byte = self.take(1)[0]
            value |= (byte & 127) << 7 * i
            if byte < 128:
                return value
        raise ValueError(f"an integer of more than 10 bytes before {self.at}")


def _fields(data: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """The fields of a protocol buffer by their number: the integers, 0 where there is none, and the embedded messages."""
    numbers: dict[int, int] = defaultdict(int)
    messages: dict[int, list[bytes]] = defaultdict(list)
    reader = _Reader(data)
    while reader.at < len(data):
        field, kind = divmod(reader.integer(), 8)
        if kind == 0:
            numbers[field] = reader.integer()
        elif kind == 2:
            messages[field].append(reader.take(reader.integer()))
        elif kind == 5:
            reader.take(4)  # a checksum of weights
        else:
            raise ValueError(f"a field of type {kind}, expected 0, 2 or 5")
    return numbers, messages


def _table(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a LevelDB table."""
    if len(file) < 48 or not file.endswith(_MAGIC):
        raise ValueError("it does not end as one does; perhaps it was cut off")
    footer = _Reader(file[-48:-8])
    for _ in range(2):  # the place and size of a block of statistics, which is not wanted
        footer.integer()
    end, last = 0, None
    for _, place in _block(file, footer.integer(), footer.integer()):
        handle = _Reader(place)
        offset, size = handle.integer(), handle.integer()
        if offset < end:  # else a small file could stand for an endless one
            raise ValueError(f"the block at {offset} begins before the previous one ends")
        end = offset + size
        for key, value in _block(file, offset, size):
            if last is not None and key <= last:
                raise ValueError(f"{key!r} after {last!r}: expected names in order, each once")
            yield key, value
            last = key


def _block(file: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block. A key is given as how much of the previous one it begins with, and the rest."""
    block = _Reader(file, offset).take(size + 5)
    if int.from_bytes(block[-4:], "little") != _masked_crc32c(block[:-4]):
        raise ValueError(f"the block at {offset} does not have the checksum that it should")
    if block[size]:
        raise ValueError(
            f"the block at {offset} is compressed (type {block[size]}; 1 is Snappy), expected type 0, none"
        )
    end = (
        size - 4 - 4 * int.from_bytes(block[size - 4 : size], "little")
    )  # of the entries; then, where whole keys are
    if end < 0:
        raise ValueError(f"the block at {offset} is smaller than its list of keys")
    entries, key = _Reader(block[:end]), b""
    while entries.at < end:
        shared, rest, length = entries.integer(), entries.integer(), entries.integer()
        if shared > len(key) or shared + rest > _LONGEST_NAME:
            raise ValueError(
                f"a name of {shared} + {rest} bytes after one of {len(key)}, expected at most {_LONGEST_NAME}"
            )
        key = key[:shared] + entries.take(rest)
        yield key, entries.take(length)


def _masked_crc32c(data: bytes) -> int:
    """Castagnoli's checksum, turned round and shifted as LevelDB stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
