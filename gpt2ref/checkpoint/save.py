"""Write a checkpoint in Hugging Face's layout: the whole of it or nothing, whatever goes wrong."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from ..conversion import to_hugging_face_tensors
from ..model import GPT2

if sys.platform != "win32":
    import fcntl


def save_checkpoint(model: GPT2, folder: str | os.PathLike[str]) -> None:
    """Write `config.json` and `model.safetensors` for Hugging Face's `from_pretrained`, or `load_checkpoint`.

    Both are written beside what is in the folder and moved there when they are whole, so whatever goes wrong the folder
    has the checkpoint that it had or the new one. In the instant between the two moves it has no config.json, and is none.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        if (folder / name).is_dir():
            raise IsADirectoryError(f"{folder / name}: a folder, expected a file or nothing")
    tensors = to_hugging_face_tensors(model)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        fresh = Path(scratch)
        (fresh / "config.json").write_text(
            json.dumps(model.config.to_dict(), indent=2) + "\n", encoding="utf-8"
        )
        try:
            save_file(tensors, fresh / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # which also stands for a full disk
            raise OSError(f"{folder / 'model.safetensors'}: can't be written: {error}") from None
        (fresh / "model.safetensors").chmod(
            (fresh / "config.json").stat().st_mode
        )  # else its owner's alone
        with _alone_in(folder), _ctrl_c_waits():
            _put_in_place(fresh, folder)


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Move the two files from one folder to the other. A config.json is never beside weights that are not its own."""
    config, weights, old = folder / "config.json", folder / "model.safetensors", fresh / "old.json"
    with suppress(FileNotFoundError):
        os.replace(config, old)
    try:
        os.replace(fresh / weights.name, weights)
    except OSError:
        with suppress(FileNotFoundError):
            os.replace(old, config)
        raise
    os.replace(fresh / config.name, config)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until nobody else moves a checkpoint there. Without effect on Windows, and where a file system has no locks."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # the only one that it interrupts
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)
