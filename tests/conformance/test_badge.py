"""The badge says no more than the report."""

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
from conformance.verdict.judgement import OUTCOMES
from tests.conformance.test_verdict import ADAPTERS, ROOT, judge

ERF, RIGHT = "conformance.defects:gelu-erf", f"{ADAPTERS}:logits_only"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wrong and a right one, in a few requirements."""
    path = tmp_path_factory.mktemp("report") / "report.json"
    options = (
        f"--implementation={ERF}",
        f"--implementation={RIGHT}",
        f"--conformance-report={path}",
    )
    judge("conformance/test_probes.py", "-k", "activation or c_fc-bias or epsilon-ln_1", *options)
    return path


def written(path: Path, *options: str) -> dict[str, Any]:
    output = path.with_name("badge.json")
    assert main([str(path), "-o", str(output), *options]) == 0
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def test_of_a_wrong_and_of_a_right_one(judged: Path) -> None:
    shown = {"schemaVersion": 1, "label": "GPT-2 conformance"}
    assert written(judged, "--implementation", ERF) == shown | {
        "message": "2 failed",
        "color": "red",
    }
    of_all = f"3 of {len(REQUIREMENTS)} requirements"
    assert written(judged, "--implementation", RIGHT) == shown | {
        "message": of_all,
        "color": "brightgreen",
    }


def test_whose_badge_must_be_said_where_there_are_several(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ((), ("--implementation", "gpt2ref")):
        assert main([str(judged), "-o", str(judged.with_name("none.json")), *options]) == 2
        assert f"--implementation has to be one of: {ERF}, {RIGHT}\n" in capsys.readouterr().err
    assert not judged.with_name("none.json").exists()


def report_of(state: str, finished: bool = True, **counts: int) -> dict[str, Any]:
    every = dict.fromkeys(OUTCOMES, 0) | {
        outcome.replace("_", " "): number for outcome, number in counts.items()
    }
    adapter = {"specification": "any", "verdict": {"state": state}, "counts": every}
    return {"format": 2, "finished": finished, "adapters": [adapter]}


@pytest.mark.parametrize(
    ("report", "message", "colour"),
    [
        (report_of("no deviation found", passed=40, variant=1, not_applicable=54), "41 of 95 requirements", "brightgreen"),
        (report_of("no deviation found", finished=False, passed=40, not_run=55), "40 of 95 requirements", "orange"),
        (report_of("deviates", finished=False, failed=1, errored=2, not_run=92), "1 failed, 2 errored", "red"),
        (report_of("not judged in full", passed=94, errored=1), "1 errored", "orange"),
        (report_of("stale known deviations", passed=95), "95 of 95 requirements", "orange"),
        (report_of("known deviations only", passed=93, known_deviation=2), "93 of 95 requirements", "yellow"),
        (report_of("nothing judged", not_applicable=90, not_run=5), "0 of 95 requirements", "lightgrey"),
    ],
)  # fmt: skip
def test_what_was_not_found_right_is_not_counted(
    report: dict[str, Any], message: str, colour: str, tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    found = written(tmp_path / "report.json")
    assert (found["message"], found["color"]) == (message, colour)


def test_every_verdict_has_a_colour() -> None:
    assert COLOURS.keys() == STATES.keys()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 1}', '{"format": 2, "adapters": []}',
     '{"format": 2, "adapters": [{}]}', "\udcff", None,
     json.dumps(report_of("nothing judged") | {"format": 1}), json.dumps(report_of("a state of a later suite"))],
)  # fmt: skip
def test_what_is_no_report_is_named(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
    assert main([str(path), "-o", str(tmp_path / "badge.json")]) == 2
    assert capsys.readouterr().err.startswith(f"{path}: no badge: ")
    assert not (tmp_path / "badge.json").exists()


def test_a_file_that_cannot_be_written(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main([str(judged), "-o", str(tmp_path / "no" / "badge.json"), "--implementation", ERF]) == 2
    )
    assert str(tmp_path / "no" / "badge.json") in capsys.readouterr().err


def test_it_runs_on_python_alone(judged: Path) -> None:
    """CI makes the badge on a machine where nothing is installed."""
    code = "import sys; sys.modules.update(torch=None, pytest=None); from conformance.pages.badge import main; sys.exit(main())"
    command = [
        sys.executable,
        "-c",
        code,
        str(judged),
        "-o",
        str(judged.with_name("alone.json")),
        "--implementation",
        ERF,
    ]
    subprocess.run(command, cwd=ROOT, timeout=60, check=True)
    assert "2 failed" in judged.with_name("alone.json").read_text(encoding="utf-8")
