"""Write OpenAI's TensorFlow files, with no code in common with the reader."""

import json
import re
import struct

import torch

from conformance.checkpoints.tensors import trained_like
from gpt2ref import GPT2Config

CONFIG = GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_layer=11, n_head=2)
HPARAMS = {"n_vocab": 7, "n_ctx": 5, "n_embd": 4, "n_head": 2, "n_layer": 11}
TENSORS = trained_like(CONFIG, seed=0)
DATA = "model.ckpt.data-00000-of-00001"
TYPES = {
    torch.float32: 1,
    torch.float64: 2,
    torch.bfloat16: 14,
    torch.float16: 19,
    torch.int32: 3,
    torch.int64: 9,
}


def crc(data):
    """Return the masked CRC-32C."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 * (value & 1))
    value ^= 0xFFFFFFFF
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) % 2**32


def varint(value):
    out = b""
    while value >= 128:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def number(field, value):
    return varint(field << 3) + varint(value)


def message(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def entry(dtype=1, shape=(), shard=0, offset=0, size=0, extra=b""):
    """Return a BundleEntryProto. As in proto3, zeros are left out."""
    dims = b"".join(message(2, number(1, n)) for n in shape)
    fields = [(3, shard), (4, offset), (5, size)]
    written = b"".join(number(field, value) for field, value in fields if value)
    return (
        number(1, dtype)
        + message(2, dims)
        + written
        + varint(6 << 3 | 5)
        + b"\x12\x34\x56\x78"
        + extra
    )


def block(pairs, restart_every=4):
    out, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(pairs):
        shared = 0
        if i % restart_every:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        out += (
            varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        )
        last = key
    return (
        out
        + b"".join(struct.pack("<I", n) for n in restarts or [0])
        + struct.pack("<I", len(restarts or [0]))
    )


def sealed(content, kind=0):
    content += bytes([kind])
    return content + struct.pack("<I", crc(content))


def footer(meta, index):
    handles = b"".join(varint(n) for n in (*meta, *index))
    return handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def table(pairs, per_block=9, kind=0, change_handles=lambda handles: handles):
    """Return a LevelDB table of several blocks: its data, two index blocks, its footer."""
    out, handles = b"", []
    for i in range(0, len(pairs), per_block):
        part = block(pairs[i : i + per_block])
        handles.append((pairs[i : i + per_block][-1][0], varint(len(out)) + varint(len(part))))
        out += sealed(part, kind)
    places = []
    for content in (block([]), block(change_handles(handles), restart_every=1)):
        places.append((len(out), len(content)))
        out += sealed(content)
    return out + footer(*places)


def theirs(key):
    """Return the name in OpenAI's model.py of a Hugging Face name."""
    if key.startswith("w"):
        return "model/" + key.removesuffix(".weight")
    leaf = "b" if key.endswith("bias") else "g" if "ln_" in key else "w"
    return "model/" + re.sub(r"^h\.", "h", key).rsplit(".", 1)[0].replace(".", "/") + "/" + leaf


def bundle(tensors, change=lambda entries: entries):
    """Return the sorted entries of an index, and the data file."""
    data, entries = b"", {b"": number(1, 1) + message(3, number(1, 1))}
    for key, tensor in sorted((theirs(key).encode(), tensor) for key, tensor in tensors.items()):
        shape = (1, *tensor.shape) if key.endswith(b"/w") else tensor.shape
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        entries[key] = entry(TYPES[tensor.dtype], shape, 0, len(data), len(raw))
        data += raw
    return sorted(change(entries).items()), data


def write(folder, tensors=TENSORS, change=lambda entries: entries, **options):
    pairs, data = bundle(tensors, change)
    folder.mkdir(exist_ok=True)
    (folder / "model.ckpt.index").write_bytes(table(pairs, **options))
    (folder / DATA).write_bytes(data)
    (folder / "hparams.json").write_text(json.dumps(HPARAMS))
    for name in ("checkpoint", "encoder.json", "vocab.bpe", "model.ckpt.meta"):
        (folder / name).write_bytes(b"\xff not read")
    return folder
