"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2ref import load_checkpoint

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_ci_runs_the_test_command_word_for_word() -> None:
    (command,) = re.findall(r"^(python3 .* && \.venv/bin/pytest)$", README, re.M)
    assert command in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()


def test_the_adapter_of_the_readme_is_judged(tmp_path: Path) -> None:
    (adapter,) = [block for block in PYTHON_BLOCKS if "def load(" in block]
    (tmp_path / "my_gpt2.py").write_text(adapter, encoding="utf-8")
    for program in ("gpt2-conformance", "pytest"):
        (command,) = re.findall(rf"^({program} .*my_gpt2\.py)$", README, re.M)
        words = [str(Path(sys.executable).parent / program), *command.split()[1:], "-k", "eos or small and float32"]
        run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert "no deviation from GPT-2 found" in run.stdout, run.stdout[-3000:]


def test_the_other_blocks_run(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small checkpoint in place of the published one, which would be downloaded."""
    blocks = [block for block in PYTHON_BLOCKS if "def load(" not in block]
    assert blocks
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpt2ref.generation.load_checkpoint", lambda _name, **options: load_checkpoint(folder, **options))
    monkeypatch.setattr("gpt2ref.load_checkpoint", lambda _name, **options: load_checkpoint(folder, **options))
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
