"""Makes an adapter of what a caller in Python has: a function, a class, a file or a name."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from ..adapters.adapter import Adapter
from ..adapters.modules import place_and_name
from ..adapters.recognised.recognise import NotRecognisedError, load_of, recognise_class

EXPECTED = (
    "expected a function load(checkpoint, *, device, dtype), a class of an nn.Module, its "
    "from_pretrained, a module, or the name of a file or of a module"
)


def adapter_of(model: Any, device: str, dtype: torch.dtype) -> Adapter:
    """Return the adapter of what `judge` is given.

    Raises TypeError for something else, and ValueError for a file, a module or a class that can't
    be judged, with the reason.
    """
    if isinstance(model, ModuleType):
        load = getattr(model, "load", None)
        if callable(load):
            return Adapter(model.__name__, device, dtype, load)
        model = model.__name__
    if isinstance(model, (str, Path)):
        try:
            return Adapter(str(model), device, dtype)
        except pytest.UsageError as error:
            raise ValueError(str(error).removeprefix("--implementation ")) from error
    kind = model.__self__ if inspect.ismethod(model) else model
    if isinstance(kind, type) and issubclass(kind, nn.Module):
        return _of_class(kind, "" if kind is model else model.__name__, device, dtype)
    if isinstance(model, nn.Module) or not callable(model):
        raise TypeError(f"{type(model).__name__} object: {EXPECTED}")
    return Adapter(name_of(model), device, dtype, model)


def _of_class(kind: type[nn.Module], loading: str, device: str, dtype: torch.dtype) -> Adapter:
    name = f"{kind.__name__}.{loading}" if loading else kind.__name__
    try:
        found = recognise_class(kind, loading)
    except NotRecognisedError as error:
        raise ValueError(f"{name}: {error}") from error
    adapter = Adapter(name, device, dtype, load_of(found).load)
    adapter.found = found
    return adapter


def name_of(load: Any) -> str:
    """Return a name to show, such as `load` or `MyGPT2.load`."""
    while isinstance(load, partial):
        load = load.func
    if inspect.ismethod(load) and isinstance(load.__self__, type):
        return f"{load.__self__.__name__}.{load.__name__}"
    name = getattr(load, "__qualname__", None) or type(load).__qualname__
    return str(name).rpartition("<locals>.")[2]


def file_of(model: Any) -> Path | None:
    """Return the Python file that a name stands for, if it does."""
    if not isinstance(model, (str, Path)):
        return None
    file = Path(place_and_name(str(model))[0])
    return file.resolve() if file.suffix == ".py" and file.is_file() else None
