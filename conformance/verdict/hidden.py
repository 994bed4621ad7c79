"""Hides what pytest, libraries and other processes write, and keeps it.

A verdict is then the last that is written, whatever a library still has to say.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO


@dataclass
class Hidden:
    """The real standard output and standard error, and the file that took their place."""

    out: TextIO
    err: TextIO
    file: TextIO

    def text(self) -> str:
        """Return what was hidden."""
        self.file.flush()
        self.file.seek(0)
        return self.file.read().strip()


@contextlib.contextmanager
def hidden() -> Iterator[Hidden]:
    """Hide all output: that of Python, of C code, and of processes that are started meanwhile."""
    with contextlib.ExitStack() as ends:
        out, err = (ends.enter_context(_same_place(each)) for each in (sys.stdout, sys.stderr))
        # A library that logs to the standard error of now may still write when this has ended, so
        # the file stays open.
        file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        atexit.register(file.close)
        for descriptor in (1, 2):
            ends.enter_context(_replaced(descriptor, file.fileno()))
        ends.enter_context(contextlib.redirect_stdout(file))
        ends.enter_context(contextlib.redirect_stderr(file))
        if not faulthandler.is_enabled():  # so that a crash of this process is seen
            faulthandler.enable(err)
            ends.callback(faulthandler.disable)
        yield Hidden(out, err, file)


def silence() -> None:
    """Drop all that this process still writes. It is about to end."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(os.devnull, "w") as nowhere:
        for descriptor in (1, 2):
            os.dup2(nowhere.fileno(), descriptor)


@contextlib.contextmanager
def _same_place(stream: TextIO) -> Iterator[TextIO]:
    """Open the place of a stream a second time, where it has a descriptor."""
    stream.flush()
    try:
        descriptor = os.dup(stream.fileno())
    except (OSError, ValueError):  # a stream of Python alone
        yield stream
        return
    errors = stream.errors or "backslashreplace"
    with open(descriptor, "w", encoding=stream.encoding, errors=errors, buffering=1) as other:
        yield other


@contextlib.contextmanager
def _replaced(descriptor: int, other: int) -> Iterator[None]:
    kept = os.dup(descriptor)
    os.dup2(other, descriptor)
    try:
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
