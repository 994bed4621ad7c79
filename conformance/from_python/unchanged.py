"""Puts back what a run in this process changes: it may be a notebook, or another test's process."""

from __future__ import annotations

import importlib
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch

# The suite's own packages, which a clone has beside an adapter.
_STAY = (__name__.partition(".")[0], "gpt2ref")
# What would change a run in a notebook or under another pytest. All else of the environment stays.
_UNSET = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_XDIST_WORKER")


@contextmanager
def unchanged(file: Path | None) -> Iterator[None]:
    """Put back the state of the process at the end. `file`: an adapter, imported for this alone."""
    restore = [*_of_python(), *_of_torch(), _of_modules(file)]
    try:
        with warnings.catch_warnings(), TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            for name in _UNSET:
                os.environ.pop(name, None)
            # Plugins of others are for the tests of others. Nothing stays of the checkpoints.
            os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
            os.environ["PYTEST_DEBUG_TEMPROOT"] = temporary
            sys.dont_write_bytecode = True
            warnings.simplefilter("ignore")  # those of a model are errors in some projects' tests
            logging.disable()  # pytest would keep what is logged, and nobody would read it
            yield
    finally:
        for each in restore:
            each()


def _of_python() -> Iterator[Callable[[], Any]]:
    environment, place = dict(os.environ), Path.cwd()
    yield lambda: _refill_environment(environment)
    yield lambda: os.chdir(place)
    for listing in (sys.path, sys.meta_path, logging.root.handlers):
        yield _of_list(listing)
    level, disabled = logging.root.level, logging.root.manager.disable
    yield lambda: logging.root.setLevel(level)
    yield lambda: logging.disable(disabled)
    state, writes = random.getstate(), sys.dont_write_bytecode
    yield lambda: random.setstate(state)
    yield lambda: setattr(sys, "dont_write_bytecode", writes)


def _of_list(listing: list[Any]) -> Callable[[], None]:
    before = list(listing)

    def restore() -> None:
        listing[:] = before

    return restore


def _refill_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _of_torch() -> Iterator[Callable[[], Any]]:
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    yield lambda: torch.set_num_threads(threads)
    yield lambda: torch.set_grad_enabled(gradients)
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    yield lambda: torch.set_rng_state(state)
    yield lambda: torch.set_default_dtype(dtype)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        devices = torch.cuda.get_rng_state_all()
        yield lambda: torch.cuda.set_rng_state_all(devices)
    if numpy := sys.modules.get("numpy"):
        drawn = numpy.random.get_state()
        yield lambda: numpy.random.set_state(drawn)


def _of_modules(file: Path | None) -> Callable[[], None]:
    """Import a file anew, as it may have changed since, and forget it and what lies beside it."""
    before = dict(sys.modules)
    if file:
        sys.modules.pop(file.stem, None)
        importlib.invalidate_caches()  # the file may be a second old

    def restore() -> None:
        for name in [*sys.modules]:
            if file and name not in before and _lies_in(sys.modules[name], file.parent):
                del sys.modules[name]
        changed = {name for name, module in before.items() if sys.modules.get(name) is not module}
        sys.modules.update({name: before[name] for name in changed})

    return restore


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or module.__name__.partition(".")[0] in _STAY:
        return False
    path = Path(file).resolve()
    return folder in path.parents and "site-packages" not in path.parts
