"""The badge shows only what the report contains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.pages.badge import COLOURS, main
from conformance.pages.report_page import STATES
from conformance.requirements import REQUIREMENTS
from conformance.verdict.findings import OUTCOMES
from tests.shared.made_up_reports import (
    RIGHT,
    WRONG,
    report_of,
    right_implementation,
    wrong_implementation,
)

ROOT = Path(__file__).parents[2]
LABEL = {"schemaVersion": 1, "label": "GPT-2 conformance"}


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Write a report on a wrong implementation and a right one."""
    path = tmp_path / "report.json"
    report = report_of(wrong_implementation(), right_implementation())
    path.write_text(json.dumps(report), encoding="utf-8")
    return path


def written(path: Path, *options: str) -> dict[str, Any]:
    output = path.with_name("badge.json")
    assert main([str(path), "-o", str(output), *options]) == 0
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def test_the_badges_of_a_wrong_and_of_a_right_implementation(judged: Path) -> None:
    wrong = {"message": "3 failed", "color": "red"}
    assert written(judged, "--implementation", WRONG) == LABEL | wrong
    right = {"message": f"2 of {len(REQUIREMENTS)} requirements", "color": "brightgreen"}
    assert written(judged, "--implementation", RIGHT) == LABEL | right


def test_the_implementation_must_be_named_if_there_are_several(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ((), ("--implementation", "gpt2ref")):
        assert main([str(judged), "-o", str(judged.with_name("none.json")), *options]) == 2
        expected = f"--implementation has to be one of: {WRONG}, {RIGHT}\n"
        assert expected in capsys.readouterr().err
    assert not judged.with_name("none.json").exists()


def counted(state: str, finished: bool = True, **counts: int) -> dict[str, Any]:
    """Return the part of a report that a badge needs."""
    named = {outcome.replace("_", " "): number for outcome, number in counts.items()}
    every = dict.fromkeys(OUTCOMES, 0) | named
    adapter = {"specification": "any", "verdict": {"state": state}, "counts": every}
    return {"format": 3, "finished": finished, "adapters": [adapter]}


@pytest.mark.parametrize(
    ("report", "message", "colour"),
    [
        (
            counted("no deviation found", passed=40, variant=1, not_applicable=54),
            "41 of 95 requirements",
            "brightgreen",
        ),
        (
            counted("no deviation found", finished=False, passed=40, not_run=55),
            "40 of 95 requirements",
            "orange",
        ),
        (
            counted("deviates", finished=False, failed=1, errored=2, not_run=92),
            "1 failed, 2 errored",
            "red",
        ),
        (counted("not judged in full", passed=94, errored=1), "1 errored", "orange"),
        (counted("stale known deviations", passed=95), "95 of 95 requirements", "orange"),
        (
            counted("known deviations only", passed=93, known_deviation=2),
            "93 of 95 requirements",
            "yellow",
        ),
        (
            counted("nothing judged", not_applicable=90, not_run=5),
            "0 of 95 requirements",
            "lightgrey",
        ),
    ],
)
def test_only_passed_requirements_are_counted(
    report: dict[str, Any], message: str, colour: str, tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    found = written(tmp_path / "report.json")
    assert (found["message"], found["color"]) == (message, colour)


def test_every_verdict_has_a_colour() -> None:
    assert COLOURS.keys() == STATES.keys()


BAD = {
    "empty": "",
    "a list": "[]",
    "another object": "{}",
    "no implementations": '{"format": 3}',
    "none": '{"format": 3, "adapters": []}',
    "no fields": '{"format": 3, "adapters": [{}]}',
    "no UTF-8": "\udcff",
    "an older format": json.dumps(counted("nothing judged") | {"format": 1}),
    "a state of a later suite": json.dumps(counted("a state of a later suite")),
    "a kill matrix": '{"format": 1, "entries": []}',
    "no file": None,
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_file_that_is_no_report_is_named(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
    assert main([str(path), "-o", str(tmp_path / "badge.json")]) == 2
    assert capsys.readouterr().err.startswith(f"{path}: no badge: ")
    assert not (tmp_path / "badge.json").exists()


def test_a_file_that_cannot_be_written_is_named(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "no" / "badge.json"
    assert main([str(judged), "-o", str(output), "--implementation", WRONG]) == 2
    assert str(output) in capsys.readouterr().err


def test_it_needs_the_standard_library_alone(judged: Path) -> None:
    """CI makes the badge on a machine where nothing is installed."""
    code = (
        "import sys; sys.modules.update(torch=None, pytest=None, jinja2=None); "
        "from conformance.pages.badge import main; sys.exit(main())"
    )
    output = judged.with_name("alone.json")
    arguments = [str(judged), "-o", str(output), "--implementation", RIGHT]
    command = [sys.executable, "-c", code, *arguments]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    assert json.loads(output.read_text(encoding="utf-8"))["color"] == "brightgreen"
