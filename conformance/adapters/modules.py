"""Imports an adapter's module, and finds two adapters whose own modules have the same name.

Python keeps one module of a name. The second adapter would be judged with the first one's model.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Imported:
    """An adapter's module, the folders that it put on sys.path, and the names that it imports."""

    module: ModuleType
    folders: tuple[str, ...]
    names: frozenset[str]


def import_adapter(
    place: str, otherwise: Callable[[], ModuleType | None] = lambda: None
) -> Imported:
    """Import a Python file or a module, unless `otherwise` gives its adapter.

    Raises what the import raises.
    """
    path, known = list(sys.path), set(sys.modules)
    recognised = otherwise()
    if recognised is not None:
        module = recognised
    else:
        module = _from_file(place) if place.endswith(".py") else importlib.import_module(place)
    names = {name.partition(".")[0] for name in sys.modules.keys() - known}
    if recognised is not None and place.endswith(".py"):
        names.add(Path(place).stem)  # the model's file, which may have been imported before
    folders = tuple(str(folder) for folder in sys.path if folder not in path)
    return Imported(module, folders, frozenset(names | _imports(module)))


def place_and_name(specification: str) -> tuple[str, str]:
    """Split the name of an adapter into its file or module, and the function in it."""
    place, _, name = specification.rpartition(":")
    return (place, name) if place else (specification, "load")


def _from_file(place: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    assert spec, place  # a name that ends in .py always gives one
    assert spec.loader, place
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _imports(module: ModuleType) -> set[str]:
    """Return the packages that the source names, also those that a function imports later."""
    file = getattr(module, "__file__", None)
    if not file or not file.endswith(".py"):
        return set()
    names: set[str] = set()
    for node in ast.walk(ast.parse(Path(file).read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def of_the_same_name(imported: Iterable[Imported]) -> str:
    """Return the first name under which two adapters import different files; empty if none."""
    for one, other in itertools.combinations(imported, 2):
        for name in sorted(one.names & other.names):
            found = [PathFinder.find_spec(name, list(each.folders)) for each in (one, other)]
            origins = [spec.origin for spec in found if spec]
            if len(origins) == 2 and origins[0] != origins[1]:
                return name
    return ""
