"""The workflow and the hook of docs/judge.md can run: their commands, options and actions exist."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import yaml

from conformance.options import OPTIONS
from tests.shared.documentation import ROOT, blocks

WORKFLOW, HOOKS = (yaml.safe_load(block) for block in blocks("docs/judge.md", "yaml"))
STEPS: list[dict[str, Any]] = WORKFLOW["jobs"]["conformance"]["steps"]
OWN = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
(HOOK,) = HOOKS["repos"][0]["hooks"]


def test_the_steps_judge_and_show_the_report() -> None:
    runs = [shlex.split(step["run"]) for step in STEPS if "run" in step]
    assert [words[0] for words in runs] == ["pip", "gpt2-conformance", "python"]
    assert runs[0][1:] == ["install", "gpt2ref[conformance]"]
    assert runs[2][1:3] == ["-m", "gpt2ref_conformance.pages"]
    report, page = runs[1][-1], runs[2][-1]
    assert runs[2][3:] == [report, "-o", page]
    assert STEPS[-1]["with"]["path"] == page


@pytest.mark.parametrize("line", [STEPS[3]["run"], HOOK["entry"]])
def test_the_command_has_options_of_the_suite(line: str) -> None:
    program, adapter, *rest = shlex.split(line)
    assert program == "gpt2-conformance"
    assert adapter.endswith(".py")
    options = [word for word in rest if word.startswith("-")]
    assert options
    assert set(options) <= set(OPTIONS)


def test_the_actions_are_those_of_this_project() -> None:
    actions = [step["uses"] for step in STEPS if "uses" in step]
    assert actions
    assert all(f"uses: {action}\n" in OWN for action in actions)


def test_the_hook_runs_for_the_file_that_it_judges() -> None:
    file = shlex.split(HOOK["entry"])[1]
    assert re.search(HOOK["files"], file)
    assert not re.search(HOOK["files"], "other.py")
    assert (HOOK["language"], HOOK["pass_filenames"]) == ("system", False)
