"""tox.ini lists the versions that work together; pyproject.toml, CI and the README agree."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from tests.shared.tox_environments import TOX, environments

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
SET_ENV = TOX["testenv"]["set_env"]
JOBS: dict[str, Any] = yaml.safe_load(WORKFLOW)["jobs"]
CHOSEN = re.compile(r"(torch|transformers)(\d[\d.]*)")


def floors() -> dict[str, Version]:
    """Return the lowest version of each package that gpt2ref and its tests require."""
    declared = [Requirement(line) for line in requires("gpt2ref") or []]
    needed = [
        each for each in declared if each.marker is None or each.marker.evaluate({"extra": "test"})
    ]
    extras = {extra for each in needed if each.name == "gpt2ref" for extra in each.extras}
    needed += [
        each
        for each in declared
        for extra in extras
        if each.marker and each.marker.evaluate({"extra": extra})
    ]
    return {
        each.name: Version(next(iter(each.specifier)).version) for each in needed if each.specifier
    }


def test_the_installed_versions_are_those_of_the_environment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = os.environ.get("TOX_ENV_NAME", "")
    with capsys.disabled():
        found = " ".join(
            f"{each} {version(each)}" for each in ("torch", "transformers", "numpy", "pytest")
        )
        print(f"\n{name}: python {platform.python_version()} {found}")
    for package, asked in CHOSEN.findall(name):
        assert Version(version(package)).public == asked
    if name == "lowest":
        for package, floor in floors().items():
            assert Version(version(package)).release[:2] == floor.release[:2], package


def test_an_environment_installs_what_its_name_says() -> None:
    pins = dict(re.findall(r"^(\S+): *(\S+==\S+)$", TOX["testenv"]["deps"], re.M))
    assert pins == {
        name + number: f"{name}=={number}"
        for name, number in CHOSEN.findall(" ".join(environments()))
    }


def test_known_deviations_apply_to_the_versions_in_their_file_names() -> None:
    lines = re.findall(
        r"^(.*): KNOWN\w* = --known-deviations (\S+/(torch|transformers)-before-([\d.]+)\.toml)$",
        SET_ENV,
        re.M,
    )
    assert {path for _, path, _, _ in lines} == {
        str(path.relative_to(ROOT)) for path in ROOT.glob("tests/known_deviations/*")
    }
    numbers = CHOSEN.findall(" ".join(environments()))
    for conditions, _, package, end in lines:
        before = {
            name + number
            for name, number in numbers
            if name == package and Version(number) < Version(end)
        }
        assert set(conditions.split(", ")) == before | {"lowest"}


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    for package in ("torch", "transformers"):
        lowest = min(
            Version(number)
            for name, number in CHOSEN.findall(" ".join(environments()))
            if name == package
        )
        assert lowest.release[:2] == floors()[package].release[:2]


def test_the_readme_names_the_versions_and_environments_of_the_matrix() -> None:
    for package in ("torch", "transformers"):
        numbers = sorted(
            Version(number)
            for name, number in CHOSEN.findall(" ".join(environments()))
            if name == package
        )
        ends = [".".join(map(str, number.release[:2])) for number in (numbers[0], numbers[-1])]
        assert f"{package} {ends[0]} to {ends[1]}" in README
    assert (named := re.findall(r"`tox -e (\S+)`", README))
    assert set(named) <= set(environments())


def test_ci_reads_its_environments_from_tox() -> None:
    assert JOBS["tox"]["strategy"]["matrix"] == {
        "environment": "${{ fromJSON(needs.list.outputs.environments) }}"
    }
    assert any(
        step.get("run", "").startswith("tox run -e ${{ matrix.environment }} ")
        for step in JOBS["tox"]["steps"]
    )
    assert not CHOSEN.search(WORKFLOW)


@pytest.mark.skipif(
    not (find_spec("tox") and find_spec("tox_uv")), reason="tox and tox-uv are not installed"
)
def test_ci_runs_every_environment_but_gpu(tmp_path: Path) -> None:
    (script,) = [step["run"] for step in JOBS["list"]["steps"] if step.get("id") == "list"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    output = tmp_path / "output"
    environment = os.environ | {
        "GITHUB_OUTPUT": str(output),
        "PATH": path,
        "TOX_WORK_DIR": str(tmp_path),
    }
    subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], cwd=ROOT, env=environment, timeout=60, check=True
    )
    name, _, value = output.read_text(encoding="utf-8").partition("=")
    assert name == "environments"
    assert json.loads(value) == [each for each in environments() if each != "gpu"]


def test_only_the_badge_job_of_ci_may_write() -> None:
    assert yaml.safe_load(WORKFLOW)["permissions"] == {"contents": "read"}
    assert {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job} == {
        "badge": {"contents": "write"}
    }
    assert (
        JOBS["badge"]["if"].count("github.event_name == 'push' && github.ref == 'refs/heads/main'")
        == 1
    )


def test_actions_are_pinned_to_a_major_version() -> None:
    used = [step["uses"] for job in JOBS.values() for step in job["steps"] if "uses" in step]
    assert len(used) > 4
    assert not [each for each in used if not re.fullmatch(r"actions/[a-z-]+@v\d+", each)]
