"""Known deviations: the implementer's list of failures, which excuses them as long as it is true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from conformance.deviations import Deviation, read_deviations, write_deviations
from tests.test_verdict import ADAPTERS, judge, section

ADAPTER = f"{ADAPTERS}:eos_appended"
MIDDLE = '[[deviation]]\nrequirement = "eos.middle"\nreason = "the caller wants to see it"\n'


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return judge("conformance/test_eos.py", "-k", "test_middle or test_never", "--implementation", ADAPTER, *options)


def test_failures_are_written_explained_and_then_excused(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    first = run("--write-known-deviations", str(path))
    assert first.returncode == 1
    assert "found on" in path.read_text()
    known = read_deviations(str(path))
    assert list(known) == ["eos.middle"]
    assert re.fullmatch(r"found on \d{4}-\d\d-\d\d by gpt2ref \S+; say why", known["eos.middle"].reason)

    path.write_text(MIDDLE + 'issue = "https://example.org/1"\n')
    second = run("--known-deviations", str(path))
    verdict = section(second.stdout, ADAPTER)
    assert second.returncode == 0, second.stdout
    assert "eos.middle: known deviation\n    known: the caller wants to see it (https://example.org/1)\n" in verdict
    assert f"{ADAPTER}: no deviation from GPT-2 found but the known." in verdict
    assert "FAILED" not in second.stdout


def test_an_entry_that_is_not_true_fails_the_run(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text("".join(MIDDLE.replace("eos.middle", name) for name in ("eos.middle", "activation.curve", "eos.never")))
    files = ("conformance/test_probes.py", "conformance/test_eos.py")
    some = "activation or test_middle or test_never and 9"
    run = judge(*files, "-k", some, "--known-deviations", str(path), "--implementation", ADAPTER)
    verdict = section(run.stdout, ADAPTER)
    assert run.returncode == 1
    assert re.findall(r"^(\S+): passes, and is listed as a known deviation", verdict, re.M) == ["activation.curve"], (
        "eos.middle fails, and of eos.never not all tests were run"
    )
    assert f"{ADAPTER}: a known deviation is none any more." in verdict


def test_an_error_is_not_excused(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text(MIDDLE)
    adapter = f"{ADAPTERS}:raises_in_generate"
    options = ("-k", "test_middle", "--implementation", adapter, "--known-deviations", str(path))
    run = judge("conformance/test_eos.py", *options)
    assert run.returncode == 1
    assert "eos.middle: ERRORED" in section(run.stdout, adapter)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (MIDDLE.replace("eos.middle", "eos.nothing"), "entry 1 (eos.nothing): no such requirement"),
        (MIDDLE + '[[deviation]]\nreason = "?"\n', "entry 2 (no requirement): no such requirement"),
        ('[[deviation]]\nrequirement = "eos.middle"\n', "entry 1 (eos.middle): has no reason"),
        (MIDDLE.replace("the caller wants to see it", "  "), "entry 1 (eos.middle): has no reason"),
        (MIDDLE + MIDDLE, "entry 2 (eos.middle): the requirement has an entry already"),
        (MIDDLE + 'link = "x"\n', "entry 1 (eos.middle): link is neither"),
        (MIDDLE + "issue = 3\n", "entry 1: expected a table of strings"),
        ("deviation = 3", "expected [[deviation]] tables, found int"),
        ("deviations = []", "expected [[deviation]] tables, found deviations"),
        ("reason = ?", "line 1"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_is_a_usage_error_that_names_file_and_entry(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "known.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(pytest.UsageError) as error:
        read_deviations(str(path))
    assert str(error.value).startswith(f"--known-deviations {path}: ")
    assert message in str(error.value)


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text("mine")
    run = judge("conformance", "--write-known-deviations", str(path))
    assert run.returncode == 4
    assert f"--write-known-deviations {path}: is there already" in run.stderr
    assert "passed" not in run.stdout, "that is known before anything runs"
    assert path.read_text() == "mine"


@pytest.mark.parametrize("text", ['quote " backslash \\ DEL \x7f', "line\nbreak, tab\t, bell \x07", "déviation 🙃"])
def test_what_is_written_is_read_back(tmp_path: Path, text: str) -> None:
    path = str(tmp_path / "known.toml")
    write_deviations(path, [Deviation("eos.middle", text, text), Deviation("eos.never", "x")], "a heading")
    assert read_deviations(path) == {
        "eos.middle": Deviation("eos.middle", text, text),
        "eos.never": Deviation("eos.never", "x"),
    }
    with pytest.raises(FileExistsError):
        write_deviations(path, [], "another heading")
