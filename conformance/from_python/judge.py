"""Judges a GPT-2 within this process, and returns the verdict as an object."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Collection, Iterable
from typing import Any

import pytest
import torch

from gpt2ref.devices import check_device

from ..chosen import of_families
from ..invocation import ALONE, FOLDER
from ..options import DTYPES
from ..requirements import REQUIREMENTS
from ..verdict.judgement import Judgement
from ..verdict.progress import Progress
from ..verdict.run import Run
from .given import adapter_of, file_of
from .unchanged import unchanged
from .verdict import Verdict

_NO_PLUGINS = ("xdist", "faulthandler", "unraisableexception", "threadexception")
_ONE_AT_A_TIME = threading.RLock()  # pytest's output and torch's threads are the process's


def judge(
    model: Any,
    *,
    families: Iterable[str] | None = None,
    dtype: str | torch.dtype | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Verdict:
    """Judge a GPT-2 and return the verdict.

    `model` is a function `load(checkpoint, *, device, dtype)`, a class of an nn.Module, its
    `from_pretrained`, a module, or the name of a file or of a module, as on the command line.
    `families`: ask these alone, such as ["sampling", "eos"]. `dtype`: judge in this one alone; the
    default is float32, and parity in all. `progress`: show on standard error how far it is.

    Raises ValueError, naming it, for a family, dtype, device or file that can't be judged, and
    TypeError for a model of another kind.
    """
    asked = frozenset(REQUIREMENTS) if families is None else of_families(families)
    return judge_requirements(model, asked, dtype=dtype, device=device, progress=progress)


def judge_requirements(
    model: Any,
    asked: Collection[str],
    *,
    dtype: str | torch.dtype | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Verdict:
    """Do what `judge` does, for requirements by their ids."""
    name = _name_of(dtype)
    check_device(device)
    with _ONE_AT_A_TIME, unchanged(file_of(model)):
        adapter = adapter_of(model, device, DTYPES[name or "float32"])
        words = [f"--device={device}", *([f"--dtype={name}"] if name else [])]
        shown = Progress() if progress else None
        if shown and not shown.bar:
            shown.add(f"judging {adapter}")
        judgement = _run(Run(shown, adapters=[adapter], asked=asked), words)
        said = adapter.found.said if adapter.found else ""
        return Verdict(judgement, device, name or "float32", said)


def _name_of(dtype: str | torch.dtype | None) -> str | None:
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
    if name is not None and name not in DTYPES:
        raise ValueError(f"dtype: {dtype!r}, expected one of {', '.join(DTYPES)}")
    return name


def _run(run: Run, words: list[str]) -> Judgement:
    """Run the suite. Raises KeyboardInterrupt, or RuntimeError with pytest's words."""
    plugins = [word for plugin in _NO_PLUGINS for word in ("-p", f"no:{plugin}")]
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = pytest.main(
                [*ALONE, *plugins, "--capture=sys", str(FOLDER), *words], plugins=[run]
            )
    finally:
        if run.progress:
            run.progress.end()
    if run.interrupted:
        raise KeyboardInterrupt
    if status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and run.verdict:
        (judgement,) = run.verdict.judgements.values()
        return judgement
    raise RuntimeError(f"no verdict, since pytest ended with {status!r}:\n{output.getvalue()}")
