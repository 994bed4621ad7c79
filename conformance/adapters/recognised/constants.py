"""Sets the sizes of a model that has them as constants, or in a config that it finds itself."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import nn


def set_fields(holder: Any, **values: Any) -> None:
    """Set constants of a module and of the modules of its project, or the fields of a config.

    `holder` is the module, a class whose attributes are a config, an object or a dictionary.
    """
    if isinstance(holder, dict):
        holder.update(values)
    elif not isinstance(holder, ModuleType):
        for name, value in values.items():
            setattr(holder, name, value)
    else:
        for module in own_modules(holder):
            known = {
                name: v for name, v in values.items() if module is holder or name in vars(module)
            }
            vars(module).update(known)


def own_modules(module: ModuleType) -> list[ModuleType]:
    """Return a module and those of its project from which it has modules, classes or functions."""
    found, waiting = {module.__name__: module}, [module]
    while waiting:
        for value in [*vars(waiting.pop()).values()]:
            is_code = inspect.isclass(value) or inspect.isfunction(value)
            other = sys.modules.get(value.__module__ or "") if is_code else value
            if isinstance(other, ModuleType) and other.__name__ not in found and _is_own(other):
                found[other.__name__] = other
                waiting.append(other)
    return [*found.values()]


def constants_of(module: ModuleType) -> list[str]:
    """Return the names of the numbers of a module and of its project."""
    return [
        name
        for each in own_modules(module)
        for name, value in vars(each).items()
        if isinstance(value, (int, float)) and not name.startswith("__")
    ]


def configs_of(module: ModuleType) -> Iterator[tuple[str, list[str]]]:
    """Yield the names of a module that may hold a config, each with its fields."""
    for name, value in vars(module).items():
        if name.startswith("__") or isinstance(value, ModuleType) or inspect.isroutine(value):
            continue
        if isinstance(value, dict):
            yield name, [key for key in value if isinstance(key, str)]
        elif not (isinstance(value, type) and issubclass(value, nn.Module)):
            fields = getattr(value, "__dict__", {})
            yield name, [key for key, each in fields.items() if not callable(each)]


def _is_own(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None) or ""
    return bool(file) and "-packages" not in file and not file.startswith(sys.base_prefix)
