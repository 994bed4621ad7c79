"""The wheel and the sdist work in an environment that has only their declared requirements."""

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gpt2ref
from tests.shared.model_files import NANO

ROOT = Path(__file__).parents[2]
VERSION = gpt2ref.__version__
RIGHT = """
import torch
from transformers import GPT2LMHeadModel


class Mine:
    def __init__(self, model):
        self.model = model

    @torch.inference_mode()
    def logits(self, token_ids):
        return self.model(token_ids).logits


def load(checkpoint, *, device="cpu", dtype=torch.float32):
    model = GPT2LMHeadModel.from_pretrained(checkpoint).to(device, dtype).eval()
    return Mine(model)
"""
WRONG = RIGHT.replace(
    "    return Mine(model)", "    model.transformer.h[0].ln_1.eps = 1e-3\n    return Mine(model)"
)


def run(*words: object, cwd: Path = ROOT, status: int = 0) -> subprocess.CompletedProcess[str]:
    # Keep the working tree, which has its own gpt2ref, off sys.path.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYTEST"))
    }
    done = subprocess.run(
        [*map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist and the wheel of this tree.

    Its folder `again` has the wheel that is built from the unpacked sdist.
    """
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder)
    with tarfile.open(folder / f"gpt2ref-{VERSION}.tar.gz") as sdist:
        safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        sdist.extractall(folder, **safe)
    unpacked = folder / f"gpt2ref-{VERSION}"
    build = (sys.executable, "-m", "hatchling", "build")
    run(*build, "-t", "wheel", "-d", folder / "again", cwd=unpacked)
    return folder


def wheel_in(folder: Path) -> Path:
    return folder / f"gpt2ref-{VERSION}-py3-none-any.whl"


def collect_requirements(
    name: str, extras: frozenset[str], met: dict[str, importlib.metadata.Distribution]
) -> None:
    """Add a distribution's requirements, and their requirements, to `met`, as installed here."""
    for text in importlib.metadata.requires(name) or []:
        wanted = Requirement(text)
        if wanted.marker is None or any(
            wanted.marker.evaluate({"extra": extra}) for extra in {"", *extras}
        ):
            key = f"{canonicalize_name(wanted.name)}[{','.join(sorted(wanted.extras))}]"
            if key not in met:
                met[key] = importlib.metadata.distribution(wanted.name)
                collect_requirements(wanted.name, frozenset(wanted.extras), met)


def files_of(distribution: importlib.metadata.Distribution) -> Iterator[Path]:
    """Yield a distribution's entries at the top of site-packages: packages, modules, metadata."""
    for name in {path.parts[0] for path in distribution.files or []} - {"..", "__pycache__"}:
        if not name.endswith(".pth"):
            yield Path(str(distribution.locate_file(name)))


def environment(folder: Path, wheel: Path, *extras: str) -> Path:
    """Make a virtual environment with pip, the wheel and its requirements, and nothing else.

    Return its folder of programs.
    """
    run(sys.executable, "-m", "venv", folder)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    # As a module: environments that uv makes have no program named pip.
    run(programs / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    add_requirements(folder, *extras)
    return programs


def add_requirements(folder: Path, *extras: str) -> None:
    """Link what the project requires, with these extras, into an environment."""
    (packages,) = folder.glob("**/site-packages")
    met: dict[str, importlib.metadata.Distribution] = {}
    collect_requirements("gpt2ref", frozenset(extras), met)
    for distribution in met.values():
        for path in files_of(distribution):
            if not (packages / path.name).exists() and not path.name.startswith("gpt2ref"):
                (packages / path.name).symlink_to(path)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder outside the repository, with a right and a wrong adapter."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_gpt2.py").write_text(RIGHT, encoding="utf-8")
    (folder / "wrong.py").write_text(WRONG, encoding="utf-8")
    # The settings of a user's own project must not affect the suite.
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def with_suite(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(
        tmp_path_factory.mktemp("suite") / "venv", wheel_in(built / "again"), "conformance"
    )


@pytest.fixture(scope="module")
def alone(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("alone") / "venv", wheel_in(built))


def test_the_wheel_contains_the_reference_the_suite_and_the_benchmarks(built: Path) -> None:
    names = zipfile.ZipFile(wheel_in(built)).namelist()
    assert {name.split("/")[0] for name in names} == {
        "gpt2ref",
        "gpt2ref_conformance",
        "gpt2ref_benchmarks",
        f"gpt2ref-{VERSION}.dist-info",
    }
    for folder in ("conformance", "benchmarks"):
        of_the_tree = {
            f"gpt2ref_{folder}/{path.relative_to(ROOT / folder)}" for path in files_in(folder)
        }
        assert {name for name in names if name.startswith(f"gpt2ref_{folder}/")} == of_the_tree


def files_in(folder: str) -> Iterator[Path]:
    return (
        path
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    )


def test_the_sdist_contains_the_tests_and_builds_the_same_wheel(built: Path) -> None:
    of_the_tree, of_the_sdist = (
        zipfile.ZipFile(wheel_in(folder)) for folder in (built, built / "again")
    )
    assert of_the_tree.namelist() == of_the_sdist.namelist()
    assert all(of_the_tree.read(name) == of_the_sdist.read(name) for name in of_the_tree.namelist())
    unpacked = built / f"gpt2ref-{VERSION}"
    assert all(
        (unpacked / name).exists()
        for name in ("README.md", "tox.ini", "tests", "benchmarks", "constraints.txt")
    )


def test_the_reference_alone_generates_text(alone: Path, outside: Path) -> None:
    code = (
        "from gpt2ref import generate; "
        "print(generate('Once upon a time', max_new_tokens=8, seed=0))"
    )
    assert run(alone / "python", "-c", code, cwd=outside).stdout.startswith("Once upon a time")
    command = (
        "python",
        "-m",
        "gpt2ref",
        "Once upon a time",
        "--max-new-tokens",
        "8",
        "--dtype",
        "float32",
    )
    compiled = ["--compile"] if shutil.which("cc") else []
    assert run(alone / command[0], *command[1:], *compiled, cwd=outside).stdout.startswith(
        "Once upon a time"
    )


@pytest.mark.parametrize("extra", ["conformance", "benchmark"])
def test_the_programs_name_the_missing_extra(extra: str, alone: Path, outside: Path) -> None:
    done = run(alone / f"gpt2-{extra}", "my_gpt2.py", cwd=outside, status=4)
    assert done.stderr.endswith(f"pip install 'gpt2ref[{extra}]'\n")
    assert "Traceback" not in done.stderr


def test_one_command_judges_implementations(
    with_suite: Path, outside: Path, tmp_path: Path
) -> None:
    command = (with_suite / "gpt2-conformance", "wrong.py", "my_gpt2.py", "-k", "curve or epsilon")
    done = run(*command, cwd=outside, status=1)
    assert "warning" not in done.stdout
    assert "wrong.py: NOT a right GPT-2." in done.stdout
    assert "my_gpt2.py: no deviation from GPT-2 found." in done.stdout
    (again,) = re.findall(r"^ *again: pytest (.*)$", done.stdout, re.M)
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")  # beside no pytest.ini
    second = run(with_suite / "python", "-m", "pytest", *shlex.split(again), cwd=tmp_path, status=1)
    assert "1 failed" in second.stdout


def test_other_runs_of_pytest_are_not_affected(with_suite: Path, tmp_path: Path) -> None:
    """Another project may have options of the same names."""
    options = "def pytest_addoption(parser):\n    parser.addoption('--device')\n"
    (tmp_path / "conftest.py").write_text(options, encoding="utf-8")
    test = "def test_it(request):\n    assert request.config.option.device == 'x'\n"
    (tmp_path / "test_it.py").write_text(test, encoding="utf-8")
    run(with_suite / "python", "-m", "pytest", "--device", "x", cwd=tmp_path)


def test_the_other_programs_show_the_installed_name(with_suite: Path, outside: Path) -> None:
    usage = run(
        with_suite / "python", "-m", "gpt2ref_conformance.pages", "--help", cwd=outside
    ).stdout
    assert usage.startswith("usage: python -m gpt2ref_conformance.pages ")
    earlier = run(with_suite / "python", "-m", "gpt2ref_conformance.page", "--help", cwd=outside)
    assert earlier.stdout == usage
    helped = " ".join(run(with_suite / "gpt2-conformance", "--help", cwd=outside).stdout.split())
    assert "python -m gpt2ref_conformance.pages makes a page of it" in helped
    one = ("gpt2ref_conformance.defects:gelu-erf", "-k", "curve", "-n", "0")
    assert (
        "reads gelu-erf" in run(with_suite / "gpt2-conformance", *one, cwd=outside, status=1).stdout
    )


def test_one_command_measures_a_file_with_a_gpt2(with_suite: Path, tmp_path: Path) -> None:
    """In a folder without any other file. The tests above ran without this extra."""
    add_requirements(with_suite.parent, "benchmark")
    (tmp_path / "model.py").write_text(NANO, encoding="utf-8")
    (command,) = re.findall(
        r"^gpt2-benchmark (.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M
    )
    assert command == "model.py --json out.json --html report.html"
    small = ("--size", "tiny", "--new-tokens", "16", "--rounds", "1")
    setting = ("--temperature", "1", "--top-k", "none")
    done = run(with_suite / "gpt2-benchmark", *command.split(), *small, *setting, cwd=tmp_path)
    assert "recognised  GPT of model.py: built with GPTConfig(" in done.stdout
    assert "NO" not in done.stdout.split()
    rows = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["benchmarks"]
    measured = {row["extra_info"]["implementation"]: row["extra_info"] for row in rows}
    assert list(measured) == ["model.py", "gpt2ref", "huggingface"]
    assert all(row["valid"] for row in measured.values())
    assert [row["measured_by"] for row in measured.values()] == ["lengths", "steps", "steps"]
    assert measured["model.py"]["commit"] is None
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "model.py: the loop is its own generate()" in page
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "model.py",
        "out.json",
        "report.html",
    ]
