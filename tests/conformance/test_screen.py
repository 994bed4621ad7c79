"""`gpt2-conformance` shows progress, the first finding, and the verdict as the last line."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.__main__ import main
from conformance.command import own_screen
from tests.shared.judging import ADAPTERS, PLUGINS, ROOT

ERF = "conformance.defects:gelu-erf"
FEW = ("-n", "0", "-k", "activation_curve or test_fact and activation or test_orientation")
FINDING = "activation.curve: reads gelu-erf; GPT-2 has tanh-GELU"
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def command(*words: str) -> int:
    """Run `gpt2-conformance` in this process, whose pytest has its own handler of crashes."""
    return main([*words, "-p", "no:benchmark"])


def on_a_terminal(columns: int, run: Callable[[], int]) -> tuple[int, str]:
    """Return the exit status, and all that a terminal got."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    got = bytearray()

    def read() -> None:
        while not got.endswith(b"\0") and (more := os.read(ours, 4096)):
            got.extend(more)

    reader = threading.Thread(target=read)
    reader.start()
    before = sys.stdout, sys.stderr
    with open(its, "w", encoding="utf-8", buffering=1) as terminal:
        sys.stdout = sys.stderr = terminal
        try:
            status = run()
        finally:
            sys.stdout, sys.stderr = before
            terminal.write("\0")
    reader.join()
    os.close(ours)
    return status, got.decode().replace("\r\n", "\n").rstrip("\0")


def left_on_screen(written: str) -> list[str]:
    """Return the lines of a screen: what a carriage return goes back over is written over."""
    lines = []
    for line in ESCAPES.sub("", written).split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


@pytest.fixture(params=[80, 120])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.chdir(ROOT)
    status, written = on_a_terminal(request.param, lambda: command(ERF, *FEW))
    assert status == 1
    return request.param, written


# A terminal.


def test_a_terminal_has_a_bar_which_is_gone_at_the_end(screen: tuple[int, str]) -> None:
    columns, written = screen
    lines = left_on_screen(written)
    assert f"judging {ERF} 100%|" in written
    assert "2 of 2 families" in written
    assert not [line for line in lines if line.startswith("judging") or "families" in line]
    finding, section = (
        next(number for number, line in enumerate(lines) if text in line)
        for text in (f"first finding: {FINDING}", " conformance of ")
    )
    assert finding < section
    assert "families" in written.partition(FINDING)[2], "the rest of the tests ran after it"
    long = [line for line in lines if len(line) > columns]
    assert all(line.startswith("    again: pytest ") for line in long)
    assert max(len(line) for line in lines if line not in long) > columns - 20
    # The verdict's sentence is the last on the screen.
    assert (
        " ".join(lines)
        .rstrip()
        .endswith(
            f"{ERF}: NOT a right GPT-2. 1 cause, nothing unexplained. 5 of 114 requirements: "
            "4 passed, 1 failed."
        )
    )


def test_pytests_own_lines_come_back_when_they_are_asked_for(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    command("gpt2ref", *FEW, "-v", "-p", "no:faulthandler")
    out = capfd.readouterr().out
    assert "test session starts" in out
    assert "PASSED" in out
    assert " passed" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "own"),
    [
        ("", True),
        ("--quick -n 0 -k small -x -q -xq -n2 -p no:randomly", True),
        ("--dtype=float32 --conformance-report r.json --maxfail=2 -m slow", True),
        *((word, False) for word in ("-v", "-xv", "-s", "--tb=long", "--pdb", "-rA", "-l")),
        *((word, False) for word in ("--collect-only", "--list-requirements", "--defects")),
    ],
)
def test_which_options_leave_the_bar(words: str, own: bool) -> None:
    assert own_screen(words.split()) is own


# A pipe.


def test_a_pipe_gets_lines_that_only_grow(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert command(ERF, "gpt2ref", *FEW) == 1
    out, err = capfd.readouterr()
    assert not re.search(r"[\r\x1b]", out + err)
    assert not re.search(r"test session starts|^FAILED |\.\.\.\.|%\]", out + err, re.M)
    first, *families = (line for line in err.splitlines())
    assert first == f"{ERF}: first finding: {FINDING}"
    assert {line.partition(" (")[0] for line in families} == {
        f"{ERF}: activation: 1 failed",
        f"{ERF}: transpose: 4 passed",
        "gpt2ref: activation: 1 passed",
        "gpt2ref: transpose: 4 passed",
    }
    assert families[-1].endswith(" (4 of 4 families)")
    assert out.startswith(f"conformance: {ERF}, gpt2ref in float32 on cpu; python ")
    assert out.splitlines()[-1] == (
        "gpt2ref: no deviation from GPT-2 found. 5 of 114 requirements: 5 passed."
    )


def test_q_shows_the_verdict_alone(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert command("gpt2ref", *FEW, "-q") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "no deviation from GPT-2 found" in out.splitlines()[-1]


# A wrong GPT-2 that says something at every call, in every way, and at the end of its process.
TALKING = """
import atexit, os, sys
from conformance.defects import DEFECTS
atexit.register(lambda: print("the end", flush=True) or os.write(2, b"the end"))
os.system("echo noise of an import")

def load(checkpoint, **options):
    os.system("echo noise; echo noise >&2")
    os.write(1, b"noise of C"), os.write(2, b"noise of C")
    print("noise"), print("noise", file=sys.stderr)
    return DEFECTS["gelu-erf"].kind.load(checkpoint, **options)
"""


def test_nothing_comes_after_the_verdict(tmp_path: Path) -> None:
    (tmp_path / "talking.py").write_text(TALKING, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "conformance", "talking.py", *FEW],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 1
    assert "noise" not in run.stdout
    assert run.stdout.endswith(
        "\ntalking.py: NOT a right GPT-2. 1 cause, nothing unexplained. "
        "5 of 114 requirements: 4 passed, 1 failed.\n"
    )


def test_the_shown_command_can_be_pasted_where_the_user_stands(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the adapter has a space."""
    adapter = "my models/pasted_gpt2.py"
    (tmp_path / "my models").mkdir()
    wrong = "from conformance.defects import DEFECTS\nload = DEFECTS['gelu-erf'].kind.load\n"
    (tmp_path / adapter).write_text(wrong, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert command(adapter, *FEW) == 1
    (again,) = re.findall("again: (pytest .*)", capfd.readouterr().out)
    program, asked, *options = shlex.split(again)
    assert (program, options) == ("pytest", ["--implementation", adapter])
    assert not Path(asked).is_absolute()
    plugins = [word for each in PLUGINS for word in ("-p", f"no:{each}")]
    ignored = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    assert pytest.main([asked, *options, *plugins, *ignored]) == 1
    assert "1 failed" in capfd.readouterr().out.splitlines()[-1]


# The exit status.


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("gpt2ref", *FEW), 0, "gpt2ref: no deviation from GPT-2 found."),
        ((ERF, *FEW), 1, f"{ERF}: NOT a right GPT-2."),
        ((f"{ADAPTERS}:last_logits_only", *FEW), 1, "NOT judged in full."),
        (("nowhere.py", *FEW), 4, "ERROR: --implementation nowhere.py: "),
        (("gpt2ref", *FEW, "--dtype=int8"), 4, "argument --dtype: invalid choice: 'int8'"),
        (("gpt2ref", "-n", "0", "-k", "no_such"), 5, " deselected"),
        ((f"{ADAPTERS}:logits_only", "-n", "0", "-k", "test_middle"), 5, "nothing could be judged"),
        ((f"{ADAPTERS}:interrupted", *FEW), 2, "Interrupted; nothing was found so far."),
    ],
)
def test_the_exit_status(
    words: tuple[str, ...],
    status: int,
    said: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert command(*words) == status
    out, err = capfd.readouterr()
    last = (out if status in (0, 1) else err).splitlines()[-1] if status != 4 else err
    assert said in (out.splitlines()[-1] if status == 5 and "nothing" in said else last)


def test_help_says_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for task in (
        "judge a model",
        "your own loader",
        "quick look",
        "write an adapter",
        "make a page",
    ):
        assert re.search(rf"^{task}.* gpt2-conformance .*\.py|{task}", out, re.M)
    for number in range(1, 6):
        assert re.search(rf"\b{number}\b", out.partition("The exit status is 0")[2])
