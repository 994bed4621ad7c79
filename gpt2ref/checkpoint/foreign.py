"""Recognise a file by its first bytes, whatever its name: a format that is read, or another's."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from ..conversion import CheckpointError
from . import llmc, tensorflow
from .config_file import MOST_BYTES

Kind = Literal["safetensors", "pickle", "llm.c", "tensorflow"]

_ORIGINAL = "load the checkpoint that it was made from, in Hugging Face's or nanoGPT's files"
_AGAIN = "get it again, for example with `hf download`, and compare its size"
_UNPACK = "unpack it and load what is in it"
_HDF5 = "in a transformers before 5, GPT2LMHeadModel.from_pretrained(folder, from_tf=True)"
_FLAX = "in a transformers before 5, GPT2LMHeadModel.from_pretrained(folder, from_flax=True)"
_NUMPY = "save its arrays as tensors under GPT-2's names, with safetensors.torch.save_file"
_PEFT = (
    "a PEFT adapter, not a model: merge it with "
    "AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(new)"
)
_WEIGHTS = "give the file with the weights, or the folder"

# First bytes -> what begins with them, and what to do.
_FIRST_BYTES: dict[bytes, tuple[str, str]] = {
    b"GGUF": ("a GGUF file of llama.cpp", _ORIGINAL),
    b"lmgg": ("a GGML file of llama.cpp", _ORIGINAL),
    b"fmgg": ("a GGML file of llama.cpp", _ORIGINAL),
    b"tjgg": ("a GGML file of llama.cpp", _ORIGINAL),
    b"algg": ("a GGML adapter of llama.cpp", _ORIGINAL),
    struct.pack("<i", 20240327): ("a file of llm.c for its own tests", _WEIGHTS),
    struct.pack("<i", 20240328): ("llm.c's tokenizer", _WEIGHTS),
    struct.pack("<i", 20240520): ("a file of token ids for llm.c", _WEIGHTS),
    b"24ka": ("a file of llama2.c", _ORIGINAL),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file of Keras or TensorFlow", f"convert it: {_HDF5}"),
    b"\x93NUMPY": ("an array of NumPy (.npy)", _NUMPY),
    b"version https://git-lfs": (
        "the pointer of Git LFS to a file, not the file",
        "run `git lfs pull` in the clone, or download the file itself",
    ),
    b"# xet version": ("the pointer of Xet to a file, not the file", "download the file itself"),
    b"model_checkpoint_path:": ("TensorFlow's list of checkpoints", _WEIGHTS),
    b"\x08\x01\x12": ("a SavedModel of TensorFlow", _ORIGINAL),
    b"\x1f\x8b": ("a gzip archive", _UNPACK),
    b"BZh": ("a bzip2 archive", _UNPACK),
    b"\xfd7zXZ\0": ("an xz archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"PAR1": ("a Parquet table", _WEIGHTS),
    b"ARROW1": ("an Arrow table", _WEIGHTS),
}
# The same for bytes that stand somewhat later: (position, bytes).
_LATER_BYTES: dict[tuple[int, bytes], tuple[str, str]] = {
    (4, b"TFL3"): ("a TensorFlow Lite file", _ORIGINAL),
    (4, b"ET12"): ("an ExecuTorch file", _ORIGINAL),
    (257, b"ustar"): ("a tar archive", _UNPACK),
}
_MSGPACK_MAP = re.compile(rb"(?:[\x81-\x8f]|\xde..|\xdf....)(?:[\xa1-\xbf]|\xd9.)[\w./ -]", re.S)
# ONNX's ModelProto: field 1, the version of the format; then a name, a number, the graph or a list.
_ONNX = re.compile(rb"\x08[\x02-\x20](?:[\x12\x1a\x22\x32\x3a\x42\x72]|\x28[\x00-\x7f][\x32\x3a])")
_CTRANSLATE2 = re.compile(rb"[\x01-\x20]\0\0\0.\0\w{2,40}Spec\0", re.S)
_WEB_PAGE = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|\?xml|error|!--)", re.I)
_TENSORFLOW_DATA = re.compile(r"(.*)\.data-\d{5}-of-\d{5}")


class ForeignFileError(CheckpointError):
    """The file is another tool's, an archive, a web page, a pointer, or empty."""

    def __init__(self, path: Path, what: str, remedy: str) -> None:
        super().__init__(f"{path}: this is {what}, which is not read here: {remedy}")


def recognise(path: Path) -> Kind:
    """Tell which module reads the file.

    What the first bytes leave open is decided by the name, so that a damaged file is reported by
    the module that should read it. Raises ForeignFileError, in one sentence with what to do, for a
    file that is known and not read, and CheckpointError for one that is not known.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(1024)
        file.seek(max(0, size - 8))
        end = file.read(8)
    if part := _by_name(path):
        raise ForeignFileError(path, *part)
    if kind := _own(path, start, end):
        return kind
    if known := _foreign(start):
        raise ForeignFileError(path, *known)
    if path.suffix == ".safetensors":
        return "safetensors"
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        return "pickle"
    raise CheckpointError(
        f"{path}: no known format begins with the bytes {start[:8].hex(' ')}: "
        "expected safetensors, a pickle of torch.save, llm.c's .bin or TensorFlow's .index"
    )


def _own(path: Path, start: bytes, end: bytes) -> Kind | None:
    if path.suffix == ".index" or end == tensorflow.MAGIC:
        return "tensorflow"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MOST_BYTES:
        return "safetensors"
    if start.startswith(llmc.MAGIC):
        return "llm.c"
    if start.startswith(b"PK\3\4"):
        return _zip(path)
    return "pickle" if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5") else None


def _zip(path: Path) -> Kind:
    """torch.save writes a zip archive, and so do others."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name for name in archive.namelist()}
    except Exception:  # a damaged archive raises anything, and its reader reports it
        return "pickle"
    if "constants.pkl" in names:
        what, remedy = "a TorchScript archive", "save its state_dict() with torch.save"
    elif "data.pkl" in names:
        return "pickle"
    elif any(name.endswith(".npy") for name in names):
        what, remedy = "an archive of NumPy's or MLX's arrays (.npz)", _NUMPY
    elif "model.weights.h5" in names:
        what, remedy = "a Keras archive", f"convert it: {_HDF5}"
    else:
        what, remedy = "a zip archive without a pickle of torch.save", _UNPACK
    raise ForeignFileError(path, what, remedy)


def _by_name(path: Path) -> tuple[str, str] | None:
    """Return what a part of a checkpoint is, and what to do, where its first bytes do not tell."""
    if data := _TENSORFLOW_DATA.fullmatch(path.name):
        return "TensorFlow's file of data", f"give {data[1]}.index beside it, or their folder"
    if path.name.endswith(".ckpt.meta"):
        return "TensorFlow's graph", f"give {path.stem}.index beside it, or their folder"
    if path.suffix == ".distcp":
        convert = "torch.distributed.checkpoint.format_utils.dcp_to_torch_save(folder, path)"
        return "a part of torch's distributed checkpoint", f"convert it: {convert}"
    return None


def _foreign(start: bytes) -> tuple[str, str] | None:
    """Return what a file is that begins so, and what to do, if that is known."""
    if not start:
        return "an empty file", _AGAIN
    if not start.strip(b"\0"):
        return "a file that begins with zeros alone, as a broken download leaves it", _AGAIN
    for signature, known in _FIRST_BYTES.items():
        if start.startswith(signature):
            return known
    for (position, signature), known in _LATER_BYTES.items():
        if start.startswith(signature, position):
            return known
    if _WEB_PAGE.match(start):
        return "a web page or an XML text, such as a server's error", _AGAIN
    if _MSGPACK_MAP.match(start):
        return "a msgpack file of Flax", f"convert it: {_FLAX}"
    if _CTRANSLATE2.match(start):
        return "a model of CTranslate2", _ORIGINAL
    if _ONNX.match(start):
        return "an ONNX model", _ORIGINAL
    if start.lstrip()[:1] in (b"{", b"["):
        return "a JSON text without weights", _WEIGHTS
    return None


def refuse_adapter(path: Path, names: Iterable[str]) -> None:
    """Raise CheckpointError if the tensors are those of a PEFT adapter."""
    if any(f".{part}" in name for name in names for part in ("lora_", "ia3_", "prompt_embeddings")):
        raise CheckpointError(f"{path}: this is {_PEFT}")


def folder_without_weights(folder: Path, expected: str) -> Exception:
    """Make the error for a folder that has none of the expected files: it names what is there."""
    if (folder / "adapter_config.json").is_file():
        return CheckpointError(f"{folder}: this is {_PEFT}")
    readable = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix not in (".json", ".txt", ".md", ".py"):
            try:
                recognise(path)
                readable.append(path.name)
            except ForeignFileError as error:
                return error
            except (CheckpointError, OSError):
                continue
    given = f"; it has {', '.join(readable)}: give the file with the weights" if readable else ""
    return FileNotFoundError(f"{folder}: expected one of {expected} in this folder{given}")
