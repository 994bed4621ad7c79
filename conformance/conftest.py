"""Command-line options, and the fixtures that hand each test an implementation and a checkpoint."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

from gpt2ref import PUBLISHED_CONFIGS, GPT2Config

from . import options
from .adapters.adapter import Adapter
from .checkpoints.tensors import DICE, SMALL, Tensors, trained_like, write_checkpoint
from .options import DTYPES
from .probes.designs import PROBE
from .requirements import REQUIREMENTS
from .verdict.plugin import READING, VerdictPlugin

# Derandomised: the same inputs in every run, so that a verdict can be repeated. No deadline on shared machines.
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

_ADAPTERS: pytest.StashKey[list[Adapter]] = pytest.StashKey()
Reading = Callable[[str, Any, Any], None]
WriteCheckpoint = Callable[
    ..., Path
]  # name, config, what makes the tensors, and more fields of the config if need be


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "conformance of GPT-2 implementations")
    options.add(group.addoption)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    option = config.option
    if (
        option.defects == "all"
        and getattr(option, "numprocesses", 0) is None
        and not hasattr(config, "workerinput")
    ):
        option.numprocesses, option.dist = (
            os.cpu_count(),
            "loadgroup",
        )  # with pytest-xdist, all there is to a machine
    if not config.option.list_requirements:
        return None
    for requirement in REQUIREMENTS.values():
        print(f"{requirement.id:32} {requirement.sentence}")
        print(
            f"{'':32} {requirement.source}; profile {requirement.profile}; since {requirement.since}"
        )
    return 0


def pytest_configure(config: pytest.Config) -> None:
    for marker in options.MARKERS:
        config.addinivalue_line("markers", marker)
    try:
        device = torch.device(config.option.device)
        torch.empty(0, device=device)
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # a build without CUDA answers with an AssertionError
        raise pytest.UsageError(f"--device {config.option.device}: {error}") from None
    dtype = DTYPES[config.option.dtype or "float32"]
    names = list(dict.fromkeys(config.option.implementation or ["gpt2ref"]))
    plugin = VerdictPlugin
    if config.option.defects:
        from .kill_matrix.run import KillMatrixPlugin, adapters

        # Each law by a hundred defects, of which nobody reads the smallest example.
        settings.register_profile(
            LAWS,
            settings.get_profile(LAWS),
            max_examples=4,
            phases=[Phase.explicit, Phase.generate],
        )
        names, plugin = adapters(config.option.defects), KillMatrixPlugin
    chosen = [Adapter(name, config.option.device, dtype) for name in names]
    config.stash[_ADAPTERS] = chosen
    config.pluginmanager.register(plugin(config, chosen), "conformance-verdict")


def pytest_report_header(config: pytest.Config) -> str:
    import transformers

    adapters = config.stash[_ADAPTERS]
    judged = (
        f"{len(adapters)} wrong GPT-2s" if config.option.defects else ", ".join(map(str, adapters))
    )
    return (
        f"conformance: {judged} in {config.option.dtype or 'float32'} on "
        f"{config.option.device}; python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, {torch.get_num_threads()} threads"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "adapter" in metafunc.fixturenames:
        adapters = metafunc.config.stash[_ADAPTERS]
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
        item.add_marker(
            pytest.mark.filterwarnings("default")
        )  # a warning of the library that is judged is no error
        marks = list(item.iter_markers("requirement"))
        if len(marks) != 1 or marks[0].args[0] not in REQUIREMENTS:
            raise pytest.UsageError(
                f"{item.nodeid}: expected one @requirement of requirements.py, found {marks}"
            )
        slow = item.get_closest_marker("slow") is not None and "slow" not in (
            config.option.markexpr or ""
        )
        unasked = marks[0].args[0] == "parity.given-checkpoint" and not config.option.checkpoint
        (dropped if slow or unasked else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small models gain nothing from a second thread, and on a busy machine waiting for it takes five times as long."""
    before = torch.get_num_threads()
    if "gpt2_124m" not in request.fixturenames and not request.node.get_closest_marker("slow"):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def adapter(request: pytest.FixtureRequest, probe_shape: GPT2Config) -> Adapter:
    """The adapter that is judged, once it has shown that it works at all."""
    chosen: Adapter = request.param
    chosen.try_out(DICE if probe_shape == PROBE else probe_shape)
    return chosen


@pytest.fixture
def reading(request: pytest.FixtureRequest) -> Reading:
    """Reports what was read out of the logits, and what GPT-2 has: a number, a word, or the points of a curve."""

    def record_reading(quantity: str, read: Any, expected: Any) -> None:
        value = {"quantity": quantity, "read": read, "expected": expected}
        request.node.user_properties.append((READING, value))

    return record_reading


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> WriteCheckpoint:
    """Writes a checkpoint under a name, once a session."""
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
def probe_shape(request: pytest.FixtureRequest) -> GPT2Config:
    chosen: str = request.config.option.probe_shape
    return PROBE if chosen == "small" else PUBLISHED_CONFIGS[chosen]


@pytest.fixture(scope="session")
def gpt2_124m(write: WriteCheckpoint) -> Path:
    """The shape of the published 124M model: 548 MB."""
    config = PUBLISHED_CONFIGS["gpt2"]
    return write("gpt2-124m", config, lambda: trained_like(config, seed=0))
