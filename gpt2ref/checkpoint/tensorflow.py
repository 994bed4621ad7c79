"""Read OpenAI's own files without TensorFlow: hparams.json, model.ckpt.index and its data file.

The index is a table in LevelDB's format (google/leveldb, doc/table_format.md) from tensor names to
protocol buffers (tensorflow/core/protobuf/tensor_bundle.proto); the data file is the tensors'
bytes. The index's checksums are verified, the weights' are not: Python would take minutes.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..config import GPT2Config
from ..conversion import COPIED, TRANSPOSED, CheckpointError, Layout
from .config_file import read_config

INDEX = "model.ckpt.index"
# hparams.json's names of the fields of a GPT2Config -> ours.
_HPARAMS = {
    "n_vocab": "vocab_size",
    "n_ctx": "n_positions",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}
MAGIC = bytes.fromhex("57fb808b247547db")
# The index of 1.5 billion parameters has 20 KB and names of 30 bytes.
_MOST_BYTES = 2**19
_LONGEST_NAME = 500
# The numbers of TensorFlow's types.proto.
_DTYPES = {1: torch.float32, 2: torch.float64, 14: torch.bfloat16, 19: torch.float16}


def read(index: Path) -> tuple[GPT2Config, dict[str, Tensor], Layout]:
    """Read the tensors that an index lists, with the hparams.json beside it.

    The names become Hugging Face's; one that is not GPT-2's stays as it is. The tensors are the
    memory-mapped data file. Raises CheckpointError, with the file's name, for an index that is
    damaged or compressed, and for data that is missing, partitioned, big-endian or not floating
    point.
    """
    config, _ = read_config(index.parent / "hparams.json", _HPARAMS)
    entries = _entries(index)
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
        if key.endswith("/w") and tensor.dim() == 3:  # a convolution's kernel, [1, in, out]
            tensor = tensor.squeeze(0)
        tensors[_name(key)] = tensor
    return config, tensors, "in_out"


def _entries(index: Path) -> dict[str, tuple[dict[int, int], dict[int, list[bytes]]]]:
    """Read the fields of each entry, by its name."""
    try:
        if (size := index.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"{size} bytes, expected at most {_MOST_BYTES}")
        return {key.decode(): _fields(value) for key, value in _table(index.read_bytes())}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{index}: not a readable TensorFlow index: {error}") from None


def _openais(key: str) -> str:
    """Return the name in OpenAI's model.py: h.{layer}.ln_1.weight is model/h{layer}/ln_1/g."""
    *modules, kind = key.replace("h.{layer}", "h{layer}").split(".")
    if modules[0] in ("wte", "wpe"):
        return f"model/{modules[0]}"
    letter = "b" if kind == "bias" else "g" if modules[-1].startswith("ln_") else "w"
    return "/".join(["model", *modules, letter])


_NAMES = {_openais(key): key for key in COPIED + TRANSPOSED}


def _name(key: str) -> str:
    """Return Hugging Face's name of an OpenAI name."""
    layer = re.match(r"model/h(0|[1-9][0-9]*)/", key)
    if not layer:
        return _NAMES.get(key, key)
    name = _NAMES.get(key.replace(layer[0], "model/h{layer}/"), key)
    return name.replace("{layer}", layer[1])


def _mapped(path: Path, index: Path) -> Tensor:
    """Map a data file: uint8 [size]. Writing to the tensor does not change the file."""
    if not path.is_file():
        raise CheckpointError(f"{index}: expected its data in {path}, which is no file")
    try:
        return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _tensor(
    data: Tensor, dtype: torch.dtype, numbers: dict[int, int], messages: dict[int, list[bytes]]
) -> Tensor:
    """Make the view that a BundleEntryProto describes: field 2 is its shape, 4 offset, 5 size."""
    dimensions = _fields(b"".join(messages[2]))[1][2]
    shape = [_fields(dimension)[0][1] for dimension in dimensions[:9]]
    offset, size = numbers[4], numbers[5]
    if not all(shape) or len(shape) > 8 or size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{size} bytes, which is not {dtype} {shape}")
    if offset % dtype.itemsize or offset + size > len(data):
        raise ValueError(f"{size} bytes from {offset} on, in a data file of {len(data)}")
    return data[offset : offset + size].view(dtype).view(shape)


class _Reader:
    """Takes bytes one after the other. Raises ValueError if there are too few left."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise ValueError(f"{size} bytes expected at {self.at}, of {len(self.data)}: cut off")
        self.at += size
        return self.data[self.at - size : self.at]

    def integer(self) -> int:
        """Take a varint: seven bits a byte, lowest first; the eighth bit says there are more."""
        value = 0
        for i in range(10):
            byte = self.take(1)[0]
            value |= (byte & 127) << 7 * i
            if byte < 128:
                return value
        raise ValueError(f"an integer of more than 10 bytes before {self.at}")


def _fields(data: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """Split a protocol buffer into its integers (0 if absent) and its messages, by field number."""
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
    """Yield the keys and values of a LevelDB table."""
    if len(file) < 48 or not file.endswith(MAGIC):
        raise ValueError("it does not end in a table's footer; perhaps it was cut off")
    footer = _Reader(file[-48:-8])
    for _ in range(2):  # skip the offset and size of a block of statistics
        footer.integer()
    end, last = 0, None
    for _, value in _block(file, footer.integer(), footer.integer()):
        handle = _Reader(value)
        offset, size = handle.integer(), handle.integer()
        if offset < end:  # many entries for one block would make a small file an endless one
            raise ValueError(f"the block at {offset} begins before the previous one ends")
        end = offset + size
        for key, value in _block(file, offset, size):
            if last is not None and key <= last:
                raise ValueError(f"{key!r} after {last!r}: expected names in order, each once")
            yield key, value
            last = key


def _block(file: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block. A key says how much of the last one it repeats."""
    block = _Reader(file, offset).take(size + 5)
    if int.from_bytes(block[-4:], "little") != _masked_crc32c(block[:-4]):
        raise ValueError(f"the block at {offset} does not have its checksum; it is damaged")
    if block[size]:
        kind = f"type {block[size]}; 1 is Snappy"
        raise ValueError(f"the block at {offset} is compressed ({kind}), expected type 0, none")
    restarts = int.from_bytes(block[size - 4 : size], "little")  # the last 4 * restarts + 4 bytes
    end = size - 4 - 4 * restarts
    if end < 0:
        raise ValueError(f"the block at {offset} is smaller than its list of keys")
    entries, key = _Reader(block[:end]), b""
    while entries.at < end:
        shared, rest, length = entries.integer(), entries.integer(), entries.integer()
        if shared > len(key) or shared + rest > _LONGEST_NAME:
            name = f"a name of {shared} + {rest} bytes after one of {len(key)}"
            raise ValueError(f"{name}, expected at most {_LONGEST_NAME}")
        key = key[:shared] + entries.take(rest)
        yield key, entries.take(length)


def _masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C, rotated and shifted as LevelDB stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
