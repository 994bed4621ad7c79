"""Adapter for a program in any language: JSON lines over its standard input and output.

docs/adapters.md shows every message. Each `load` starts a new process, so that checkpoints can't
see each other. The suite closes the standard input of a process that it no longer needs. The
protocol has no `state_dict`, and no logits in float64: they travel as float32.
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

from .forms import ProtocolError

OPTIONAL = ("generate", "prefill", "step")
# Seconds for one answer, such as a load of 548 MB, or the logits of 1024 tokens of the 124M shape.
TIMEOUT = 120.0
_GRACE = 5.0  # seconds that a program has to end after its input was closed
_TAIL_LINES, _TAIL_BYTES = 6, 2000  # the part of standard error in a message


class ProgramError(Exception):
    """The program answered {"error": message}."""


class Program:
    """A process, and the messages to and from it.

    The process ends when the object is collected, or at exit: its input is closed, and after _GRACE
    seconds it is killed together with its children.
    """

    def __init__(self, arguments: list[str], timeout: float) -> None:
        self._name = shlex.join(arguments)
        self._timeout = timeout
        self._timed_out = threading.Event()
        # A program may log any amount to a file. A pipe would have to be emptied.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _end)
        try:
            # In its own session it can be killed with its children, and Ctrl-C reaches only us.
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
        """Send one request and return its answer.

        Raises NotImplementedError or ProgramError if the answer says so. Raises ProtocolError if
        there is no answer in time, or one that isn't a JSON object on one line.
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
                f"the answer to {method!r} is not a JSON object on one line "
                f"(logs go to standard error): {shown}"
            )
        if "not_applicable" in answer:
            raise NotImplementedError(answer["not_applicable"])
        if "error" in answer:
            raise ProgramError(answer["error"])
        return answer

    def broken(self, what: str) -> ProtocolError:
        """Make a ProtocolError that ends with the last lines of standard error."""
        size = os.fstat(self._log.fileno()).st_size
        # pread leaves the file offset alone: the program shares it, and writes there.
        tail = os.pread(self._log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(
            errors="replace"
        )
        last = "\n".join(tail.splitlines()[-_TAIL_LINES:]) or "(empty)"
        return ProtocolError(f"{self._name}: {what}; the end of its standard error:\n{last}")

    def _exchange(self, request: bytes) -> bytes:
        """Return the line of the answer.

        The newline is missing if the program ended or ran out of time.
        """
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
        except OSError:  # the pipe has no reader
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
    # The process may be gone already. For a zombie, macOS raises PermissionError.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    assert process.stdin
    assert process.stdout
    with suppress(OSError):  # the buffer still has what a dead program did not read
        process.stdin.close()
    if process.returncode is None:  # otherwise another process may have its id by now
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        _kill(process)  # and its children
        process.wait()
    process.stdout.close()
    log.close()


class Command:
    """A GPT-2 that a program has loaded, with the methods of protocol.Implementation.

    Logits are float32 tensors on the CPU.
    """

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
                f"the answer to 'load' has \"methods\": {methods!r}, "
                f"expected a list of {', '.join(OPTIONAL)}"
            )
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        # A method that is bound in __init__ would make a cycle of references, which would keep the
        # process alive until the garbage collector runs.
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
                f"the answer to 'generate' has \"token_ids\": {shown}, "
                "expected a list of ids for each row"
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
    """Return the `load` function of a program.

    `command` is a command line in the shell's quoting, and `timeout` the seconds for one answer.
    Raises ValueError if `command` is no command line, and FileNotFoundError if there is no such
    program, or it may not be executed.
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
