"""Finds the folders that the imports of a file need, above the file in its project.

A file of `src/models/` may import `src.models.layers`, as its author does from the project's
folder. What is installed is not looked for.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

LEVELS = 4  # how far above a file its project's folder may be


def relative_levels(tree: ast.Module) -> int:
    """Return how many packages a file's relative imports go up; those in a `try` may fail."""
    tried = {
        part for node in ast.walk(tree) if isinstance(node, ast.Try) for part in ast.walk(node)
    }
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return max((node.level for node in nodes if node not in tried), default=0)


def project_folders(path: Path, tree: ast.Module) -> tuple[Path, ...]:
    """Return the folders in which the imports of a file are found, and those of what it imports."""
    folders: dict[Path, None] = {}
    seen, waiting = {path}, [(path, tree)]
    while waiting:
        file, content = waiting.pop()
        for folder, found in _imports(file, content):
            if folder is not None:
                folders[folder] = None
            if found not in seen:
                seen.add(found)
                with suppress(OSError, SyntaxError, ValueError):
                    waiting.append((found, ast.parse(found.read_bytes())))
    return tuple(folders)


def _imports(file: Path, tree: ast.Module) -> Iterator[tuple[Path | None, Path]]:
    """Yield the files that a file imports, each with the folder that sys.path needs for it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = file.parents[node.level - 1] if node.level else None
            names = [node.module] if node.module else []
            names += [f"{node.module}.{part.name}" for part in node.names if node.module]
            names += [part.name for part in node.names if not node.module]
        elif isinstance(node, ast.Import):
            above, names = None, [part.name for part in node.names]
        else:
            continue
        for name in names:
            if above is not None:
                yield from ((None, found) for found in _files(above, name))
            elif not _installed(name.partition(".")[0]):
                for folder in file.parents[: LEVELS + 1]:
                    if files := list(_files(folder, name)):
                        yield from ((folder, found) for found in files)
                        break


def _files(folder: Path, name: str) -> Iterator[Path]:
    module = folder.joinpath(*name.split("."))
    for file in (module.with_name(f"{module.name}.py"), module / "__init__.py"):
        if file.is_file():
            yield file


def _installed(name: str) -> bool:
    if name in sys.stdlib_module_names:
        return True
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and "-packages" in (spec.origin or "")
