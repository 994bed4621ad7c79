"""The command line of the benchmarks, and the run that the tests take their results from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from .bars import bars
from .environment import environment
from .options import OPTIONS, read_plan
from .plan import Plan
from .progress import TerminalProgress
from .run import Run
from .summary import summary

PLAN = pytest.StashKey[Plan]()
RESULTS = pytest.StashKey[list[dict[str, Any]]]()
NOT_MEASURED = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks", "speed of GPT-2's generation loop")
    for name, arguments in OPTIONS.items():
        group.addoption(f"--bench-{name}", **arguments)


def pytest_configure(config: pytest.Config) -> None:
    # `pytest .` finds this file after it has read the command line: no option has a value then.
    names = [name.replace("-", "_") for name in OPTIONS]
    options = {name: config.getoption(f"bench_{name}", None) for name in names}
    try:
        config.stash[PLAN] = read_plan(options)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if config.option.benchmark_cprofile:
        raise pytest.UsageError(
            "--benchmark-cprofile: the tests report recorded times, so there is nothing to profile"
        )
    if not config.option.benchmark_columns:
        # pytest-benchmark's table then fits into a terminal. The JSON has all columns.
        config.option.benchmark_columns = ["min", "median", "max", "rounds"]


def pytest_report_header(config: pytest.Config) -> str:
    return f"benchmarks: {config.stash[PLAN]}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"cell", "implementation"} <= set(metafunc.fixturenames):
        plan = metafunc.config.stash[PLAN]
        pairs = [(cell, name) for cell in plan.cells for name in plan.implementations]
        ids = [f"{cell}-{name}" for cell, name in pairs]
        metafunc.parametrize(("cell", "implementation"), pairs, ids=ids)


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's table
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    results = config.stash.get(RESULTS, [])
    lines: list[str] = summary(results) if results else []
    not_measured: list[str] = config.stash.get(NOT_MEASURED, [])
    lines += not_measured
    lines += bars(results, sys.stdout.encoding) if results else []
    if lines:
        terminalreporter.section("generation")
    for line in lines:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    config = request.config
    plan = config.stash[PLAN]
    calls = len(plan.cells) * len(plan.implementations) * (1 + plan.rounds)
    progress = TerminalProgress(calls, lambda: _uncaptured(config))

    def print_now(line: str) -> None:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            progress.clear()
            with _uncaptured(config):
                reporter.ensure_newline()
                reporter.write_line(line)

    run = Run(plan, environment(plan.device), print_now, progress)
    yield run
    run.finish()  # before the session ends, when pytest-benchmark writes its JSON
    config.stash[RESULTS] = run.results
    config.stash[NOT_MEASURED] = run.not_measured


def _uncaptured(config: pytest.Config) -> AbstractContextManager[object]:
    """Let output reach the terminal at once, although pytest captures a test's."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    return capture.global_and_fixture_disabled() if capture else nullcontext()
