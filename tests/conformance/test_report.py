"""The report as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from conformance.pages.report_page import page
from conformance.requirements import REQUIREMENTS
from conformance.verdict.findings import (
    ERRORED,
    FAILED,
    KNOWN,
    PASSED,
    Finding,
    Result,
)
from conformance.verdict.judgement import Judgement
from conformance.verdict.report import check_writable, write_report
from gpt2ref import __version__
from tests.shared.judging import ADAPTERS, ROOT, Run, judge, section

SCHEMA = json.loads((ROOT / "conformance/verdict/report.schema.json").read_text(encoding="utf-8"))
ERF, RIGHT = "conformance.defects:gelu-erf", f"{ADAPTERS}:logits_only"
SELECTION = "activation or c_fc-bias or epsilon-ln_1 or prefix or test_middle"


def check(report: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(report)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """Judge two implementations by a few requirements."""
    path = tmp_path_factory.mktemp("report") / "report.json"
    files = ("conformance/test_probes.py", "conformance/test_keys.py", "conformance/test_eos.py")
    options = (
        f"--implementation={ERF}",
        f"--implementation={RIGHT}",
        "--dtype=float32",
        f"--conformance-report={path}",
    )
    return judge(*files, "-k", SELECTION, *options), path


@pytest.fixture
def report(ran: tuple[Run, Path]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(ran[1].read_text(encoding="utf-8"))
    return loaded


def rows(report: dict[str, Any], adapter: str) -> dict[str, dict[str, Any]]:
    (found,) = [each for each in report["adapters"] if each["specification"] == adapter]
    return {row["id"]: row for row in found["requirements"]}


def test_the_report_has_environment_counts_and_verdicts(
    ran: tuple[Run, Path], report: dict[str, Any]
) -> None:
    check(report)
    assert [path.name for path in ran[1].parent.iterdir()] == ["report.json"], (
        "no temporary file is left"
    )
    assert report["suite"]["version"] == __version__
    assert report["environment"]["torch"] == torch.__version__
    assert report["environment"]["dtype"] == "float32"
    assert report["finished"]
    for adapter in report["adapters"]:
        assert adapter["verdict"]["sentence"] in section(ran[0].stdout, adapter["specification"])
        assert [row["id"] for row in adapter["requirements"]] == list(REQUIREMENTS)
        assert sum(adapter["counts"].values()) == len(REQUIREMENTS)
    erf, right = (each["verdict"]["state"] for each in report["adapters"])
    assert (erf, right) == ("deviates", "no deviation found")
    assert rows(report, RIGHT)["eos.middle"]["outcome"] == "not applicable"
    (finding,) = rows(report, RIGHT)["eos.middle"]["findings"]
    assert finding["read"] == "the adapter has no generate()"
    assert rows(report, RIGHT)["parity.float32"]["outcome"] == "not run"


def test_a_failure_has_its_finding_its_reading_and_its_command(report: dict[str, Any]) -> None:
    row = rows(report, ERF)["activation.curve"]
    assert row["outcome"] == "failed"
    assert any("gelu-erf" in finding["read"] for finding in row["findings"])
    options = f"--implementation {ERF} --dtype float32"
    assert all(options in finding["again"] for finding in row["findings"])
    (reading,) = [each for each in row["readings"] if each["quantity"] == "activation"]
    assert (
        max(
            abs(y - truth)
            for (_, y), (_, truth) in zip(reading["read"], reading["expected"], strict=True)
        )
        > 4e-4
    )
    (epsilon,) = rows(report, RIGHT)["layer-norm.epsilon-ln_1"]["readings"]
    assert epsilon["read"] == pytest.approx(epsilon["expected"], rel=1e-2)


def test_one_cause_is_reported_once(ran: tuple[Run, Path], report: dict[str, Any]) -> None:
    (cause,) = report["adapters"][0]["causes"]
    assert cause["id"] == "gelu-erf"
    assert cause["explains"] == ["activation.curve"]
    assert cause["places"] == ["the activation between mlp.c_fc and mlp.c_proj"]
    verdict = section(ran[0].stdout, ERF)
    assert verdict.count("    asked: ") == verdict.count("    again: ") == 1
    assert "NOT a right GPT-2. 1 cause, nothing unexplained. " in verdict


def judgement_of(findings: dict[str, Finding]) -> Judgement:
    judgement = Judgement("any")
    for name, finding in findings.items():
        judgement.results[name] = Result()
        judgement.results[name].add(finding)
    return judgement


def failure(*mistakes: str, own: bool = False) -> Finding:
    return Finding(FAILED, "anything", mistakes=mistakes, own=own, test="a test")


def test_a_cause_that_was_read_precedes_one_that_fits() -> None:
    judgement = judgement_of(
        {
            "attention.mask": failure("scale-one", "one-head"),
            "attention.softmax": failure("scale-one", "one-head"),
            "attention.heads": failure("one-head", "two-heads", own=True),
            "vectors.c_fc-bias": failure("relu"),
            "transpose.mlp.c_fc": failure("c_fc-reshaped", own=True),
            "vectors.ln_2": failure("c_fc-reshaped"),
            "eos.middle": failure(),
        }
    )
    assert {cause.id: cause.explains for cause in judgement.causes} == {
        "one-head": ["attention.heads", "attention.mask", "attention.softmax"],
        "c_fc-reshaped": ["transpose.mlp.c_fc", "vectors.ln_2"],
        "relu": ["vectors.c_fc-bias"],
    }
    assert [cause.finding and cause.finding.own for cause in judgement.causes] == [
        *(True, True, False)
    ]
    assert judgement.unexplained == ["eos.middle"]


def test_a_cause_read_by_a_probe_precedes_one_found_by_another_test() -> None:
    """Two tests of one requirement fail, and one of them reads the requirement's own fact."""
    judgement = judgement_of({"activation.curve": failure("relu", "scale-one")})
    judgement.results["activation.curve"].add(failure("gelu-erf", own=True))
    (cause,) = judgement.causes
    assert cause.id == "gelu-erf"
    assert cause.finding is judgement.results["activation.curve"].decisive


def test_a_known_deviation_has_no_cause() -> None:
    judgement = judgement_of(
        {"activation.curve": Finding(KNOWN, "anything", mistakes=("gelu-erf",), own=True)}
    )
    assert not judgement.causes
    assert not judgement.unexplained


def test_nan_and_infinity_are_strings(tmp_path: Path) -> None:
    judgement = judgement_of({"activation.curve": Finding(ERRORED, "x" * 10_000)})
    judgement.results["activation.curve"].readings = [
        {
            "quantity": "activation",
            "read": [(0.0, float("nan")), (1.0, float("-inf"))],
            "expected": ((0, 0), (1, 1)),
        },
        {"quantity": "epsilon", "read": torch.tensor(1e-5), "expected": 1e-5},
    ]
    path = tmp_path / "report.json"
    write_report(str(path), [judgement], "cpu", "float32", finished=False)
    loaded = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    check(loaded)
    assert rows(loaded, "any")["activation.curve"]["readings"][0]["read"] == [
        [0.0, "nan"],
        [1.0, "-inf"],
    ]


@pytest.mark.parametrize("path", ["nowhere/report.json", "."])
def test_an_unwritable_path_is_a_usage_error(tmp_path: Path, path: str) -> None:
    with pytest.raises(pytest.UsageError, match=r"^--conformance-report .*: can't be written: "):
        check_writable("--conformance-report", str(tmp_path / path))


def test_the_state_is_one_of_the_schema() -> None:
    states = SCHEMA["$defs"]["adapter"]["properties"]["verdict"]["properties"]["state"]["enum"]
    assert judgement_of({"eos.middle": Finding(PASSED)}).state in states


def test_the_page_shows_the_verdicts(report: dict[str, Any]) -> None:
    made = page([report])
    for words in ("Not a right GPT-2", "No deviation from GPT-2 found"):
        assert words in made
