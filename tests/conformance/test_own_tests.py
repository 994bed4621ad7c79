"""requirements_for(): the requirements as tests of another project."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conformance import requirements_for
from conformance.from_python import own_tests
from conformance.from_python.judge import judge_requirements
from conformance.requirements import REQUIREMENTS
from tests.shared.judging import judge as run_pytest

FILE = """
from conformance import requirements_for
from tests.shared.defective_adapters import logits_only, raises_in_generate

a_number = 3

test_gpt2 = requirements_for({load}, families={families}, leave_out=["head"])
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a project's tests of an adapter, with these options of pytest."""
    judged: list[frozenset[str]] = []
    original = judge_requirements

    def recorded(model: Any, asked: Any, **options: Any) -> Any:
        judged.append(asked)
        return original(model, asked, **options)

    monkeypatch.setattr(own_tests, "judge_requirements", recorded)

    def run_project(load: str, families: list[str], *options: str) -> SimpleNamespace:
        file = tmp_path / f"test_{load}.py"  # pytest wants a name once
        file.write_text(FILE.format(load=load, families=families), encoding="utf-8")
        done = run_pytest(str(file), "-rA", *options, "-p", "no:randomly")
        return SimpleNamespace(stdout=done.stdout, status=done.returncode, judged=judged)

    return run_project


def test_each_requirement_is_a_test_and_the_verdict_is_one(run: Any) -> None:
    done = run("logits_only", ["head", "embedding", "eos"])
    embedding = [name for name in REQUIREMENTS if name.startswith("embedding.")]
    eos = [name for name in REQUIREMENTS if name.startswith("eos.")]
    for name in embedding:
        assert "PASSED" in done.stdout, name
        assert f"test_gpt2[{name}]" in done.stdout
    assert f"{len(embedding)} passed, {len(eos)} skipped" in done.stdout
    assert "the adapter has no generate()" in done.stdout
    assert done.judged == [frozenset(embedding + eos)]
    assert done.status == 0


def test_a_failure_says_what_was_found(run: Any) -> None:
    done = run("raises_in_generate", ["eos", "embedding"], "-k", "middle", "--tb=short")
    assert done.status == 1
    assert "test_gpt2[eos.middle] - Failed: RuntimeError: out of luck" in done.stdout
    assert "RuntimeError: out of luck\nasked: " in done.stdout
    assert done.judged == [{"eos.middle"}], "-k leaves the others out"


def test_a_model_that_can_not_be_judged_is_tried_once(run: Any) -> None:
    done = run("a_number", ["eos"], "--tb=short")  # a number, not a model
    assert "8 failed" in done.stdout
    assert "TypeError: int object: expected a function load" in done.stdout
    assert len(done.judged) == 1


def test_a_failure_names_its_cause() -> None:
    cause = SimpleNamespace(
        id="x", what="W.", source="#1", places=("here", "there"), explains=["eos.middle"]
    )
    verdict: Any = SimpleNamespace(
        outcomes={"eos.middle": "failed"}, causes=[cause], sentence_of=lambda _: "reads 1"
    )
    assert own_tests._said(verdict, "eos.middle") == (
        f"reads 1\nasked: {REQUIREMENTS['eos.middle'].sentence}\ncause: x: W. (#1)\n"
        "look at: here; there"
    )


def test_processes_share_what_one_of_them_found(tmp_path: Path) -> None:
    def request(run: str | None) -> Any:
        return SimpleNamespace(
            config=SimpleNamespace(**{"workerinput": {"testrunuid": run}} if run else {}),
            node=SimpleNamespace(nodeid="test_mine.py::test_gpt2[eos.middle]"),
            getfixturevalue=lambda _: SimpleNamespace(getbasetemp=lambda: tmp_path / "popen-gw0"),
        )

    judged: list[int] = []

    def judging() -> Any:
        judged.append(1)
        return {"eos.middle": ("passed", "")}

    # Another run judges anew, and so does a session that has no processes.
    for run, times in (("a", 1), ("a", 1), ("b", 2), (None, 3), (None, 4)):
        assert own_tests._shared(request(run), judging) == {"eos.middle": ("passed", "")}
        assert len(judged) == times


@pytest.mark.parametrize("argument", ["families", "leave_out"])
def test_an_unknown_name_is_named(argument: str) -> None:
    options: Any = {argument: ["eos", "eos.nothing"]}
    with pytest.raises(ValueError, match=f"{argument}: 'eos.nothing', expected"):
        requirements_for("gpt2ref", **options)
