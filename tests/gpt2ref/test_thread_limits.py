"""Results are right if OpenMP grants fewer threads than torch asks for, as in a container.

OpenMP reads its environment once, so each setting runs in a process of its own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt2ref import generate, load_checkpoint

ROOT = Path(__file__).parents[2]
LIMITED = {"OMP_THREAD_LIMIT": "1"}


def run(*arguments: str, **environment: str) -> str:
    """Return what `python` prints with these variables of OpenMP, and no others."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [sys.executable, "-W", "ignore", *arguments]
    result = subprocess.run(
        command, env=others | environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "environment",
    [
        LIMITED | {"OMP_NUM_THREADS": "3"},
        {"OMP_THREAD_LIMIT": "3", "OMP_NUM_THREADS": "2"},
    ],
    ids=str,
)
def test_products_are_right_however_many_threads_are_granted(environment):
    """Every matrix shape of the published sizes is tested. `check_products` names wrong ones."""
    assert run("-m", "tests.shared.check_products", **environment) == "\n"


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        ([], LIMITED),
        pytest.param(
            ["--compile"],
            LIMITED | {"OMP_NUM_THREADS": "3"},
            marks=pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler"),
        ),
    ],
    ids=["plain", "compiled"],
)
def test_the_command_line_is_right_under_a_limit(options, environment):
    command = ["-m", "gpt2ref", "Once", "--dtype", "float32", "--temperature", "0"]
    text = run(*command, "--max-new-tokens", "20", *options, **environment)
    model = load_checkpoint("tiny", dtype=torch.float32)
    assert text == generate("Once", model, temperature=0, max_new_tokens=20) + "\n"
