"""The command line, and the fixtures: the plan, the weights of the size at hand, and the rows for the summary."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import pytest

from conformance.checkpoints import trained_like

from .environment import environment
from .implementations import IMPLEMENTATIONS, Loaded
from .plan import DTYPES, SEED, SIZES, Plan
from .summary import Row, summary

PLAN = pytest.StashKey[Plan]()
ROWS = pytest.StashKey[list[Row]]()

# Name -> what argparse is told. The prefix keeps them apart from the conformance suite's --device and the like.
# Values are checked by Plan.from_options, whose defaults depend on the device.
OPTIONS: dict[str, dict[str, Any]] = {
    "size": {"action": "append", "help": f"{', '.join(SIZES)}; may be given several times (default: gpt2)"},
    "implementation": {"action": "append", "help": f"{', '.join(IMPLEMENTATIONS)}; may be given several times (default: all)"},
    "device": {"help": "cpu, cuda or cuda:N (default: CUDA if there is one)"},
    "dtype": {"help": f"{', '.join(DTYPES)} (default: float32)"},
    "batch": {"help": "rows generated at once (default: 1)"},
    "prompt-length": {"help": "tokens of the prompt (default: 32)"},
    "new-tokens": {"help": "tokens generated in each row, at least 2 (default: 128 on CUDA, 32 on the CPU)"},
    "rounds": {"help": "timed generations of each row (default: 10 on CUDA, 3 on the CPU)"},
    "full-grid": {
        "action": argparse.BooleanOptionalAction,
        "help": "all 20 cells of temperature x top-k instead of 4 (default: on CUDA)",
    },
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks", "speed of GPT-2's generation loop")
    for name, arguments in OPTIONS.items():
        group.addoption(f"--bench-{name}", **arguments)


def pytest_configure(config: pytest.Config) -> None:
    # Without values if this file was found only after the command line had been read, as in `pytest .`
    names = [name.replace("-", "_") for name in OPTIONS]
    try:
        config.stash[PLAN] = Plan.from_options({name: config.getoption(f"bench_{name}", None) for name in names})
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[ROWS] = []
    if not config.option.benchmark_columns:  # pytest-benchmark's table in a terminal's width; the JSON has everything
        config.option.benchmark_columns = ["min", "median", "max", "rounds"]


def pytest_report_header(config: pytest.Config) -> str:
    return f"benchmarks: {config.stash[PLAN]}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Size by size, as each is loaded once; cell by cell, so that peers run one after the other on the same machine."""
    plan = metafunc.config.stash[PLAN]
    if "loaded" in metafunc.fixturenames:
        metafunc.parametrize("loaded", plan.sizes, indirect=True, scope="session")
    if {"cell", "implementation"} <= set(metafunc.fixturenames):
        rows = [(cell, implementation) for cell in plan.cells for implementation in plan.implementations]
        metafunc.parametrize(("cell", "implementation"), rows, ids=[f"{cell}-{name}" for cell, name in rows])


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's table
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if rows := config.stash[ROWS]:
        terminalreporter.section("generation")
        for line in summary(rows):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def plan(request: pytest.FixtureRequest) -> Plan:
    return request.config.stash[PLAN]


@pytest.fixture(scope="session")
def conditions(plan: Plan) -> dict[str, Any]:
    return environment(plan.device)


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> list[Row]:
    return request.config.stash[ROWS]


@pytest.fixture(scope="session")
def loaded(request: pytest.FixtureRequest, plan: Plan) -> Iterator[Loaded]:
    """One size at a time: pytest tears it down before it asks for the next."""
    config = SIZES[request.param]
    tensors = {key: tensor.to(plan.device, plan.dtype) for key, tensor in trained_like(config, SEED).items()}
    loaded = Loaded(request.param, config, tensors)
    del tensors
    yield loaded
    loaded.free()
