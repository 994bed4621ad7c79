"""Each exception of a test has its outcome for pytest, in the verdict and in the report."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from typing import Any

import jsonschema
import pytest

from conformance.outcomes import Failure, NotApplicable, check
from conformance.verdict.plugin import finding_of
from tests.shared.judging import ADAPTERS, ROOT

SCHEMA = json.loads((ROOT / "conformance/verdict/report.schema.json").read_text(encoding="utf-8"))
TESTS = """
import pytest
from hypothesis import given, strategies as st
from conformance.adapters.forms import ProtocolError
from conformance.conftest import LAWS
from conformance.outcomes import Failure, NotApplicable, Variant
from conformance.requirements import requirement
from conformance.test_laws import law

@requirement("eos.middle")
def test_not_applicable(adapter):
    raise NotApplicable("no middle")

@requirement("eos.never")
def test_variant(adapter):
    raise Variant("another ending")

@requirement("activation.curve")
def test_own(adapter):
    raise Failure("the exact GELU", expected="the tanh form", mistakes=("gelu-erf",), own=True)

@requirement("blocks.norms")
def test_other(adapter):
    raise Failure("not the norms", mistakes=("gelu-erf", "relu"))

@requirement("blocks.order")
def test_unexplained(adapter):
    raise Failure("reads like any other cause: gelu-erf; GPT-2 has another mistake: relu")

@requirement("eos.per-row")
def test_protocol_error(adapter):
    raise ProtocolError("not applicable: a program that broke")

@requirement("eos.last-step")
def test_exception(adapter):
    raise RuntimeError("variant: out of luck")

@pytest.fixture
def unavailable(adapter):
    raise NotApplicable("no such fixture")

@requirement("eos.first-step")
def test_setup(adapter, unavailable):
    pass

@requirement("laws.prefix")
@law
@given(number=st.integers(0, 100))
def test_law(adapter, number):
    if number > 10:
        raise Failure(f"{number} is too large", expected="at most 10")

@requirement("laws.repeatable")
@law
@given(number=st.integers(0, 100))
def test_inapplicable_law(adapter, number):
    raise NotApplicable("no numbers")

@requirement("text.encode")
def test_passed(adapter):
    pass
"""
OUTCOMES = {
    "eos.middle": ("not applicable", "no middle"),
    "eos.never": ("variant", "another ending"),
    "activation.curve": ("failed", "the exact GELU"),
    "blocks.norms": ("failed", "not the norms"),
    "blocks.order": (
        "failed",
        "reads like any other cause: gelu-erf; GPT-2 has another mistake: relu",
    ),
    "eos.per-row": ("errored", "not applicable: a program that broke"),
    "eos.last-step": ("errored", "RuntimeError: variant: out of luck"),
    "eos.first-step": ("not applicable", "no such fixture"),
    "laws.prefix": ("failed", "11 is too large"),
    "laws.repeatable": ("not applicable", "no numbers"),
    "text.encode": ("passed", None),
}
Run = Callable[..., tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run TESTS with the suite's plugin. Return the output, and the implementation's report."""

    @cache
    def run_tests(*options: str, implementation: str = "gpt2ref") -> tuple[str, dict[str, Any]]:
        folder = tmp_path_factory.mktemp("made_up")
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_made_up.py").write_text(TESTS)
        path = folder / "report.json"
        # A keyword stops the search for a known defect, which takes a minute.
        arguments = [str(folder), "-k", "test_", "-p", "conformance.conftest", "--tb=no", "-rs"]
        arguments += ["-p", "no:cacheprovider", "-p", "no:faulthandler"]
        arguments += ["--import-mode=importlib"]  # so that each folder's module is another one
        arguments += [f"--implementation={implementation}", f"--conformance-report={path}"]
        with redirect_stdout(io.StringIO()) as output:
            pytest.main([*arguments, *options])
        report = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(SCHEMA).validate(report)
        (judged,) = report["adapters"]
        return output.getvalue(), judged

    return run_tests


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["one-process", "xdist"])
def test_each_type_has_its_outcome_whatever_its_text(
    run: Run, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the worker of pytest-xdist
    output, judged = run(*options)
    rows = {row["id"]: row for row in judged["requirements"] if row["outcome"] != "not run"}
    found = {
        name: (row["outcome"], row["findings"][0]["read"] if row["findings"] else None)
        for name, row in rows.items()
    }
    assert found == OUTCOMES
    assert "6 failed, 1 passed, 4 skipped" in output  # to pytest, errors are failures too
    assert "not applicable: no middle" in output

    finding = rows["activation.curve"]["findings"][0]
    assert (finding["expected"], finding["mistakes"]) == ("the tanh form", ["gelu-erf"])
    assert finding["own"]
    assert rows["laws.prefix"]["findings"][0]["expected"] == "at most 10"


def test_causes_come_from_the_fields(run: Run) -> None:
    output, judged = run()
    (cause,) = judged["causes"]
    assert cause["id"] == "gelu-erf"
    assert (cause["read"], cause["expected"]) == ("the exact GELU", "the tanh form")
    assert cause["explains"] == ["activation.curve", "blocks.norms"]
    assert "erf" in cause["what"]
    assert cause["source"]
    assert judged["unexplained"] == ["blocks.order", "laws.prefix"]
    assert judged["broken"] is None

    verdict = " ".join(output.split())
    assert "found: reads the exact GELU; GPT-2 has the tanh form again: " in verdict
    assert "cause: gelu-erf: Exact (erf) GELU" in verdict
    assert "gelu-erf explains 1 more failure: blocks.norms" in verdict
    also = "Also failed; run again after fixing the cause above: blocks 1: order laws 1: prefix"
    assert also in verdict


def test_not_applicable_does_not_stop_a_run_with_exitfirst(
    run: Run,
) -> None:
    output, judged = run("-x")
    assert "1 failed, 2 skipped" in output
    assert judged["counts"]["failed"] == judged["counts"]["variant"] == 1


def test_a_broken_adapter_is_reported_once(run: Run) -> None:
    output, judged = run(implementation=f"{ROOT / ADAPTERS}:last_logits_only")
    assert judged["broken"].startswith("the adapter can't load a blank checkpoint")
    verdict = output.split(" conformance of ")[1]
    assert verdict.count(judged["broken"]) == 1
    assert "ERRORED" not in verdict


def test_pytests_own_exceptions_count_by_their_type() -> None:
    for error, outcome in (
        (pytest.skip.Exception("a reason"), "not applicable"),
        (pytest.fail.Exception("a reason"), "failed"),
        (AssertionError("a reason"), "failed"),
    ):
        finding = finding_of(error)
        assert (finding.outcome, finding.read) == (outcome, "a reason")


def test_check_raises_the_given_text() -> None:
    check(True, "nothing")
    with pytest.raises(Failure, match=r"^reads 3; GPT-2 has 4$") as failure:
        check(False, "3", expected="4")
    assert (failure.value.read, failure.value.expected) == ("3", "4")
    assert failure.value.mistakes == ()
    assert str(NotApplicable("why")) == "why"
