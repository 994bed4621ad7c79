"""The options, and the fixtures that give a test an implementation and a checkpoint."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

from gpt2ref import PUBLISHED_CONFIGS, GPT2Config
from gpt2ref.devices import check_device

from . import options
from .adapters.adapter import ADAPTERS, Adapter, check_apart
from .adapters.modules import place_and_name
from .adapters.recognised.files import write_adapter, write_empty
from .checkpoints.tensors import DICE, SMALL, Tensors, trained_like, write_checkpoint
from .chosen import CHOSEN, LARGE, QUICK
from .judging.memory import keep_freed_memory
from .options import DTYPES
from .probes.designs import PROBE
from .requirements import REQUIREMENTS
from .verdict.plugin import READING, VerdictPlugin

# Derandomised, so that every run has the same inputs and the same verdict. Without a deadline,
# since a shared machine may be slow.
LAWS = "conformance laws"
settings.register_profile(
    LAWS,
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

Reading = Callable[[str, Any, Any], None]  # quantity, what was read, what GPT-2 has
WriteCheckpoint = Callable[..., Path]  # name, config, maker of the tensors, more config fields


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "conformance of GPT-2 implementations")
    options.add(group.addoption)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    option = config.option
    processes = getattr(option, "numprocesses", 0)  # None: pytest-xdist is there, and not asked for
    if option.defects == "all" and processes is None and not hasattr(config, "workerinput"):
        option.numprocesses, option.dist = os.cpu_count(), "loadgroup"
    elif processes and option.dist == "no":
        option.dist = "loadfile"  # the tests of a file share what takes long to make
    if processes and option.maxworkerrestart is None:
        option.maxworkerrestart = "0"  # pytest-xdist hangs after it has replaced a process
    if option.write_adapter or option.new_adapter:
        return _write_adapters(option)
    if not option.list_requirements:
        return None
    for each in REQUIREMENTS.values():
        print(f"{each.id:32} {each.sentence}")
        print(f"{'':32} {each.source}; profile {each.profile}; since {each.since}")
    return 0


def _write_adapters(option: Any) -> int:
    """Write the adapters that the options name. Returns pytest's exit status."""
    chosen = option.implementation or []
    try:
        if option.new_adapter:
            print(write_empty(option.new_adapter))
        if option.write_adapter:
            if len(chosen) != 1:
                raise ValueError(f"goes with one --implementation, and here are {len(chosen)}")
            print(write_adapter(*place_and_name(chosen[0]), option.write_adapter))
    except (OSError, ValueError) as error:
        name = "--write-adapter" if option.write_adapter else "--new-adapter"
        print(f"ERROR: {name}: {error}", file=sys.stderr)
        return pytest.ExitCode.USAGE_ERROR
    return pytest.ExitCode.OK


def pytest_configure(config: pytest.Config) -> None:
    for marker in options.MARKERS:
        config.addinivalue_line("markers", marker)
    try:
        check_device(config.option.device)
    except ValueError as error:
        raise pytest.UsageError(f"--{error}") from None
    if workers := getattr(config, "workerinput", {}).get("workercount"):
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    dtype = DTYPES[config.option.dtype or "float32"]
    given = config.stash.get(ADAPTERS, [])
    names = list(dict.fromkeys(config.option.implementation or ["gpt2ref"]))
    plugin = VerdictPlugin
    if config.option.defects:
        from .kill_matrix.run import KillMatrixPlugin, adapters

        # Many defects break a law, and nobody reads the smallest example of each.
        settings.register_profile(
            LAWS,
            settings.get_profile(LAWS),
            max_examples=4,
            phases=[Phase.explicit, Phase.generate],
        )
        names, plugin = adapters(config.option.defects), KillMatrixPlugin
    if not given:  # judge() is called in a process of the user's
        keep_freed_memory()
    chosen = given or [Adapter(name, config.option.device, dtype) for name in names]
    check_apart(chosen)
    # A loader that knows the published shapes alone is judged in one of them.
    if config.option.probe_shape == "small" and not any(each.any_shape for each in chosen):
        config.option.probe_shape = "gpt2"
    config.stash[ADAPTERS] = chosen
    config.pluginmanager.register(plugin(config, chosen), "conformance-verdict")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "adapter" in metafunc.fixturenames:
        adapters = metafunc.config.stash[ADAPTERS]
        metafunc.parametrize("adapter", adapters, ids=str, indirect=True, scope="session")
    if "each_dtype" in metafunc.fixturenames:
        chosen = metafunc.config.option.dtype
        marks = {name: pytest.mark.requirement(f"parity.{name}") for name in DTYPES}
        metafunc.parametrize(
            "each_dtype",
            [pytest.param(name, marks=marks[name]) for name in DTYPES if chosen in (None, name)],
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        if here not in item.path.parents:
            kept.append(item)
            continue
        # A warning of the library that is judged is not an error.
        item.add_marker(pytest.mark.filterwarnings("default"))
        marks = list(item.iter_markers("requirement"))
        if len(marks) != 1 or marks[0].args[0] not in REQUIREMENTS:
            raise pytest.UsageError(
                f"{item.nodeid}: expected one @requirement of requirements.py, found {marks}"
            )
        slow = item.get_closest_marker("slow") and "slow" not in (config.option.markexpr or "")
        asked = _asked(config, marks[0].args[0], item)
        (kept if asked and not slow else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def _asked(config: pytest.Config, requirement: str, item: Any) -> bool:
    """Return whether a test of a requirement belongs to what this run asks."""
    if requirement == "parity.given-checkpoint" and not config.option.checkpoint:
        return False
    if config.option.quick and (requirement not in QUICK or LARGE & set(item.fixturenames)):
        return False
    return requirement in config.stash.get(CHOSEN, REQUIREMENTS)


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compute small models in one thread.

    They gain nothing from a second one, and waiting for it on a busy machine takes five times as
    long.
    """
    before = torch.get_num_threads()
    if not LARGE & set(request.fixturenames) and not request.node.get_closest_marker("slow"):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def adapter(request: pytest.FixtureRequest, probe_shape: GPT2Config) -> Adapter:
    """The adapter that is judged, after it was tried out."""
    chosen: Adapter = request.param
    chosen.try_out(DICE if probe_shape == PROBE else probe_shape)
    return chosen


@pytest.fixture
def reading(request: pytest.FixtureRequest) -> Reading:
    """Records a quantity that was read from the logits, and GPT-2's.

    Both are a number, a word, or the points of a curve.
    """

    def record_reading(quantity: str, read: Any, expected: Any) -> None:
        value = {"quantity": quantity, "read": read, "expected": expected}
        request.node.user_properties.append((READING, value))

    return record_reading


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> WriteCheckpoint:
    """Writes a checkpoint under a name, once in a session."""
    root = tmp_path_factory.mktemp("checkpoints")

    def write_once(
        name: str,
        config: GPT2Config,
        make: Callable[[], Tensors],
        fields: Mapping[str, Any] | None = None,
    ) -> Path:
        folder = root / name
        return folder if folder.exists() else write_checkpoint(folder, config, make(), fields)

    return write_once


@pytest.fixture(scope="session")
def small(write: WriteCheckpoint) -> Path:
    return write("small", SMALL, lambda: trained_like(SMALL, seed=0))


@pytest.fixture(scope="session")
def small_with_dropout(write: WriteCheckpoint) -> Path:
    """The small checkpoint, with the dropout of the published configs, which is for training."""
    dropout = {"embd_pdrop": 0.1, "attn_pdrop": 0.1, "resid_pdrop": 0.1}
    return write("small-with-dropout", SMALL, lambda: trained_like(SMALL, seed=0), dropout)


@pytest.fixture(scope="session")
def probe_shape(request: pytest.FixtureRequest) -> GPT2Config:
    chosen: str = request.config.option.probe_shape
    return PROBE if chosen == "small" else PUBLISHED_CONFIGS[chosen]


@pytest.fixture(scope="session")
def gpt2_124m(write: WriteCheckpoint) -> Path:
    """A checkpoint in the shape of the published 124M model: 548 MB."""
    config = PUBLISHED_CONFIGS["gpt2"]
    return write("gpt2-124m", config, lambda: trained_like(config, seed=0))


@pytest.fixture(scope="session")
def full_context(write: WriteCheckpoint, probe_shape: GPT2Config) -> Path:
    """A checkpoint with the context and the width of the published 124M model.

    Two layers show what a long context does as well as twelve. A program that has its sizes as
    constants gets the twelve.
    """
    published = PUBLISHED_CONFIGS["gpt2"]
    config = published if probe_shape == published else replace(published, n_layer=2)
    return write("full-context", config, lambda: trained_like(config, seed=0))
