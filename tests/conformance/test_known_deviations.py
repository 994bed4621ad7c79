"""A file of known deviations excuses its failures, as long as they occur."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.verdict.known_deviations import (
    KnownDeviation,
    read_known_deviations,
    write_known_deviations,
)
from tests.shared.judging import ADAPTERS, ROOT, judge, section

ADAPTER = "conformance.defects:eos-kept"
Run = Callable[..., tuple[int, str]]
MIDDLE = '[[deviation]]\nrequirement = "eos.middle"\nreason = "the caller wants to see it"\n'


@pytest.fixture
def run() -> Run:
    """Judge in this process. Return the exit status and the output."""

    def judged(*arguments: str) -> tuple[int, str]:
        done = judge(*arguments)
        return done.returncode, done.stdout + done.stderr

    return judged


EOS = str(ROOT / "conformance/test_eos.py")
SOME = ("-k", "test_middle or test_never", "--implementation", ADAPTER)


def test_failures_are_written_explained_and_then_excused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    status, _ = run(EOS, *SOME, "--write-known-deviations", str(path))
    assert status == 1
    known = read_known_deviations(str(path))
    assert list(known) == ["eos.middle"]
    assert re.fullmatch(
        r"found on \d{4}-\d\d-\d\d by gpt2ref \S+; say why", known["eos.middle"].reason
    )

    path.write_text(MIDDLE + 'issue = "https://example.org/1"\n')
    status, output = run(EOS, *SOME, "--known-deviations", str(path))
    verdict = section(output, ADAPTER)
    assert status == 0, output
    assert (
        "eos.middle: known deviation\n    known: the caller wants to see it (https://example.org/1)\n"
        in verdict
    )
    assert f"{ADAPTER}: no deviation from GPT-2 found except the known ones." in verdict
    assert "FAILED" not in output


def test_an_entry_that_does_not_occur_fails_the_run(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text(
        "".join(
            MIDDLE.replace("eos.middle", name)
            for name in ("eos.middle", "activation.curve", "eos.never")
        )
    )
    probes = str(ROOT / "conformance/test_probes.py")
    some = "activation or test_middle or test_never and 9"
    status, output = run(
        probes, EOS, "-k", some, "--known-deviations", str(path), "--implementation", ADAPTER
    )
    verdict = section(output, ADAPTER)
    assert status == 1
    stale = re.findall(r"^(\S+): this known deviation no longer occurs: remove it$", verdict, re.M)
    assert stale == ["activation.curve"], "eos.middle fails; not all tests of eos.never were run"
    assert f"{ADAPTER}: a known deviation no longer occurs." in verdict


def test_an_error_is_not_excused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text(MIDDLE)
    adapter = f"{ADAPTERS}:raises_in_generate"
    status, output = run(
        EOS, "-k", "test_middle", "--implementation", adapter, "--known-deviations", str(path)
    )
    assert status == 1
    assert "eos.middle: ERRORED" in section(output, adapter)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--write-known-deviations=FOLDER/mine"],
            "--write-known-deviations FOLDER/mine: there is such a file",
        ),
        (["--known-deviations=FOLDER/mine"], "--known-deviations FOLDER/mine: "),
        (
            ["--known-deviations=x", "--implementation=gpt2ref", "--implementation=huggingface"],
            "goes with one --implementation",
        ),
        (
            ["--conformance-report=FOLDER/no/report.json"],
            "--conformance-report FOLDER/no/report.json: can't be written",
        ),
    ],
)
def test_the_options_are_checked_before_anything_runs(
    run: Run, tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "mine").write_text("not TOML")
    status, output = run(EOS, *[option.replace("FOLDER", str(tmp_path)) for option in options])
    assert status == pytest.ExitCode.USAGE_ERROR
    assert message.replace("FOLDER", str(tmp_path)) in output
    assert "collected" not in output
    assert (tmp_path / "mine").read_text() == "not TOML"


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
def test_a_bad_file_is_a_usage_error_that_names_file_and_entry(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "known.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(pytest.UsageError) as error:
        read_known_deviations(str(path))
    assert str(error.value).startswith(f"--known-deviations {path}: ")
    assert message in str(error.value)


def test_several_files_are_joined_and_a_requirement_may_occur_once(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.toml", "b.toml")]
    write_known_deviations(paths[0], [KnownDeviation("eos.middle", "x")], "one")
    write_known_deviations(paths[1], [KnownDeviation("eos.never", "y")], "two")
    assert [entry.reason for entry in read_known_deviations(*paths).values()] == ["x", "y"]
    with pytest.raises(
        pytest.UsageError,
        match=r"a\.toml: entry 1 \(eos\.middle\): the requirement has an entry already",
    ):
        read_known_deviations(*paths, paths[0])


@pytest.mark.parametrize(
    "text", ['quote " backslash \\ DEL \x7f', "line\nbreak, tab\t, bell \x07", "déviation 🙃"]
)
def test_a_written_file_is_read_back(tmp_path: Path, text: str) -> None:
    path = str(tmp_path / "known.toml")
    write_known_deviations(
        path,
        [KnownDeviation("eos.middle", text, text), KnownDeviation("eos.never", "x")],
        "a heading",
    )
    assert read_known_deviations(path) == {
        "eos.middle": KnownDeviation("eos.middle", text, text),
        "eos.never": KnownDeviation("eos.never", "x"),
    }
    with pytest.raises(FileExistsError):
        write_known_deviations(path, [], "another heading")
