"""Find the commands on the pages, and run each in a cheap form, in a folder that is made for it.

The folder contains the repository's files and the files that commands read, such as `my_gpt2.py` or
`out.json`. pytest runs with --collect-only, and for one defect instead of all. A study runs with
--help. `python -m gpt2ref` generates two tokens.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conformance.__main__ import FOR_VECTORS
from tests.shared.documentation import ROOT, blocks, inline
from tests.shared.model_files import NANO
from tests.shared.tox_environments import environments

_PROGRAMS = (
    r"(?:PYTHONPATH=\S+ )?(?:\.venv/bin/)?"
    r"(?:pytest|python3?|gpt2-conformance|gpt2-benchmark|torchrun|tox|sphinx-build|pip) "
)


class Command(NamedTuple):
    words: list[str]
    environment: dict[str, str]

    def __str__(self) -> str:
        return shlex.join(
            [*(f"{name}={value}" for name, value in self.environment.items()), *self.words]
        )


class Job(NamedTuple):
    """The cheap form of a command. `how` says how `perform` runs it."""

    how: str
    words: list[str]
    environment: dict[str, str]
    named: list[str]  # options of the command, which its help must name


def commands(page: str) -> list[Command]:
    """Return the commands in the ```bash blocks and in the text of a page."""
    lines = [
        line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()
    ]
    lines += [code for code in inline(page) if re.match(_PROGRAMS, code)]
    words = [shlex.split(part, comments=True) for line in lines for part in line.split(" && ")]
    return [command_of(each) for each in words if each]


def command_of(words: list[str]) -> Command:
    set_first = list(itertools.takewhile(lambda word: re.match(r"[A-Z_]+=", word), words))
    program, *rest = words[len(set_first) :]
    return Command(
        [program.removeprefix(".venv/bin/"), *rest], dict(word.split("=", 1) for word in set_first)
    )


def job(command: Command) -> Job | None:
    """Return the job of a command, or None if it is checked here without being run.

    Raise AssertionError if the command cannot work, or if no rule covers it.
    """
    words, environment = command
    program, *rest = words
    if (
        program in ("python", "python3")
        and rest[:1] == ["-m"]
        and rest[1:2] in (["pytest"], ["pip"])
    ):
        program, *rest = rest[1:]
    if program == "gpt2-conformance" and any(word.startswith(FOR_VECTORS) for word in rest):
        options = [word for word in rest if word.startswith("-")]  # test_vectors.py runs them
        return Job(program, ["--help"], environment, options)
    if program in ("pytest", "gpt2-conformance"):
        return Job(program, _collecting(rest), environment, [])
    if program == "gpt2-benchmark":  # test_distribution.py runs that of the README
        named = [word for word in rest if word.startswith("-")]
        return Job(program, [*rest, "--help"], environment, named)
    if program in ("torchrun", "cc"):
        return Job(program, rest, environment, [])
    if program in ("python", "python3") and rest[:1] == ["-m"] and rest[1:2] != ["venv"]:
        return _module(rest[1], rest[2:], environment)
    for rule in (_pip, _tox, _run_elsewhere):
        if rule([program, *rest]):
            return None
    raise AssertionError(
        f"no rule of tests/shared/documented_commands.py covers this command: {command}"
    )


def _collecting(rest: list[str]) -> list[str]:
    if {"--help", "-h", "--list-requirements"} & set(rest):
        return rest
    if "--defects" in rest and [*rest, "-"][rest.index("--defects") + 1].startswith("-"):
        # All defects would take a minute.
        rest = [
            word
            for each in rest
            for word in ([each, "gelu-erf"] if each == "--defects" else [each])
        ]
    stand_ins = {"--benchmark-json": lambda _: os.devnull, "--bench-implementation": _installed}
    words = [stand_ins.get(before, str)(word) for before, word in itertools.pairwise(["", *rest])]
    return [
        *words,
        "--collect-only",
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        *("-W", "ignore:Not saving anything"),
    ]


def _installed(names: str) -> str:
    """Return the implementations whose packages are installed. A command stays as it is."""
    from benchmarks.implementations import missing_package

    if names.startswith("command:"):
        return names
    return ",".join(name for name in names.split(",") if not missing_package(name))


REPORTERS = (
    "conformance.pages",
    "conformance.pages.badge",
    "benchmarks.report",
)


def _module(name: str, rest: list[str], environment: dict[str, str]) -> Job:
    if name == "conformance":
        return Job("module", [name, *_collecting(rest)], environment, [])
    if name == "gpt2ref":
        return Job("module", [name, *(rest if "--help" in rest else _short(rest))], environment, [])
    if name in REPORTERS:
        return Job("module", [name, *rest], environment, [])
    if re.fullmatch(r"(conformance\.studies|benchmarks|training)\.\w+", name):
        return Job(
            "module",
            [name, *rest, "--help"],
            environment,
            [word for word in rest if word.startswith("-")],
        )
    raise AssertionError(
        f"no rule of tests/shared/documented_commands.py covers this command: python -m {name}"
    )


def _short(rest: list[str]) -> list[str]:
    """Generate two tokens with the model in the package."""
    from gpt2ref.checkpoint.hub import PUBLISHED

    if "--model" in rest:
        model = rest[rest.index("--model") + 1]
        assert model in ("tiny", *PUBLISHED), f"--model {model}: not a published size"
    return [*rest, "--model", "tiny", "--max-new-tokens", "2"]


def _pip(words: list[str]) -> bool:
    """Check that the extras and files exist. Install nothing."""
    if words[:2] != ["pip", "install"]:
        return False
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(
        r"^(\w+) = \[", project.split("[project.optional-dependencies]")[1].split("\n[")[0], re.M
    )
    for before, word in itertools.pairwise(words):
        if match := re.fullmatch(r"(\.|gpt2ref)\[(.*)\]", word):
            unknown = set(match[2].split(",")) - set(extras)
            assert not unknown, f"{word}: no extra {unknown}"
        if before in ("-c", "-r"):
            assert (ROOT / word).is_file(), word
    known = re.compile(r"-\w|--\w[\w-]*|(\.|gpt2ref)(\[.*\])?|build|tox|tox-uv|constraints.txt")
    unknown = {word for word in words[2:] if not known.fullmatch(word)}
    assert not unknown, f"pip install: no rule for {unknown}"
    return True


def _tox(words: list[str]) -> bool:
    if words[0] != "tox":
        return False
    asked = words[words.index("-e") + 1].split(",") if "-e" in words else []
    unknown = [name for name in asked if name not in environments()]
    assert not unknown, f"tox.ini has no environment {unknown}"
    return True


BUILD = ["sphinx-build", "-W", "-b", "html", "docs"]


def _run_elsewhere(words: list[str]) -> bool:
    """Accept a command that other tests, or CI, run word for word."""
    ci = "".join((ROOT / name).read_text(encoding="utf-8") for name in (".ci/run", "tox.ini"))
    if words[0] in ("ruff", "mypy"):
        assert shlex.join(words) in ci, f"neither .ci/run nor tox.ini has {shlex.join(words)}"
        return True
    if words == [".ci/run"]:
        return os.access(ROOT / ".ci/run", os.X_OK)
    if words[:5] == BUILD:  # by test_the_site_builds
        return len(words) == 6
    return words in (["python3", "-m", "venv", ".venv"], ["python", "docs/generate.py"])


# The folder in which commands run.


def furnish(folder: Path, page: str) -> None:
    """Make a folder with the repository's files and the files that a page's commands read."""
    from tests.shared.benchmark_results import a_result, written

    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name != "docs" and (path.name in (".ci", ".github") or path.name[0] != "."):
            (folder / path.name).symlink_to(path)
    shutil.copytree(ROOT / "docs", folder / "docs")  # a copy: a command may write there
    adapters = [block for name in (page, "README.md") for block in blocks(name, "python")]
    adapter = next(block for block in adapters if "def load(" in block)
    (folder / "my_gpt2.py").write_text(adapter, encoding="utf-8")
    nanogpt = folder / "path/to/nanoGPT"
    nanogpt.mkdir(parents=True)
    (nanogpt / "model.py").write_text(
        "class GPT: ...\n\n\nclass GPTConfig: ...\n", encoding="utf-8"
    )
    for program in ("my-gpt2", "gpt2"):
        (folder / program).write_text("#!/bin/sh\n", encoding="utf-8")
        (folder / program).chmod(0o755)
    # A small model stands in for the published one.
    small = NANO.replace("(12, 12, 768)", "(3, 5, 20)").replace("GPTConfig(1024", "GPTConfig(23")
    (folder / "model.py").write_text(small, encoding="utf-8")
    cells = {"cells": [{"cell_type": "code", "source": small}]}
    (folder / "notebook.ipynb").write_text(json.dumps(cells), encoding="utf-8")
    (folder / "f.toml").touch()
    shutil.copy(ROOT / "docs/kill-matrix.json", folder / "kill.json")
    shutil.copy(written(folder / "path", a_result(), a_result("huggingface")), folder / "out.json")
    shutil.copy(folder / "out.json", folder / "baseline.json")


def perform(how: str, words: list[str], environment: dict[str, str]) -> int:
    """Run one job in this process, which imports torch only once. Return its exit status."""
    sys.path[:0] = places = [value for name, value in environment.items() if name == "PYTHONPATH"]
    os.environ.update(environment)
    # pytest warns of a module that an earlier job has imported.
    for name in [name for name in sys.modules if name.startswith("gpt2ref_benchmarks")]:
        del sys.modules[name]
    try:
        if how == "pytest":
            return int(pytest.main(words))
        if how in ("gpt2-conformance", "gpt2-benchmark"):
            (script,) = importlib.metadata.entry_points(group="console_scripts", name=how)
            return _status(lambda: script.load()(words))
        if how == "torchrun":
            from torch.distributed.run import parse_args

            chosen = parse_args(words)
            how, words = "module", [chosen.training_script, *chosen.training_script_args, "--help"]
            assert chosen.module, "torchrun without -m"
        if how == "cc":
            return (
                subprocess.run(["cc", *words], check=False).returncode if shutil.which("cc") else 0
            )
        sys.argv = words
        return _status(
            lambda: runpy.run_module(words[0], run_name="__main__", alter_sys=True) and 0
        )
    finally:
        for place in places:
            sys.path.remove(place)


def _status(program: Callable[[], Any]) -> int:
    """Return the exit status that a program returns, or ends with."""
    try:
        return int(program() or 0)
    except SystemExit as end:
        return int(end.code or 0)


def perform_all() -> None:
    """Read jobs and their folders from standard input. Write the results to standard output."""
    results = []
    given = json.load(sys.stdin)
    sys.path[0] = "."  # as `python -m` sets it
    for folder, (how, words, environment, _) in given:
        os.chdir(folder)
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                status = perform(how, words, environment)
            except BaseException as error:
                status = -1
                print(f"{type(error).__name__}: {error}", file=output)
        results.append((status, output.getvalue()))
    print(json.dumps(results))


def in_folders(jobs: list[tuple[str, Job]]) -> list[tuple[int, str]]:
    """Run jobs in one other process, which imports torch once. Return status and output of each."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    for name in [name for name in variables if name.startswith("PYTEST_")]:  # of this run
        del variables[name]
    done = subprocess.run(
        [sys.executable, "-m", "tests.shared.documented_commands"],
        input=json.dumps(jobs),
        env=variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results: list[tuple[int, str]] = json.loads(done.stdout.splitlines()[-1])
    return results


if __name__ == "__main__":
    perform_all()
