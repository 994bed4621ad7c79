"""The report as JSON, and the page made of it."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from conformance.pages.chart import curve_svg
from conformance.pages.report_page import MARKS, STATES, main, page
from conformance.requirements import REQUIREMENTS
from conformance.verdict.judgement import (
    ERRORED,
    FAILED,
    KNOWN,
    OUTCOMES,
    PASSED,
    Finding,
    Judgement,
    Result,
)
from conformance.verdict.report import check_writable, write_report
from gpt2ref import __version__
from tests.conformance.test_verdict import ADAPTERS, ROOT, judge, section

SCHEMA = json.loads((ROOT / "conformance/verdict/report.schema.json").read_text(encoding="utf-8"))
ERF, RIGHT = "conformance.defects:gelu-erf", f"{ADAPTERS}:logits_only"
SELECTION = "activation or c_fc-bias or epsilon-ln_1 or prefix or test_middle"
VOID = {"meta", "br", "wbr"}


def check(report: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(report)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Two implementations, judged in a few requirements."""
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
def report(ran: tuple[subprocess.CompletedProcess[str], Path]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(ran[1].read_text(encoding="utf-8"))
    return loaded


def rows(report: dict[str, Any], adapter: str) -> dict[str, dict[str, Any]]:
    (found,) = [each for each in report["adapters"] if each["specification"] == adapter]
    return {row["id"]: row for row in found["requirements"]}


def test_the_report_says_what_was_judged_where_and_what_came_of_it(
    ran: tuple[subprocess.CompletedProcess[str], Path], report: dict[str, Any]
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


def test_one_cause_is_reported_once(
    ran: tuple[subprocess.CompletedProcess[str], Path], report: dict[str, Any]
) -> None:
    (cause,) = report["adapters"][0]["causes"]
    assert cause["id"] == "gelu-erf"
    assert cause["explains"][0] == "activation.curve"
    assert "vectors.c_fc-bias" in cause["explains"]
    verdict = section(ran[0].stdout, ERF)
    assert verdict.count("    asked: ") == verdict.count("    again: ") == 1
    assert f"gelu-erf explains {len(cause['explains']) - 1} more failure" in verdict
    assert "Also failed; run again after fixing the cause above:\n    keys 1: prefix\n" in verdict


def judgement_of(findings: dict[str, Finding]) -> Judgement:
    judgement = Judgement("any")
    for name, finding in findings.items():
        judgement.results[name] = Result()
        judgement.results[name].add(finding)
    return judgement


def failure(*mistakes: str, own: bool = False) -> Finding:
    return Finding(FAILED, "anything", mistakes=mistakes, own=own)


def test_a_cause_that_was_read_comes_before_one_that_fits() -> None:
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
    assert [cause.finding.own for cause in judgement.causes] == [True, True, False]
    assert judgement.unexplained == ["eos.middle"]


def test_a_test_that_reads_a_mistake_is_believed_before_one_that_finds_another() -> None:
    """Two tests of one requirement, of which one reads its own fact."""
    judgement = judgement_of({"activation.curve": failure("relu", "scale-one")})
    judgement.results["activation.curve"].add(failure("gelu-erf", own=True))
    (cause,) = judgement.causes
    assert cause.id == "gelu-erf"
    assert cause.finding is judgement.results["activation.curve"].decisive


def test_a_known_deviation_has_no_cause() -> None:
    judgement = judgement_of(
        {"activation.curve": Finding(KNOWN, "anything", mistakes=("gelu-erf",), own=True)}
    )
    assert judgement.causes == judgement.unexplained == []


def test_numbers_that_json_does_not_know_are_words(tmp_path: Path) -> None:
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
    assert "2 of the values are no number" in page([loaded])


@pytest.mark.parametrize("path", ["nowhere/report.json", "."])
def test_an_unwritable_path_is_a_usage_error(tmp_path: Path, path: str) -> None:
    with pytest.raises(pytest.UsageError, match=r"^--conformance-report .*: can't be written: "):
        check_writable("--conformance-report", str(tmp_path / path))


def test_page_schema_and_suite_have_the_same_words() -> None:
    assert tuple(MARKS) == OUTCOMES == tuple(SCHEMA["$defs"]["outcome"]["enum"])
    states = SCHEMA["$defs"]["adapter"]["properties"]["verdict"]["properties"]["state"]["enum"]
    assert list(STATES) == states
    assert judgement_of({"eos.middle": Finding(PASSED)}).state in states


class Structure(HTMLParser):
    """Reads a page; fails on a tag that is not closed, on a script, on anything from elsewhere."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.tags: set[str] = set()
        self.feed(source)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base", "form")
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} {name}={value!r}"
            assert name != "src"
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.targets.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_leads_from_the_verdicts_to_what_was_found(report: dict[str, Any]) -> None:
    several = Structure(page([report]))
    text = "".join(several.words)
    for words in (
        "Not a right GPT-2",
        "No deviation from GPT-2 found",
        "epsilon of ln_1",
        ERF,
        RIGHT,
    ):
        assert words in text
    assert "svg" in several.tags
    assert len(set(several.ids)) == len(several.ids)
    assert {target.removeprefix("#") for target in several.targets} <= set(several.ids)
    one = Structure(page([report | {"adapters": report["adapters"][:1]}]))
    assert all(name in one.words for name in REQUIREMENTS), (
        "one implementation: all requirements, with their sentences"
    )


def test_nothing_in_a_report_gets_out_of_the_text(report: dict[str, Any]) -> None:
    hostile = "<script>alert(1)</script>'\"&<b onclick=x> \x00\x1b[31m \ud800 \u202e"

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: each if key in ("outcome", "state") else poison(each)
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [poison(each) for each in value]
        return value + hostile if isinstance(value, str) else value

    bad = poison(report)
    for adapter in bad["adapters"]:
        adapter["requirements"][0] |= {
            "outcome": "known deviation",
            "known_deviation": {"reason": hostile, "issue": "javascript:x"},
        }
        adapter["requirements"][0]["readings"] = [
            {"quantity": hostile, "read": hostile, "expected": hostile},
            {
                "quantity": "activation",
                "read": [[0, hostile], [1, 1e308]],
                "expected": [[0, 1], [1, 2]],
            },
        ]
    for reports in ([bad], [bad | {"adapters": bad["adapters"][:1]}], [bad, report]):
        made = page(reports)
        made.encode()
        assert all(target.startswith("#") for target in Structure(made).targets)
        assert "\x00" not in made


@pytest.mark.parametrize(
    "values",
    [[], [0.0], [float("nan"), float("inf")], [0.0, 0.0], [1e29, -1e29], [1.0, float("nan"), 3.0]],
)
def test_any_curve_can_be_drawn(values: list[float]) -> None:
    points = [(float(i), y) for i, y in enumerate(values)]
    drawing = curve_svg(points, [(x, 0.0) for x, _ in points], "a curve")
    assert "nan" not in drawing
    assert "inf" not in drawing


def test_a_page_of_two_reports_in_a_browser(report: dict[str, Any], tmp_path: Path) -> None:
    newer = copy.deepcopy(report)
    newer["environment"]["dtype"] = "bfloat16"
    newer["adapters"][0]["requirements"].pop()  # a suite that asked for less
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    for path, each in zip(paths, (report, newer), strict=True):
        path.write_text(json.dumps(each), encoding="utf-8")
    output = tmp_path / "page.html"
    assert main([*map(str, paths), "-o", str(output)]) == 0
    dom = rendered(output, tmp_path)
    for words in (
        "Not a right GPT-2",
        "No deviation from GPT-2 found",
        "bfloat16 on cpu",
        "gelu-erf",
    ):
        assert words in dom
    assert dom.count('class="verdict ') == 4


def rendered(path: Path, folder: Path) -> str:
    """What a browser makes of a page; where there is none, the page itself, once its structure has been checked."""
    source = path.read_text(encoding="utf-8")
    Structure(source)
    if not (
        chromium := shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    ):
        return source
    quiet = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    )
    flags = [
        f"--{flag}"
        for flag in f"{quiet} disable-component-update disable-sync disable-dev-shm-usage".split()
    ]
    command = [
        chromium,
        *flags,
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
        path.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 1}', '{"format": 2, "adapters": [{}]}', None]
)
def test_what_is_no_report_is_named(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    assert main([str(path), "-o", str(tmp_path / "page.html")]) == 2
    assert f"{path}: not a conformance report: " in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
