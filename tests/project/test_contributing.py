"""What CONTRIBUTING.md says can be done can be: its commands, files and commits are there, and its recipes are short."""

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
MAKES_UNDER = 30  # lines: of a recipe, and of what its example adds


def git(*arguments: str) -> str:
    """What git says, in a clone with its history; skips where there is none, as in an sdist or a shallow clone."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git, or no repository: there is no history to look a commit up in")
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    shallow = subprocess.run(
        [*command, "rev-parse", "--is-shallow-repository"],
        capture_output=True,
        text=True,
        check=True,
    )
    if shallow.stdout.strip() == "true":
        pytest.skip("a shallow clone: there is no history to look a commit up in")
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout


def test_there_is_a_recipe_for_each_kind_of_contribution() -> None:
    assert list(RECIPES) == ["A defect", "A requirement", "A probe", "An adapter"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_short(recipe: str) -> None:
    assert len(RECIPES[recipe].strip().splitlines()) < MAKES_UNDER


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_an_example_in_the_history_and_it_is_short_too(recipe: str) -> None:
    ((commit, subject),) = EXAMPLE.findall(RECIPES[recipe])
    assert git("log", "-1", "--format=%s", commit).strip() == " ".join(subject.split())
    git("merge-base", "--is-ancestor", commit, "HEAD")
    numbers = [
        line.split("\t") for line in git("show", "--numstat", "--format=", commit).splitlines()
    ]
    assert (
        0
        < sum(int(added) for added, _, path in numbers if path != "docs/kill-matrix.json")
        < MAKES_UNDER
    )


@pytest.mark.parametrize(
    "name", sorted({*re.findall(r"`([\w./-]+(?:/|\.(?:py|md|json|yaml|cff|toml)))`", TEXT)})
)
def test_a_file_that_is_named_is_there(name: str) -> None:
    assert (ROOT / name).exists() or name == "tests/test_X.py"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_there_is(command: str) -> None:
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


def test_the_options_of_the_suite_are_ones_that_it_has() -> None:
    command = [sys.executable, "-m", "pytest", "conformance", "--help", "-p", "no:cacheprovider"]
    help_text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
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
def test_the_places_of_adapters_are_ones_that_there_are(name: str) -> None:
    module = (
        name.replace("NAME", "gpt2ref")
        if name.startswith("conformance.adapters")
        else name.partition(":")[0]
    )
    assert module in ("gpt2ref", "huggingface") or importlib.util.find_spec(module)


def test_the_version_is_everywhere_the_same() -> None:
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


def test_the_citation_has_what_the_format_asks_for() -> None:
    """Of CFF 1.2.0: `cffconvert --validate` says more."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert all(set(author) <= {"name", "website"} for author in citation["authors"])
    assert citation["license"] == PROJECT["license"]


def test_the_hooks_are_local_and_of_what_the_dev_extra_installs() -> None:
    """So that ruff and mypy say before a commit what they say in CI, and nothing is fetched from a code host."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert {repository["repo"] for repository in hooks} == {"local"}
    installed = {Requirement(each).name for each in PROJECT["optional-dependencies"]["dev"]}
    system = {
        hook["entry"].split()[0] for hook in hooks[0]["hooks"] if hook["language"] == "system"
    }
    assert system == {"ruff", "mypy"} <= installed
