"""Finds an adapter by its name on the command line, and tries it out before it is judged."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gpt2ref import GPT2Config

from ..checkpoints.tensors import DICE, write_sparse_checkpoint
from ..outcomes import NotApplicable
from .command import load_command
from .forms import ProtocolError, check_arguments
from .modules import Imported, import_adapter, of_the_same_name, place_and_name
from .protocol import PRECISIONS, BrokenAdapterError, Implementation, Judged, not_applicable
from .recognised.recognise import NotRecognisedError, load_of, recognise
from .recognised.written import Found

BUILT_IN = ("gpt2ref", "huggingface")
TRIED = [1, 2, 3]  # the token ids of the first call


class Adapter:
    """An adapter by its name on the command line, ready to load checkpoints.

    A caller in Python may give the function itself: `load`. The name is then only shown.
    """

    def __init__(
        self,
        specification: str,
        device: str,
        dtype: torch.dtype,
        load: Callable[..., Implementation] | None = None,
    ) -> None:
        self.specification = specification
        self.has_name = load is None  # by which a command line can have it again
        self.device = device
        self.dtype = dtype
        # try_out replaces both by what the implementation declares.
        self.precision = dtype
        self.lacks: frozenset[str] = frozenset()  # a part of protocol.OPTIONAL
        self.broken: dict[str, ProtocolError] = {}  # methods that answer in a wrong form
        self.imported: Imported | None = None  # nothing for a command
        self.found: Found | None = None  # of a model that comes without an adapter
        self._load = load or self._find_load()

    @property
    def any_shape(self) -> bool:
        """Return whether it may be asked in any shape: none is known to be built in."""
        return self.found is None or self.found.any_shape

    def load(
        self, checkpoint: Path | str, *, dtype: torch.dtype | None = None, device: str | None = None
    ) -> Judged:
        """Load a checkpoint. Raises NotApplicable if the adapter raises NotImplementedError."""
        device = device or self.device
        dtype = dtype or self.dtype
        fields = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
        options = {"device": device, "dtype": dtype}
        check_arguments("load", self._load, str(checkpoint), **options)
        with not_applicable():
            implementation = self._load(str(checkpoint), **options)
        return Judged(
            implementation, device, vocab_size=fields.get("vocab_size"), broken=self.broken
        )

    def try_out(self, shape: GPT2Config = DICE) -> None:
        """Load a checkpoint of zeros, ask for the logits of three tokens, and generate one.

        Raises BrokenAdapterError if there are no logits. So an adapter that never works is reported
        once, and not as a failure of every requirement. A method that answers in a wrong form is
        kept in `broken`, and is an error of the adapter wherever it is called. Raises NotApplicable
        if the adapter says that it can't.
        """
        with tempfile.TemporaryDirectory() as folder:
            try:
                judged = self.load(write_sparse_checkpoint(Path(folder), shape))
                self._check_raw(judged.logits(torch.tensor([TRIED])))
                self.lacks = judged.lacks
                self._try_generate(judged)
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
                kind = "" if isinstance(error, ProtocolError) else f"{type(error).__name__}: "
                raise BrokenAdapterError(
                    "the adapter can't load a blank checkpoint and give three tokens' logits: "
                    f"{kind}{error}"
                ) from error

    def _find_load(self) -> Callable[..., Implementation]:
        """Find the `load` function of the adapter.

        The specification is one of
        - `gpt2ref` or `huggingface`;
        - `path/to/file.py` or `package.module`, with `:function` if the function isn't `load`;
        - such a file without `load` and with a GPT-2 in it that is recognised, or its `:Class`, or
          its `:Class.from_pretrained`;
        - `command: program --option`, a program that speaks the JSON lines of docs/adapters.md.

        Raises pytest.UsageError, naming the specification, if there is no such function or program.
        """
        specification = self.specification
        if specification.startswith("command:"):
            try:
                return load_command(specification.removeprefix("command:"))
            except (OSError, ValueError) as error:
                raise self._unusable(str(error)) from error
        place, name = place_and_name(specification)
        try:
            built_in = f"{__package__}.{place}" if place in BUILT_IN else place
            self.imported = import_adapter(built_in, lambda: self._recognised(place, name))
        except (ImportError, OSError) as error:
            expected = f"expected {', '.join(BUILT_IN)}, a Python file, a notebook or a module"
            raise self._unusable(f"{error}; {expected}") from error
        except NotRecognisedError as error:
            raise self._unusable(str(error)) from error
        except Exception as error:
            raise self._unusable(f"importing it raised {type(error).__name__}: {error}") from error
        load = getattr(self.imported.module, "load" if self.found else name, None)
        if not callable(load):
            raise self._unusable(f"{self.imported.module.__name__} has no function {name}()")
        return load

    def _recognised(self, place: str, name: str) -> ModuleType | None:
        """Return the adapter of a model that has none, as a module."""
        self.found = recognise(place, name) if place not in BUILT_IN else None
        return load_of(self.found) if self.found else None

    def _unusable(self, why: str) -> pytest.UsageError:
        return pytest.UsageError(f"--implementation {self.specification}: {why}")

    @staticmethod
    def _check_raw(logits: torch.Tensor) -> None:
        """Raise ProtocolError for probabilities. The logits of zeros are zeros, or a constant."""
        if bool((logits >= 0).all()) and bool(((logits.sum(-1) - 1).abs() < 1e-2).all()):
            raise ProtocolError(
                "logits() returned probabilities, each row of which adds up to 1: return the "
                "numbers before the softmax"
            )

    def _try_generate(self, judged: Judged) -> None:
        options = {"max_new_tokens": 1, "temperature": 1.0, "top_k": 5, "seed": 0}
        for name, prompts in (("generate", torch.tensor([TRIED])), ("generate_ragged", [TRIED])):
            with suppress(Exception):  # anything else is for the tests to see
                try:
                    getattr(judged, name)(prompts, **options)
                except ProtocolError as error:
                    self.broken[name] = error

    def __repr__(self) -> str:
        return self.specification


# Of a pytest.Config: the adapters that are judged. A caller in Python puts them there.
ADAPTERS: pytest.StashKey[list[Adapter]] = pytest.StashKey()


def check_apart(adapters: Sequence[Adapter]) -> None:
    """Raise pytest.UsageError if two adapters bring different modules of the same name."""
    if name := of_the_same_name(each.imported for each in adapters if each.imported):
        raise pytest.UsageError(
            f"--implementation: two of {', '.join(map(str, adapters))} import a module {name!r} "
            "from a folder of their own, and Python keeps one module of a name: judge them in "
            "runs of their own"
        )
