"""The README is true: its commands, code and verdicts are those of this suite."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from conformance.requirements import REQUIREMENTS
from gpt2ref import load_checkpoint
from tests.shared.documentation import blocks

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MATRIX = json.loads((ROOT / "docs/kill-matrix.json").read_text(encoding="utf-8"))
NOT_RUN = ("parity.given-checkpoint", "parity.published-sizes")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_ci_runs_the_test_command_word_for_word() -> None:
    (command,) = re.findall(r"^(python3 .* && \.venv/bin/pytest(?: -n 2)?)$", README, re.M)
    assert command in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()


def test_the_adapter_of_the_readme_is_judged(tmp_path: Path) -> None:
    (adapter,) = [block for block in PYTHON_BLOCKS if "def load(" in block]
    (tmp_path / "my_gpt2.py").write_text(adapter, encoding="utf-8")
    for program in ("gpt2-conformance", "pytest"):
        (command,) = re.findall(rf"^({program} .*my_gpt2\.py)$", README, re.M)
        some = "small and float32 or missing or unexpected or epsilon"
        words = [str(Path(sys.executable).parent / program), *command.split()[1:], "-k", some]
        run = subprocess.run(
            words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        failed = re.findall(r"^(\S+): FAILED$", run.stdout, re.M)
        assert failed == ["keys.missing", "keys.unexpected"], run.stdout[-3000:]
        assert f"fails `{'` and `'.join(failed)}`" in README
        if program == "gpt2-conformance":  # with the two processes of pytest-xdist
            assert "first finding: keys." in run.stderr
            assert "keys: 2 failed (" in run.stderr
            assert run.stdout.splitlines()[-1].startswith("my_gpt2.py: NOT a right GPT-2.")
            assert "test session starts" not in run.stdout


def test_the_other_blocks_run(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small checkpoint stands in for the published one, which would be downloaded."""
    others = [block for block in PYTHON_BLOCKS if "def load(" not in block]
    assert others
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "gpt2ref.text.load_checkpoint",
        lambda _name, **options: load_checkpoint(folder, **options),
    )
    monkeypatch.setattr(
        "gpt2ref.load_checkpoint", lambda _name, **options: load_checkpoint(folder, **options)
    )
    for block in others:
        exec(compile(block, "README.md", "exec"), {})


def test_its_verdicts_match_the_requirements_and_the_kill_matrix() -> None:
    """The counts add up to the requirements; the wrong GPT-2 fails as in the kill matrix."""
    right, wrong = (
        block for block in blocks("README.md", "") if "requirements (not run: " in block
    )
    families = Counter(name.split(".")[0] for name in REQUIREMENTS if name not in NOT_RUN)
    assert re.findall(r"^([a-z-]+) +(\d+) passed$", right, re.M) == [
        (name, str(count)) for name, count in families.items()
    ]
    asked = (
        f"{len(REQUIREMENTS) - 2} of {len(REQUIREMENTS)} requirements "
        f"(not run: {', '.join(NOT_RUN)})"
    )
    assert f"{asked}: {len(REQUIREMENTS) - 2} passed." in right

    (main,) = re.findall(r"^(\S+): FAILED$", wrong, re.M)
    explained = re.search(r"explains (\d+) more failures: (.*?)\n\n", wrong, re.S)
    others = re.findall(r"^    (\w+) (\d+): (.*)$", wrong, re.M)
    assert explained
    assert len(re.split(r",\s+", explained[2])) == int(explained[1])
    assert all(len(names.split(", ")) == int(count) for _, count, names in others)
    failed = {main, *re.split(r",\s+", explained[2])}
    failed |= {f"{family}.{name}" for family, _, names in others for name in names.split(", ")}
    assert failed <= REQUIREMENTS.keys()
    assert f"{asked}: {len(REQUIREMENTS) - 2 - len(failed)} passed, {len(failed)} failed." in wrong
    (measured,) = (entry["outcomes"] for entry in MATRIX["entries"] if entry["id"] == "gelu-erf")
    assert {name for name, outcome in measured.items() if outcome == "failed"} <= failed
    assert not {name for name, outcome in measured.items() if outcome == "passed"} & failed


def test_its_counts_are_those_of_the_kill_matrix() -> None:
    kinds = Counter(entry["kind"] == "defect" for entry in MATRIX["entries"])
    words = " ".join(README.split())
    assert f"The suite catches all {kinds[True]} defects" in words
    assert f"flags none of the {kinds[False]} harmless changes" in words
    assert MATRIX["problems"] == []
    assert f"| this suite | {kinds[True]} |" in README
    assert f"| catches, of {kinds[True]} |" in README
