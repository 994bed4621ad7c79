"""How an adapter is found by its name on the command line, and tried out before it is judged."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt2ref import GPT2Config

from ..checkpoints.tensors import DICE, write_sparse_checkpoint
from .command import load_command
from .protocol import PRECISIONS, Implementation, Judged, ProtocolError, not_applicable

BUILT_IN = ("gpt2ref", "huggingface")
SMOKE = "the adapter can't load a blank checkpoint and give three tokens' logits"


class Adapter:
    """An adapter by its name on the command line, ready to load checkpoints."""

    def __init__(self, specification: str, device: str, dtype: torch.dtype) -> None:
        self.specification = specification
        self.device = device
        self.dtype = dtype
        self.precision = dtype  # or what the implementation declares, once it has been tried out
        self.lacks: frozenset[str] = frozenset()  # of OPTIONAL; known once it has been tried out
        self._load = find_load(specification)

    def load(
        self, checkpoint: Path | str, *, dtype: torch.dtype | None = None, device: str | None = None
    ) -> Judged:
        device = device or self.device
        with not_applicable():
            return Judged(
                self._load(str(checkpoint), device=device, dtype=dtype or self.dtype), device
            )

    def try_out(self, shape: GPT2Config = DICE) -> None:
        """Load a checkpoint of zeros and ask for three tokens' logits.

        Raises ProtocolError if that fails: what the adapter can't do at all is held against it, once, and not against
        the implementation in every requirement. What it says that it can't do makes every requirement not applicable.
        """
        with tempfile.TemporaryDirectory() as folder:
            try:
                judged = self.load(write_sparse_checkpoint(Path(folder), shape))
                judged.logits(torch.tensor([[1, 2, 3]]))
                self.lacks = judged.lacks
                if judged.precision is not None:
                    if judged.precision not in PRECISIONS:
                        raise ValueError(
                            f"precision={judged.precision!r}: expected one of {', '.join(PRECISIONS)}"
                        )
                    self.precision = PRECISIONS[judged.precision]
            except pytest.skip.Exception as reason:
                tried = f"the first checkpoint has n_layer={shape.n_layer}, n_embd={shape.n_embd}; --probe-shape takes another"
                pytest.skip(f"{reason} ({tried})")
            except Exception as error:
                raise ProtocolError(f"{SMOKE}: {type(error).__name__}: {error}") from error

    def __repr__(self) -> str:
        return self.specification


def find_load(specification: str) -> Callable[..., Implementation]:
    """`gpt2ref`, `huggingface`, `path/to/file.py` or `package.module`, the last two with `:function` if it isn't `load`;
    or `command: program --option`, a program that speaks the JSON lines of docs/adapters.md.

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
        if place in BUILT_IN:
            module = importlib.import_module(f".{place}", __package__)
        elif place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec, place  # a name ending in .py always gives one
            assert spec.loader, place
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except (ImportError, OSError) as error:
        raise pytest.UsageError(
            f"--implementation {specification}: {error}; expected {', '.join(BUILT_IN)}, a Python file or a module"
        ) from error
    load = getattr(module, name, None)
    if not callable(load):
        raise pytest.UsageError(
            f"--implementation {specification}: {module.__name__} has no function {name}()"
        )
    return load
