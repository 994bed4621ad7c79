"""CONTRIBUTING.md is true: its commands, files and commits exist, and its recipes are short."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import gpt2ref
from benchmarks.implementations import missing_package
from tests.shared.judging import judge

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = {
    part.split("\n")[0]: part
    for part in re.split(r"^###? ", TEXT, flags=re.M)
    if "\nExample: " in part
}
EXAMPLE = re.compile(r'^Example: `([0-9a-f]{7,40})`, "(.+)"$', re.S | re.M)
BLOCKS = re.findall(r"^ *```bash\n(.*?)^ *```$", TEXT, re.S | re.M)
COMMANDS = [
    command
    for block in BLOCKS
    for line in block.splitlines()
    for command in line.strip().split(" && ")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES_BELOW = 30  # of a recipe, and of what the commit of its example adds
SUITE = re.findall(r"^\| `conformance/(\w+)(?:/|\.py)` \|", TEXT, re.M)  # the parts in the table


def git(*arguments: str) -> str:
    """Return the output of git. Skip the test if there is no history, as in an sdist."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git, or no repository: no history to find a commit in")
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    shallow = subprocess.run(
        [*command, "rev-parse", "--is-shallow-repository"],
        capture_output=True,
        text=True,
        check=True,
    )
    if shallow.stdout.strip() == "true":
        pytest.skip("a shallow clone: no history to find a commit in")
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout


def test_there_is_a_recipe_for_each_kind_of_contribution() -> None:
    assert list(RECIPES) == ["A defect", "A requirement", "A probe", "An adapter"]


def is_earlier_name(path: Path) -> bool:
    """Return whether a module only runs another one, under an earlier name of its command."""
    return (
        re.match(r'"""Run `.*` under (?:the|its) earlier name', path.read_text("utf-8")) is not None
    )


def test_the_map_lists_every_part_of_the_suite() -> None:
    entry_points = {"__init__", "__main__", "conftest", "plugin"}
    folders = {path.parent.name for path in (ROOT / "conformance").glob("*/__init__.py")}
    files = [path for path in (ROOT / "conformance").glob("*.py") if not is_earlier_name(path)]
    modules = {path.stem for path in files if not path.stem.startswith("test_")} - entry_points
    assert sorted(SUITE) == sorted(folders | modules)


@pytest.mark.parametrize("part", SUITE)
def test_a_part_of_the_suite_imports_only_parts_above_it_in_the_map(part: str) -> None:
    path = ROOT / "conformance" / part
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    parent = r"\.\." if path.is_dir() else r"\."
    imports = re.compile(rf"^ *from {parent}(?:(\w+)[\w.]* import| import (\w+))", re.M)
    for file in (path for path in files if not is_earlier_name(path)):
        found = {a or b for a, b in imports.findall(file.read_text(encoding="utf-8"))}
        assert found <= {*SUITE[: SUITE.index(part)], "conftest"} - {part}, file


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_short(recipe: str) -> None:
    assert len(RECIPES[recipe].strip().splitlines()) < LINES_BELOW


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_example_of_a_recipe_is_a_short_commit_in_the_history(recipe: str) -> None:
    ((commit, subject),) = EXAMPLE.findall(RECIPES[recipe])
    assert git("log", "-1", "--format=%s", commit).strip() == " ".join(subject.split())
    git("merge-base", "--is-ancestor", commit, "HEAD")
    numbers = [
        line.split("\t") for line in git("show", "--numstat", "--format=", commit).splitlines()
    ]
    added = sum(int(added) for added, _, path in numbers if path != "docs/kill-matrix.json")
    assert 0 < added < LINES_BELOW


@pytest.mark.parametrize(
    "name", sorted({*re.findall(r"`([\w./-]+(?:/|\.(?:py|md|json|yaml|cff|toml)))`", TEXT)})
)
def test_a_named_file_exists(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_exists(command: str) -> None:
    program, *arguments = command.removeprefix(".venv/bin/").split()
    if program in ("python", "python3") and arguments[0] == "-m":
        assert arguments[1] in ("venv", "build") or importlib.util.find_spec(arguments[1])
    elif program in ("python", "python3"):
        assert (ROOT / arguments[0]).is_file()
    elif program == "pip":
        extras = {extra for each in arguments for extra in re.findall(r"\.\[(\w+)\]", each)}
        assert extras <= set(PROJECT["optional-dependencies"])
        assert all(
            (ROOT / after).is_file()
            for flag, after in itertools.pairwise(arguments)
            if flag == "-c"
        )
    elif program == "pytest":
        paths = [each for each in arguments if each.endswith(("/", ".py"))]
        assert all((ROOT / each).exists() for each in paths)
    else:
        assert program in {
            Requirement(each).name for each in PROJECT["optional-dependencies"]["dev"]
        }


def test_the_options_of_the_suite_exist() -> None:
    help_text = judge("conformance", "--help").stdout
    used = {
        each
        for line in COMMANDS
        if line.startswith("pytest")
        for each in line.split()
        if each.startswith("--")
    }
    assert used >= {"--defects", "--implementation", "--defects-report"}
    assert all(re.search(rf"^  {option}\b", help_text, re.M) for option in used)


@pytest.mark.parametrize(
    "name", sorted({line.split()[-1] for line in COMMANDS if "--implementation" in line})
)
def test_the_adapters_in_commands_exist(name: str) -> None:
    module = (
        name.replace("NAME", "gpt2ref")
        if name.startswith("conformance.adapters")
        else name.partition(":")[0]
    )
    assert module in ("gpt2ref", "huggingface") or importlib.util.find_spec(module)


def test_the_version_is_the_same_everywhere() -> None:
    newest = re.search(
        r"^## \[(.+?)\] - (Unreleased|\d{4}-\d\d-\d\d)$",
        (ROOT / "CHANGELOG.md").read_text("utf-8"),
        re.M,
    )
    assert newest
    assert newest[1] == gpt2ref.__version__
    assert (
        yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == gpt2ref.__version__
    )


def test_the_citation_has_the_fields_that_cff_requires() -> None:
    """`cffconvert --validate` checks more of CFF 1.2.0."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert all(set(author) <= {"name", "website"} for author in citation["authors"])
    assert citation["license"] == PROJECT["license"]


@pytest.mark.parametrize("peer", ["onnxruntime", "openvino"])
def test_the_extra_of_a_peer_brings_its_packages(
    peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.implementations.find_spec", lambda _name: None)
    extra = {Requirement(each).name for each in PROJECT["optional-dependencies"][peer]}
    assert extra == {"gpt2ref", *str(missing_package(peer)).split()}


def test_the_hooks_run_the_tools_of_the_dev_extra() -> None:
    """The hooks and CI then use the same ruff and mypy, and no hook comes from a code host."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert {repository["repo"] for repository in hooks} == {"local"}
    installed = {Requirement(each).name for each in PROJECT["optional-dependencies"]["dev"]}
    system = {
        hook["entry"].split()[0] for hook in hooks[0]["hooks"] if hook["language"] == "system"
    }
    assert system == {"ruff", "mypy"} <= installed
