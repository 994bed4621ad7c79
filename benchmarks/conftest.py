"""The command line, and the run that the tests take their rows from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from .environment import environment
from .options import OPTIONS, read_plan
from .plan import Plan
from .run import Run
from .summary import summary

PLAN = pytest.StashKey[Plan]()
ROWS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks", "speed of GPT-2's generation loop")
    for name, arguments in OPTIONS.items():
        group.addoption(f"--bench-{name}", **arguments)


def pytest_configure(config: pytest.Config) -> None:
    # Without values if this file was found only after the command line had been read, as in `pytest .`
    names = [name.replace("-", "_") for name in OPTIONS]
    try:
        config.stash[PLAN] = read_plan(
            {name: config.getoption(f"bench_{name}", None) for name in names}
        )
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if config.option.benchmark_cprofile:
        raise pytest.UsageError(
            "--benchmark-cprofile: the tests replay recorded times, so there is nothing to profile in them"
        )
    if (
        not config.option.benchmark_columns
    ):  # pytest-benchmark's table in a terminal's width; the JSON has everything
        config.option.benchmark_columns = ["min", "median", "max", "rounds"]


def pytest_report_header(config: pytest.Config) -> str:
    return f"benchmarks: {config.stash[PLAN]}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"cell", "implementation"} <= set(metafunc.fixturenames):
        plan = metafunc.config.stash[PLAN]
        rows = [
            (cell, implementation) for cell in plan.cells for implementation in plan.implementations
        ]
        metafunc.parametrize(
            ("cell", "implementation"), rows, ids=[f"{cell}-{name}" for cell, name in rows]
        )


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's table
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if rows := config.stash.get(ROWS, []):
        terminalreporter.section("generation")
        for line in summary(rows):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    plan = request.config.stash[PLAN]
    run = Run(plan, environment(plan.device), lambda line: _tell(request.config, line))
    yield run
    run.finish()  # before pytest-benchmark writes its JSON, which is when the session has finished
    request.config.stash[ROWS] = run.rows


def _tell(config: pytest.Config, line: str) -> None:
    """A line on the terminal at once, although a test's output is being captured."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is not None:
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            reporter.ensure_newline()
            reporter.write_line(line)
