"""step.c as a shared library: compiled for this processor when needed, then kept in a cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

DEFINITIONS: dict[torch.dtype, list[str]] = {
    torch.float32: [],
    torch.bfloat16: ["-DBFLOAT16"],
    torch.float16: ["-DFLOAT16"],
}

_SOURCE = Path(__file__).parent / "step.c"
_FLAGS = ["-O3", "-shared", "-fPIC"]
if platform.machine() in ("x86_64", "AMD64"):
    # Compilers avoid vectors of 512 bits even for a processor that has them, which costs 8%.
    _FLAGS += ["-march=native", "-mprefer-vector-width=512"]
elif platform.machine() in ("aarch64", "arm64"):
    _FLAGS += ["-mcpu=native"]


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL:
    """Return step.c compiled for this dtype by $CC, or cc.

    Warns if the compiler has no OpenMP: the step uses one thread then. Raises RuntimeError, with
    the command and what was wrong, if step.c can't be compiled or loaded.
    """
    command = [*shlex.split(os.environ.get("CC") or "cc"), *_FLAGS, *DEFINITIONS[dtype]]
    try:
        return _load([*command, "-fopenmp"])
    except RuntimeError as error:
        try:
            loaded = _load([*command, "-fopenmp-simd"])
        except RuntimeError:
            raise error from None
    warnings.warn(f"{command[0]} has no OpenMP: compiled steps use one thread", stacklevel=3)
    return loaded


def _load(command: list[str]) -> ctypes.CDLL:
    """Load the library from the cache, or compile it and put it there."""
    kept = _cache_folder() / f"step-{_key(command)}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.so"
        if content := _read(kept):
            path.write_bytes(content)
            with suppress(OSError):  # a library that it needs is gone
                return ctypes.CDLL(str(path))
        command = [*command, "-o", str(path), str(_SOURCE), "-lm"]
        try:
            subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
            loaded = ctypes.CDLL(str(path))
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{shlex.join(command)}\n{error.stderr}") from None
        except OSError as error:  # no such compiler, or a library that can't be loaded
            raise RuntimeError(f"{shlex.join(command)}\n{error}") from None
        _keep(kept, path.read_bytes())
        return loaded


def _key(command: list[str]) -> str:
    """Return a hash of all that the library depends on: sources, compiler, flags, processor."""
    key = hashlib.sha256(repr([*command, platform.machine()]).encode())
    for source in (_SOURCE, *sorted(_SOURCE.parent.glob("*.h"))):
        key.update(source.read_bytes())
    with suppress(OSError):  # no such compiler
        # With -v a compiler says its own version, and which instructions "native" means.
        asked = [*command, "-v", "-E", "-x", "c", os.devnull]
        key.update(subprocess.run(asked, capture_output=True, check=False).stderr)
    return key.hexdigest()


def _cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/gpt2ref, or its place in the user's home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # others are to be ignored
        return Path(given) / "gpt2ref"
    caches = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return Path(os.path.expanduser(caches)) / "gpt2ref"


def _read(kept: Path) -> bytes | None:
    """Return a library that `_keep` wrote; None if there is none, or it can't be trusted.

    It is code that this process will run, so nobody else may be able to write the file or its
    folder, and a file that is damaged does not have the hash at its beginning.
    """
    try:
        with open(kept, "rb") as file:
            for status in (os.stat(kept.parent), os.fstat(file.fileno())):
                if status.st_uid != os.getuid() or status.st_mode & 0o022:
                    return None
            content = file.read()
    except OSError:
        return None
    begin = hashlib.sha256().digest_size
    return content[begin:] if content[:begin] == _digest(kept, content[begin:]) else None


def _keep(kept: Path, content: bytes) -> None:
    """Write the library to the cache at once, or leave the cache as it is if that fails."""
    with suppress(OSError):  # no home, no right to write there, or no room
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            new = Path(folder) / kept.name
            new.write_bytes(_digest(kept, content) + content)
            new.chmod(0o600)
            new.replace(kept)


def _digest(kept: Path, content: bytes) -> bytes:
    return hashlib.sha256(kept.name.encode() + content).digest()
