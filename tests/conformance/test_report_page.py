"""The page of conformance reports. No implementation is judged here: the reports are made up."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conformance.pages.__main__ import main
from conformance.pages.activation_chart import ActivationChart
from conformance.pages.report_page import MARKS, STATES, fragment, page
from conformance.pages.template import render
from conformance.requirements import REQUIREMENTS
from conformance.verdict.findings import OUTCOMES
from tests.shared.html_pages import Structure, rendered
from tests.shared.made_up_reports import (
    RIGHT,
    WRONG,
    implementation,
    report_of,
    right_implementation,
    wrong_implementation,
)

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "conformance/verdict/report.schema.json").read_text(encoding="utf-8"))
HOSTILE = "<script>alert(1)</script>'\"&<b onclick=x> \x00\x1b[31m \ud800 \u202e"


@pytest.fixture
def report() -> dict[str, Any]:
    return report_of(wrong_implementation(), right_implementation())


def words(made: str) -> str:
    """Return the text of a page, with single spaces."""
    return " ".join("".join(Structure(made).words).split())


def test_the_made_up_report_satisfies_the_schema(report: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(report)


def test_page_schema_and_suite_have_the_same_words() -> None:
    assert tuple(MARKS) == OUTCOMES == tuple(SCHEMA["$defs"]["outcome"]["enum"])
    states = SCHEMA["$defs"]["adapter"]["properties"]["verdict"]["properties"]["state"]["enum"]
    assert list(STATES) == states


def test_the_page_leads_from_the_verdicts_to_what_was_found(report: dict[str, Any]) -> None:
    made = page([report])
    structure, text = Structure(made), words(made)
    for expected in ("Not a right GPT-2", "No deviation from GPT-2 found", WRONG, RIGHT):
        assert expected in text
    assert "svg" in structure.tags
    assert len(set(structure.ids)) == len(structure.ids)
    assert {target.removeprefix("#") for target in structure.targets} <= set(structure.ids)


def test_a_cause_is_shown_once_with_what_it_explains(report: dict[str, Any]) -> None:
    text = words(page([report]))
    cause = "gelu-erf: Exact GELU instead of the tanh approximation. karpathy/nanoGPT #1"
    assert text.count(cause) == 1
    assert "Reads activation: erf-GELU; GPT-2 has activation: tanh-GELU; see" in text
    assert "This explains 1 more failure." in text
    assert "No cause is known of keys.prefix." in text
    assert "Indistinguishable from gelu-erf." in text
    assert "Explained by gelu-erf, see activation.curve." in text


def test_several_causes_are_shown_stage_by_stage(report: dict[str, Any]) -> None:
    diagnosis = report["adapters"][0]["diagnosis"]
    other = {"alternatives": [["relu", "silu"]], "question": "a <b> question", "explains": []}
    diagnosis["stages"].append(other)
    diagnosis["left"] = ["decode"]
    text = words(page([report]))
    assert "MLP alone shows gelu-erf. With it, 1 more answer is explained." in text
    assert "A <b> question shows relu and silu. With it, 0 more answers are explained." in text
    assert "Nothing known explains 1 of the answers: decode." in text


def test_a_finding_is_shown_once_with_its_command(report: dict[str, Any]) -> None:
    text = words(page([report]))
    assert text.count("reads activation: erf-GELU; GPT-2 has activation: tanh-GELU") == 1
    assert text.count("Again: pytest conformance/test_probes.py::test_fact --imp") == 3


def test_constants_are_beside_those_of_gpt2(report: dict[str, Any]) -> None:
    report["adapters"][0]["requirements"][0] |= {
        "outcome": "failed",
        "readings": [{"quantity": "attention scale", "read": 0.5, "expected": 0.25}],
    }
    made = page([report])
    assert "epsilon of ln_1" in words(made)
    assert "9.99e-06" in words(made)
    assert re.search(r'<td class="off">0\.5 .*✗', made)


def test_a_page_of_one_implementation_has_all_requirements(report: dict[str, Any]) -> None:
    for adapter in report["adapters"]:
        structure = Structure(page([report | {"adapters": [adapter]}]))
        assert set(REQUIREMENTS) <= set(structure.words)
    assert "the adapter has no generate()" in "".join(structure.words)


@pytest.mark.parametrize(
    ("issue", "targets"), [("https://example.org/1", 1), ("javascript:x", 0), (None, 0)]
)
def test_only_a_web_address_is_a_link(issue: str | None, targets: int) -> None:
    known = {"reason": "it is old"} | ({"issue": issue} if issue else {})
    asked = {"eos.middle": {"outcome": "known deviation", "known_deviation": known}}
    made = page([report_of(implementation(RIGHT, "known deviations only", asked))])
    assert "Known: it is old" in words(made)
    assert Structure(made).targets.count(str(issue)) == targets


def test_what_else_a_verdict_may_have() -> None:
    broken = implementation("a", "not judged in full", {}, broken="ImportError: no module")
    stale = implementation("b", "stale known deviations", {}, stale_known_deviations=["eos.middle"])
    text = words(page([report_of(broken, stale) | {"finished": False}]))
    assert "The adapter can't be used: ImportError: no module" in text
    assert "eos.middle passes: this known deviation no longer occurs, so remove it." in text
    assert text.count("The run was stopped before its end.") == 2


def test_markup_in_a_report_is_escaped(report: dict[str, Any]) -> None:
    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            fixed = ("outcome", "state")
            return {key: each if key in fixed else poison(each) for key, each in value.items()}
        if isinstance(value, list):
            return [poison(each) for each in value]
        return value + HOSTILE if isinstance(value, str) else value

    bad = poison(report)
    for adapter in bad["adapters"]:
        adapter["broken"] = adapter["stale_known_deviations"] = [HOSTILE]
        adapter["requirements"][0] |= {
            "outcome": "known deviation",
            "known_deviation": {"reason": HOSTILE, "issue": "javascript:x"},
        }
        adapter["requirements"][0]["readings"] = [
            {"quantity": HOSTILE, "read": HOSTILE, "expected": HOSTILE},
            {
                "quantity": "activation",
                "read": [[0, HOSTILE], [1, 1e308]],
                "expected": [[0, 1], [1, 2]],
            },
        ]
    alone = bad | {"adapters": bad["adapters"][:1]}
    for made in (page([bad]), page([alone]), page([bad, report]), fragment(alone)):
        made.encode()
        assert all(target.startswith("#") for target in Structure(made).targets)
        assert "<script>alert(1)</script>" in "".join(Structure(made).words)
        assert not re.search("[\x00\x1b]", made)


def test_values_that_are_not_finite_are_counted() -> None:
    curve = {
        "quantity": "activation",
        "read": [[0.0, "nan"], [1.0, "-inf"], [2.0, 3.0]],
        "expected": [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]],
    }
    asked = {"activation.curve": {"outcome": "failed", "readings": [curve]}}
    text = words(page([report_of(implementation(WRONG, "deviates", asked))]))
    assert "largest difference 1.0e+00; 2 of the values are no number" in text


@pytest.mark.parametrize(
    "values",
    [[], [0.0], [float("nan"), float("inf")], [0.0, 0.0], [1e29, -1e29], [1.0, float("nan"), 3.0]],
)
def test_any_curve_can_be_drawn(values: list[float]) -> None:
    points = [(float(i), y) for i, y in enumerate(values)]
    chart = ActivationChart(points, [(x, 0.0) for x, _ in points], "a curve")
    drawing = render("activation.svg", chart=chart)
    assert drawing.count("<svg") == 1
    assert "nan" not in drawing
    assert "inf" not in drawing


def test_a_page_of_two_reports_in_a_browser(report: dict[str, Any], tmp_path: Path) -> None:
    newer = copy.deepcopy(report)
    newer["environment"]["dtype"] = "bfloat16"
    newer["adapters"][0]["requirements"].pop()  # the suite asked for less
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    for path, each in zip(paths, (report, newer), strict=True):
        path.write_text(json.dumps(each), encoding="utf-8")
    output = tmp_path / "page.html"
    assert main([*map(str, paths), "-o", str(output)]) == 0
    assert "default-src 'none'" in output.read_text(encoding="utf-8")
    dom = rendered(output, tmp_path)
    for expected in ("Not a right GPT-2", "No deviation from GPT-2 found", "bfloat16 on cpu"):
        assert expected in dom
    assert dom.count('class="verdict ') == 4


BAD = {
    "empty": ("", "JSONDecodeError: "),
    "a list": ("[]", "ValueError: expected a JSON object, found a list"),
    "another object": ("{}", "ValueError: neither a conformance report nor a kill matrix"),
    "an older format": (
        '{"format": 1, "adapters": []}',
        "ValueError: a conformance report of format 1, but this version reads format 3",
    ),
    "no implementation": ('{"format": 3, "adapters": [{}]}', "KeyError: 'requirements'"),
    "no report": ('{"format": 3, "adapters": []}', "UndefinedError: "),
    "no file": (None, "FileNotFoundError: "),
}


@pytest.mark.parametrize(("content", "error"), BAD.values(), ids=BAD)
def test_a_file_that_is_no_report_is_refused_by_name(
    tmp_path: Path, content: str | None, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    assert main([str(path), "-o", str(tmp_path / "page.html")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"{path}: no page: {error}")
    assert printed.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_is_named(
    report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report), encoding="utf-8")
    output = tmp_path / "nowhere" / "page.html"
    assert main([str(path), "-o", str(output)]) == 2
    assert capsys.readouterr().err.startswith(f"{output}: ")


def test_a_kill_matrix_beside_a_report_is_refused(
    report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, matrix = tmp_path / "report.json", ROOT / "docs/kill-matrix.json"
    path.write_text(json.dumps(report), encoding="utf-8")
    assert main([str(path), str(matrix), "-o", str(tmp_path / "page.html")]) == 2
    assert "a kill matrix makes a page by itself" in capsys.readouterr().err
