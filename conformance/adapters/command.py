"""Judges a program in any language: JSON lines over its standard input and output. docs/adapters.md shows every message.

Each `load` starts a process of its own, so that checkpoints can't see each other, and its standard input is closed when
the suite needs it no longer. Not in the protocol: `state_dict`, and logits in float64, since they travel as float32.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from .protocol import ProtocolError

OPTIONAL = ("generate", "prefill", "step")
TIMEOUT = 120.0  # seconds for one answer, however long: a load of 548 MB, or 1024 tokens of the 124M shape
_GRACE = 5.0  # seconds to end by itself once its input has
_TAIL_LINES, _TAIL_BYTES = 6, 2000  # of standard error in a message; the verdict shows no more


class ProgramError(Exception):
    """The program's own words for what went wrong: its answer was {"error": message}."""


class Program:
    """One process, and the messages to and from it.

    Ends when the object is collected, or at exit: input closed, _GRACE seconds, then killed with all it has started.
    """

    def __init__(self, arguments: list[str], timeout: float) -> None:
        self._name = shlex.join(arguments)
        self._timeout = timeout
        self._timed_out = threading.Event()
        # A file rather than a pipe: nobody has to empty it, so a program may log as much as it likes.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _end)
        try:
            # In a session of its own it can be killed with its children, and Ctrl-C is left to us.
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
            )
        except BaseException:
            self._log.close()
            raise
        weakref.finalize(self, _end, self._process, self._log)

    def ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        """One request, one answer.

        Raises NotImplementedError or ProgramError if that is the answer, and ProtocolError if there is none, none in
        time, or one that isn't a JSON object on a line.
        """
        request = json.dumps({"method": method, **arguments}, ensure_ascii=False).encode() + b"\n"
        line = self._exchange(request)
        if not line.endswith(b"\n"):
            raise self.broken(
                f"no answer to {method!r} within {self._timeout:g} s"
                if self._timed_out.is_set()
                else self._ending(method)
            )
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            shown = ascii(line[:60].decode(errors="replace").rstrip())
            raise self.broken(
                f"the answer to {method!r} is not a JSON object on one line (logs go to standard error): {shown}"
            )
        if "not_applicable" in answer:
            raise NotImplementedError(answer["not_applicable"])
        if "error" in answer:
            raise ProgramError(answer["error"])
        return answer

    def broken(self, what: str) -> ProtocolError:
        """A ProtocolError that says what, and ends with the last lines of standard error."""
        size = os.fstat(self._log.fileno()).st_size
        # pread, since the program writes at the file offset that it shares with us.
        tail = os.pread(self._log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(
            errors="replace"
        )
        last = "\n".join(tail.splitlines()[-_TAIL_LINES:]) or "(empty)"
        return ProtocolError(f"{self._name}: {what}; the end of its standard error:\n{last}")

    def _exchange(self, request: bytes) -> bytes:
        """The answer's line; without its newline, or empty, if the program ended or ran out of time."""
        assert self._process.stdin
        assert self._process.stdout
        watchdog = threading.Timer(
            self._timeout, _run_out_of_time, (self._process, self._timed_out)
        )
        watchdog.daemon = True
        watchdog.start()
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except OSError:  # a pipe without a reader
            return b""
        finally:
            watchdog.cancel()

    def _ending(self, method: str) -> str:
        try:
            status = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return f"standard output was closed before {method!r} was answered"
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return f"the program ended ({how}) before {method!r} was answered"


def _run_out_of_time(process: subprocess.Popen[bytes], timed_out: threading.Event) -> None:
    timed_out.set()
    _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(
        ProcessLookupError, PermissionError
    ):  # already gone; macOS says the latter of a zombie
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    assert process.stdin
    assert process.stdout
    with suppress(OSError):  # what a dead program has not read is still in the buffer
        process.stdin.close()
    if process.returncode is None:  # otherwise its id may be another's by now
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        _kill(process)  # with what it may have started
        process.wait()
    process.stdout.close()
    log.close()


class Command:
    """A GPT-2 that a program has loaded, as protocol.Implementation asks for it. Logits are float32 tensors on the CPU."""

    def __init__(
        self, program: Program, *, checkpoint: str, device: str, dtype: torch.dtype
    ) -> None:
        self._program = program
        answer = program.ask(
            "load", checkpoint=checkpoint, device=device, dtype=str(dtype).removeprefix("torch.")
        )
        methods = answer.get("methods")
        if not isinstance(methods, list) or not all(name in OPTIONAL for name in methods):
            raise program.broken(
                f"the answer to 'load' has \"methods\": {methods!r}, expected a list of {', '.join(OPTIONAL)}"
            )
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        # Bound here, not in __init__: a cycle of references would keep the process alive until the collector comes by.
        if name in OPTIONAL and name in self._methods:
            return getattr(self, f"_{name}")
        raise AttributeError(name)

    def logits(self, token_ids: Tensor) -> Tensor:
        ids = token_ids.tolist()
        return self._logits_in(self._program.ask("logits", token_ids=ids), "logits", ids)

    def _generate(
        self,
        token_ids: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[list[int]]:
        options = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "seed": seed,
        }
        rows = self._program.ask("generate", token_ids=token_ids.tolist(), **options).get(
            "token_ids"
        )
        if not isinstance(rows, list) or not all(
            isinstance(row, list) and all(type(id_) is int for id_ in row) for row in rows
        ):
            shown = json.dumps(rows)[:60]
            raise self._program.broken(
                f"the answer to 'generate' has \"token_ids\": {shown}, expected a list of ids for each row"
            )
        return rows

    def _prefill(self, token_ids: Tensor) -> tuple[Tensor, Any]:
        ids = token_ids.tolist()
        return self._with_cache(self._program.ask("prefill", token_ids=ids), "prefill", ids)

    def _step(self, token_ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        ids = token_ids.tolist()
        return self._with_cache(self._program.ask("step", token_ids=ids, cache=cache), "step", ids)

    def _with_cache(
        self, answer: dict[str, Any], method: str, ids: list[list[int]]
    ) -> tuple[Tensor, Any]:
        if "cache" not in answer:
            raise self._program.broken(f'the answer to {method!r} has no "cache"')
        return self._logits_in(answer, method, ids), answer["cache"]

    def _logits_in(self, answer: dict[str, Any], method: str, ids: list[list[int]]) -> Tensor:
        shape, encoded = answer.get("shape"), answer.get("logits")
        wanted = [len(ids), len(ids[0])]
        if (
            not isinstance(shape, list)
            or len(shape) != 3
            or shape[:2] != wanted
            or type(shape[2]) is not int
        ):
            expected = f"[{wanted[0]}, {wanted[1]}, vocab_size]"
            raise self._program.broken(
                f'the answer to {method!r} has "shape": {shape!r}, expected {expected}'
            )
        try:
            data = base64.b64decode(encoded, validate=True)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise self._program.broken(
                f'the answer to {method!r} has "logits" that are not base64: {error}'
            ) from None
        if len(data) != 4 * prod(shape):
            found = f"{len(data)} bytes of logits, expected {4 * prod(shape)}: float32 {shape}"
            raise self._program.broken(f"the answer to {method!r} has {found}")
        return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32).reshape(shape))


def load_command(command: str, *, timeout: float = TIMEOUT) -> Callable[..., Command]:
    """The `load` function of a program, given as a command line in the shell's quoting. `timeout`: seconds for one answer.

    Raises FileNotFoundError if there is no such program that may be executed, ValueError if `command` is no command line.
    """
    arguments = shlex.split(command)
    if not arguments:
        raise ValueError("no program is named")
    if shutil.which(arguments[0]) is None:
        raise FileNotFoundError(
            f"{arguments[0]}: there is no such program, or it may not be executed"
        )

    def load(
        checkpoint: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Command:
        if device == "meta":
            raise NotImplementedError("the command protocol has no meta device")
        if dtype == torch.float64:
            raise NotImplementedError("the command protocol carries logits as float32")
        return Command(
            Program(arguments, timeout), checkpoint=checkpoint, device=device, dtype=dtype
        )

    return load
