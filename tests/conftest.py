"""Fixtures: models so small that a test takes milliseconds, with weights that show mistakes."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from transformers import GPT2LMHeadModel

from conformance import options
from conformance.checkpoints.tensors import Tensors, blank, trained_like, write_checkpoint
from conformance.judging.memory import keep_freed_memory
from gpt2ref import GPT2, GPT2Config, load_checkpoint
from tests.shared.smallest import CONFIG, TENSORS

# There is no deadline, since machines are shared. Examples are the same in every run, so that a
# failure can be repeated.
settings.register_profile("tests", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """Register the suite's markers, for a run that does not collect the suite itself."""
    for marker in options.MARKERS:
        config.addinivalue_line("markers", marker)
    keep_freed_memory()
    config.option.loadscopereorder = False  # pytest-xdist would begin with files of many tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders of short files last, so that all processes are busy to the end."""
    items.sort(key=lambda item: item.path.parent.name in ("benchmarks", "gpt2ref"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: small matrices gain nothing from a second one, and may wait long for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def forget_folders() -> Iterator[None]:
    """Forget the folders of adapters, in which `import ctranslate2` finds the suite's adapter."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(autouse=True)
def forget_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget the modules that a test writes and imports: another test's may have their names."""
    known, folder = set(sys.modules), str(tmp_path_factory.getbasetemp())
    yield
    for name in sys.modules.keys() - known:
        if str(vars(sys.modules[name]).get("__file__")).startswith(folder):
            del sys.modules[name]


@pytest.fixture(scope="session")
def config() -> GPT2Config:
    return GPT2Config(n_positions=19, n_embd=24, n_layer=2, n_head=3)


@pytest.fixture(scope="session")
def tensors(config: GPT2Config) -> Tensors:
    return trained_like(config, seed=1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, config: GPT2Config, tensors: Tensors) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint", config, tensors)


@pytest.fixture(scope="session")
def model(folder: Path) -> GPT2:
    """Load a model with GPT-2's vocabulary, which reads and writes text, in float32."""
    return load_checkpoint(folder)


@pytest.fixture(scope="session")
def hugging_face(folder: Path) -> GPT2LMHeadModel:
    """Load the same weights with transformers."""
    return GPT2LMHeadModel.from_pretrained(folder).eval()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = GPT2Config(vocab_size=97, n_positions=13, n_embd=24, n_layer=2, n_head=3)
    return write_checkpoint(
        tmp_path_factory.mktemp("tiny") / "checkpoint", config, trained_like(config, seed=2)
    )


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> GPT2:
    """Load a model of 97 tokens and 13 positions.

    In float64 the order of a sum can't change which token is drawn.
    """
    return load_checkpoint(tiny_folder, dtype=torch.float64)


@pytest.fixture
def reads_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a torch before 2.6 read a .bin file that the tests wrote, as later versions do."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        monkeypatch.setattr(torch, "__version__", "2.6.0")


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[[Sequence[int]], Path]:
    """Write a checkpoint that answers any text of n tokens with the n-th of the given ids."""

    def write(script: Sequence[int]) -> Path:
        said = sorted(set(script))
        config = GPT2Config(n_positions=len(script), n_embd=2 * len(said), n_layer=1, n_head=1)
        tensors = blank(config)
        for i, token_id in enumerate(said):
            tensors["wte.weight"][token_id, 2 * i : 2 * i + 2] = torch.tensor([1.0, -1.0])
        # Eight times the embedding: the position outweighs the token that stands there.
        tensors["wpe.weight"] = 8 * tensors["wte.weight"][list(script)]
        tensors["ln_f.weight"] *= 8
        return write_checkpoint(tmp_path / "scripted", config, tensors)

    return write


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", CONFIG, TENSORS)
