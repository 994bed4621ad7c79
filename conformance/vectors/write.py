"""Writes the vectors as a folder, and the folder as an archive."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gpt2ref import GPT2Config, __version__

from .case import Case
from .cases import cases
from .checkpoints import CHECKPOINTS, Checkpoint, config_text, flat_file
from .errors import VectorsError
from .expecting import with_answers
from .full import full_files
from .generator import integers
from .left_out import LEFT_OUT

FORMAT = 1
HERE = Path(__file__).parent
SCHEMAS = ("index.schema.json", "case.schema.json", "answers.schema.json")
_SEEDS = (0, 20, 2**32 - 1)  # of the generator's own vectors


def write_vectors(folder: Path, shape: GPT2Config | None = None) -> dict[str, Any]:
    """Write the vectors as a new folder, and return its index.

    `shape`: that of the full set's cases, which are left out without it. The folder is written
    beside itself first, so there is never half of it. Raises VectorsError if it can't be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise VectorsError(f"{folder}: it is there already, and is not overwritten")
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise VectorsError(f"{folder}: can't be written: {error}") from error
    try:
        index = _write(temporary, shape)
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except OSError as error:
        raise VectorsError(f"{folder}: can't be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return index


def _write(folder: Path, shape: GPT2Config | None) -> dict[str, Any]:
    asked = list(cases())
    for name in dict.fromkeys(case.checkpoint for case in asked):
        write_checkpoint(folder / "checkpoints" / name, CHECKPOINTS[name]())
    listed = [write_case(folder, case) for case in asked]
    for name, content in full_files(shape).items() if shape else ():
        if isinstance(content, str):
            _write_text(folder / name, content)
        else:
            write_json(folder / name, content)
        listed += [{"id": Path(name).stem, "file": name}] if name.startswith("cases/") else []
    write_json(folder / "generator.json", generator_vectors())
    for name in SCHEMAS:
        _copy(HERE / name, folder / "schema" / name)
    for file in sorted((HERE / "runners").rglob("*.*")):
        _copy(file, folder / "runners" / file.relative_to(HERE / "runners"))
    index = index_of(folder, listed, shape is not None)
    write_json(folder / "index.json", index)
    return index


def write_case(folder: Path, case: Case) -> dict[str, str]:
    """Write a case's file, and return what the index says of it."""
    file = f"cases/{case.id}.json"
    write_json(folder / file, with_answers(case.to_dict(), case.refused, folder))
    return {"id": case.id, "file": file}


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    folder.mkdir(parents=True)
    content, places = flat_file(checkpoint.tensors)
    (folder / "model.safetensors").write_bytes(content)
    _write_text(folder / "config.json", config_text(checkpoint))
    write_json(folder / "tensors.json", {"file": "model.safetensors", "tensors": places})


def generator_vectors() -> dict[str, Any]:
    """Return what the generator of weights gives, for a port that makes the full set's."""
    firsts = (0, 2**32 - 4)
    return {
        "vectors": [
            {"seed": seed, "counter": first + n, "integer": integer}
            for seed in _SEEDS
            for first in firsts
            for n, integer in enumerate(integers(seed, first, 4).tolist())
        ]
    }


def index_of(folder: Path, listed: list[dict[str, str]], full: bool) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "suite": {"name": "gpt2ref", "version": __version__},
        "full": full,
        "cases": listed,
        "files": {
            name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
            for name, file in files_in(folder).items()
        },
        "left_out": LEFT_OUT,
    }


def files_in(folder: Path) -> dict[str, Path]:
    """Return the files that an index lists, by their names with slashes, in order."""
    found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*")}
    return {
        name: found[name]
        for name in sorted(found)
        if found[name].is_file() and name != "index.json"
    }


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_archive(folder: Path, file: Path) -> None:
    """Write a folder as a tar file with the same bytes everywhere, and its checksum beside it.

    It is not compressed, since each version of a compressor writes other bytes.
    """

    def write(path: Path) -> None:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, each in {"index.json": folder / "index.json", **files_in(folder)}.items():
                about = tarfile.TarInfo(f"gpt2-vectors/{name}")
                about.size = each.stat().st_size
                with each.open("rb") as content:
                    archive.addfile(about, content)

    _at_once(file, write)
    checksum = f"{sha256(file)}  {file.name}\n"
    write_text_at_once(file.with_name(f"{file.name}.sha256"), checksum)


def _at_once(file: Path, write: Callable[[Path], None]) -> None:
    """Write a file under another name first. Raises VectorsError if it can't be written."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, file)
    except OSError as error:
        raise VectorsError(f"{file}: can't be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text_at_once(file: Path, text: str) -> None:
    _at_once(file, lambda path: _write_text(path, text))


def write_json(file: Path, data: Any) -> None:
    _write_text(file, "".join(_lines(data)) + "\n")


def _lines(data: Any) -> Iterable[str]:
    """Yield JSON with a line for each field, or for each entry of a field that has several."""
    yield "{\n"
    for number, (key, value) in enumerate(data.items()):
        yield ",\n" if number else ""
        if isinstance(value, (dict, list)) and value and len(json.dumps(value)) > 80:
            yield f"{json.dumps(key)}: {_opened(value)}"
        else:
            yield f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}"
    yield "\n}"


def _opened(value: dict[str, Any] | list[Any]) -> str:
    if isinstance(value, dict):
        rows = [f"{json.dumps(key)}: {json.dumps(each)}" for key, each in value.items()]
        return "{\n " + ",\n ".join(rows) + "\n}"
    return "[\n " + ",\n ".join(json.dumps(each, allow_nan=False) for each in value) + "\n]"


def _write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode("utf-8"))  # the same line ends on every system


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
