"""Run the suite on an implementation as a user runs it, within the process of the tests.

A process of its own would import torch and transformers again. That takes longer than most
verdicts.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADAPTERS = "tests/shared/defective_adapters.py"
# The outer run has the cache, the handler of crashes and the workers; the inner one takes none.
PLUGINS = ("cacheprovider", "faulthandler", "xdist")


@dataclass(frozen=True)
class Run:
    """The exit status and the output of a run."""

    returncode: int
    stdout: str
    stderr: str


def judge(*arguments: str) -> Run:
    """Run `pytest` with these arguments in the project's folder."""
    words = [word for plugin in PLUGINS for word in ("-p", f"no:{plugin}")]
    words += ["--tb=no", f"--rootdir={ROOT}", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(ROOT)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = pytest.main([*words, *arguments])
    finally:
        os.chdir(before)
    return Run(int(status), out.getvalue(), err.getvalue())


def section(output: str, adapter: str) -> str:
    """Return the part of the verdict that is about one adapter."""
    return re.split(r"=+ conformance of ", output.split(f" conformance of {adapter} ")[1])[0]
