"""Finds an adapter by its name on the command line, and tries it out before it is judged."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gpt2ref import GPT2Config

from ..checkpoints.tensors import DICE, write_sparse_checkpoint
from ..outcomes import NotApplicable
from .command import load_command
from .protocol import PRECISIONS, BrokenAdapterError, Implementation, Judged, not_applicable

BUILT_IN = ("gpt2ref", "huggingface")


class Adapter:
    """An adapter by its name on the command line, ready to load checkpoints."""

    def __init__(self, specification: str, device: str, dtype: torch.dtype) -> None:
        self.specification = specification
        self.device = device
        self.dtype = dtype
        # try_out replaces both by what the implementation declares.
        self.precision = dtype
        self.lacks: frozenset[str] = frozenset()  # a part of protocol.OPTIONAL
        self._load = find_load(specification)

    def load(
        self, checkpoint: Path | str, *, dtype: torch.dtype | None = None, device: str | None = None
    ) -> Judged:
        """Load a checkpoint. Raises NotApplicable if the adapter raises NotImplementedError."""
        device = device or self.device
        dtype = dtype or self.dtype
        with not_applicable():
            return Judged(self._load(str(checkpoint), device=device, dtype=dtype), device)

    def try_out(self, shape: GPT2Config = DICE) -> None:
        """Load a checkpoint of zeros and ask for the logits of three tokens.

        Raises BrokenAdapterError if that fails. So an adapter that never works is reported once,
        and not as a failure of every requirement. Raises NotApplicable if the adapter says that it
        can't.
        """
        with tempfile.TemporaryDirectory() as folder:
            try:
                judged = self.load(write_sparse_checkpoint(Path(folder), shape))
                judged.logits(torch.tensor([[1, 2, 3]]))
                self.lacks = judged.lacks
                if judged.precision is not None:
                    if judged.precision not in PRECISIONS:
                        allowed = ", ".join(PRECISIONS)
                        raise ValueError(
                            f"precision={judged.precision!r}: expected one of {allowed}"
                        )
                    self.precision = PRECISIONS[judged.precision]
            except NotApplicable as reason:
                tried = f"n_layer={shape.n_layer}, n_embd={shape.n_embd}"
                raise NotApplicable(
                    f"{reason} (the first checkpoint has {tried}; --probe-shape takes another)"
                ) from reason
            except Exception as error:
                raise BrokenAdapterError(
                    "the adapter can't load a blank checkpoint and give three tokens' logits: "
                    f"{type(error).__name__}: {error}"
                ) from error

    def __repr__(self) -> str:
        return self.specification


def find_load(specification: str) -> Callable[..., Implementation]:
    """Find the `load` function of an adapter.

    `specification` is one of
    - `gpt2ref` or `huggingface`;
    - `path/to/file.py` or `package.module`, with `:function` if the function isn't `load`;
    - `command: program --option`, a program that speaks the JSON lines of docs/adapters.md.

    Raises pytest.UsageError, naming the specification, if there is no such function or program.
    """
    if specification.startswith("command:"):
        try:
            return load_command(specification.removeprefix("command:"))
        except (OSError, ValueError) as error:
            raise pytest.UsageError(f"--implementation {specification}: {error}") from error
    place, _, name = (
        specification.rpartition(":") if ":" in specification else (specification, "", "load")
    )
    try:
        module = _module(place)
    except (ImportError, OSError) as error:
        raise pytest.UsageError(
            f"--implementation {specification}: {error}; "
            f"expected {', '.join(BUILT_IN)}, a Python file or a module"
        ) from error
    load = getattr(module, name, None)
    if not callable(load):
        raise pytest.UsageError(
            f"--implementation {specification}: {module.__name__} has no function {name}()"
        )
    return load


def _module(place: str) -> ModuleType:
    """Import a built-in adapter, a Python file or a module."""
    if place in BUILT_IN:
        return importlib.import_module(f".{place}", __package__)
    if not place.endswith(".py"):
        return importlib.import_module(place)
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    assert spec, place  # a name that ends in .py always gives one
    assert spec.loader, place
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
