"""Read the checkpoints of karpathy/llm.c (`gpt2_124M.bin`, `gpt2_124M_bf16.bin`).

Its train_gpt2.py defines the format, in `write_model`: 256 numbers of 32 bits, then the tensors,
those of one kind for all layers one after the other, with nn.Linear's matrices [out, in].
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from ..config import GPT2Config
from ..conversion import CheckpointError, Layout

_HEADER = struct.Struct("<256i")
_MAGIC = 20240326
MAGIC = struct.pack("<i", _MAGIC)
_DTYPES = {3: torch.float32, 5: torch.bfloat16}  # by the format's version
_FIELDS = ("n_positions", "vocab_size", "n_layer", "n_head", "n_embd")  # in the header's order

# The order of the tensors, and the shape of each in widths of the model: v is the vocabulary with
# its padding, t the context.
_BLOCK = {
    "ln_1.weight": "c", "ln_1.bias": "c",
    "attn.c_attn.weight": "3c c", "attn.c_attn.bias": "3c",
    "attn.c_proj.weight": "c c", "attn.c_proj.bias": "c",
    "ln_2.weight": "c", "ln_2.bias": "c",
    "mlp.c_fc.weight": "4c c", "mlp.c_fc.bias": "4c",
    "mlp.c_proj.weight": "c 4c", "mlp.c_proj.bias": "c",
}  # fmt: skip
_BEFORE = {"wte.weight": "v c", "wpe.weight": "t c"}
_AFTER = {"ln_f.weight": "c", "ln_f.bias": "c"}


def read(path: Path) -> tuple[GPT2Config, dict[str, Tensor], Layout]:
    """Read the tensors, which are the memory-mapped file, without the padding of the vocabulary.

    Raises CheckpointError, with the file's name, for another version, a shape that no GPT-2 has, or
    a size that is not the shape's.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_HEADER.size)
    try:
        config, dtype, padded = _shape(start)
        shapes = _shapes(config, padded)
        expected = _HEADER.size + dtype.itemsize * sum(n * math.prod(s) for _, n, s in shapes)
        if size != expected:
            raise ValueError(f"{size} bytes, expected {expected} for the shape in its header")
        data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except (ValueError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint of llm.c: {error}") from None
    tensors: dict[str, Tensor] = {}
    rest = data[_HEADER.size :].view(dtype)
    for name, n, shape in shapes:
        parts, rest = rest[: n * math.prod(shape)].view(n, *shape), rest[n * math.prod(shape) :]
        tensors |= {name.format(layer=layer): parts[layer] for layer in range(n)}
    tensors["wte.weight"] = tensors["wte.weight"][: config.vocab_size]
    return config, tensors, "out_in"


def _shape(start: bytes) -> tuple[GPT2Config, torch.dtype, int]:
    """Read the header: the shape, the dtype of all tensors, and the vocabulary with its padding."""
    if len(start) < _HEADER.size:
        raise ValueError(f"{len(start)} bytes, expected a header of {_HEADER.size}: it is cut off")
    magic, version, *numbers = _HEADER.unpack(start)
    if magic != _MAGIC:
        raise ValueError(f"it begins with {magic}, expected {_MAGIC}")
    if version not in _DTYPES:
        raise ValueError(f"version {version}, expected 3 (float32) or 5 (bfloat16)")
    config = GPT2Config(**dict(zip(_FIELDS, numbers, strict=False)))
    padded = numbers[len(_FIELDS)]
    if padded < config.vocab_size:
        raise ValueError(f"padded_vocab_size={padded}, expected at least {config.vocab_size}")
    return config, _DTYPES[version], padded


def _shapes(config: GPT2Config, padded: int) -> list[tuple[str, int, list[int]]]:
    """List the name of each kind of tensor, how many there are, and their shape."""
    c = config.n_embd
    sizes = {"v": padded, "t": config.n_positions, "c": c, "3c": 3 * c, "4c": 4 * c}
    kinds = [
        *((name, 1, shape) for name, shape in _BEFORE.items()),
        *((f"h.{{layer}}.{name}", config.n_layer, shape) for name, shape in _BLOCK.items()),
        *((name, 1, shape) for name, shape in _AFTER.items()),
    ]
    return [(name, n, [sizes[size] for size in shape.split()]) for name, n, shape in kinds]
