"""Imports the file in which a GPT-2 is, without starting a training that it may contain.

A script that trains is not run: its imports, classes and functions are taken, and of its
assignments those that a class needs.
"""

from __future__ import annotations
import __future__

import ast
import importlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec, module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from .project import project_folders, relative_levels

NOTEBOOK = ".ipynb"
LEFT_OUT = "__left_out__"  # of a script's module: the errors of what could not be defined
UNKNOWN = "__unknown__"  # of a script's module: the names whose values only a run gives
PATIENCE = 20.0  # seconds of an import, after which a line says what takes so long
_BLOCKS = (ast.If, ast.Try)
_ASSIGNMENT = ast.Assign | ast.AnnAssign
_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
_RUNS = (ast.For, ast.While, ast.With, ast.AsyncFor, ast.AsyncWith)


@dataclass(frozen=True)
class Source:
    """A Python file or a notebook: the name of its module, and the folder that must be found."""

    path: Path
    name: str
    folder: Path
    tree: ast.Module

    @cached_property
    def folders(self) -> list[str]:
        """Return what sys.path needs: the folder, and others in which its imports are found."""
        others = project_folders(self.path, self.tree)
        return [str(each) for each in dict.fromkeys((self.folder, *others))]

    @property
    def trains(self) -> bool:
        """Return whether an import would do more than define, such as call a function."""
        if self.path.suffix == NOTEBOOK:
            return True
        own = {node.name for node in self.tree.body if isinstance(node, ast.ClassDef | _FUNCTION)}
        return any(_runs(node, own) for node in _statements(self.tree.body))

    def names(self) -> set[str] | None:
        """Return the names that the file binds; None if a name may come from elsewhere."""
        bound: set[str] = set()
        for node in _statements(self.tree.body):
            if isinstance(node, ast.ClassDef | _FUNCTION):
                bound.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                bound |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            else:
                bound |= _stored(node)
        return None if {"*", "__getattr__"} & bound else bound

    def class_with_forward(self, name: str) -> bool:
        """Return whether a class of this name is defined here and has a `forward`."""
        return any(
            isinstance(node, ast.ClassDef)
            and node.name == name
            and any(
                isinstance(part, ast.FunctionDef) and part.name == "forward" for part in node.body
            )
            for node in _statements(self.tree.body)
        )


def find_source(place: str) -> Source | None:
    """Return the source of a file or a module; None if it has none that can be read."""
    if place.endswith((".py", NOTEBOOK)):
        path = Path(place).resolve()
        return _read(path, *_name_and_folder(path))
    try:
        spec = find_spec(place)
    except Exception:  # of a package above the module, which the import will raise again
        return None
    if spec is None or not (spec.origin or "").endswith(".py"):
        return None
    path = Path(spec.origin or "")
    is_package = path.name == "__init__.py"
    return _read(path, place, path.parents[place.count(".") + is_package])


def _name_and_folder(path: Path) -> tuple[str, Path]:
    """Return the name of a file, with the packages in which it is, and the folder that has them.

    A folder that relative imports need is a package also without an `__init__.py`.
    """
    folder, names = path.parent, [path.stem]
    if path.suffix == NOTEBOOK:
        return f"{path.stem}{NOTEBOOK}", folder  # the name of no other module
    with suppress(OSError, SyntaxError, ValueError):
        levels = relative_levels(ast.parse(path.read_bytes()))
        while folder.name.isidentifier() and (
            (folder / "__init__.py").exists() or len(names) <= levels
        ):
            folder, names = folder.parent, [folder.name, *names]
    return ".".join(names), folder


def _read(path: Path, name: str, folder: Path) -> Source | None:
    try:
        tree = _of_cells(path) if path.suffix == NOTEBOOK else ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, KeyError):
        return None
    return Source(path, name, folder, tree)


def _of_cells(path: Path) -> ast.Module:
    """Return the statements of a notebook's cells. A cell that is no Python is left out."""
    tree = ast.Module([], [])
    for cell in json.loads(path.read_bytes())["cells"]:
        lines = "".join(cell["source"]).splitlines()
        plain = ["" if line.startswith(("%", "!")) else line for line in lines]
        if cell["cell_type"] == "code":
            with suppress(SyntaxError):
                tree.body += ast.parse("\n".join(plain)).body
    return tree


def _add_to_path(source: Source) -> None:
    sys.path[:0] = [folder for folder in source.folders if folder not in sys.path]


def imported(source: Source) -> ModuleType:
    """Import the file as its author does. Raises what the import raises."""
    _add_to_path(source)
    known = sys.modules.get(source.name)
    if known is not None and getattr(known, "__file__", None) != str(source.path):
        del sys.modules[source.name]  # another file of the same name
    with _announced(source.path):
        return importlib.import_module(source.name)


def definitions(path: str) -> ModuleType:
    """Run the imports, classes and functions of a script, and the assignments that classes need.

    A package that is not installed is left out, and so is what can't be defined without it.
    """
    source = find_source(path)
    if source is None:
        raise ValueError(f"{path}: expected a Python file that can be read")
    _add_to_path(source)
    spec = spec_from_loader(source.name, None, origin=str(source.path))
    assert spec
    module = module_from_spec(spec)
    module.__file__ = str(source.path)
    module.__package__ = source.name.rpartition(".")[0]  # of its relative imports
    sys.modules[module.__name__] = module  # dataclasses look their module up
    left_out: list[str] = []
    vars(module)[LEFT_OUT] = left_out
    with _announced(source.path):
        for node in _defining(source.tree):
            code = compile(ast.Module([node], []), str(source.path), "exec", _flags(source.tree))
            try:
                exec(code, vars(module))
            except Exception as error:  # such as a package that is not installed
                left_out.append(str(error))
    assigned = (node for node in _statements(source.tree.body) if isinstance(node, _ASSIGNMENT))
    stored = {name for node in assigned for name in _stored(node)}
    vars(module)[UNKNOWN] = stored - vars(module).keys()
    return module


def _flags(tree: ast.Module) -> int:
    future = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names = [alias.name for node in future if node.module == "__future__" for alias in node.names]
    return sum(getattr(__future__, name).compiler_flag for name in names)


def _defining(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements that define, in their order."""
    needed = _needed(tree)
    for node in tree.body:
        if isinstance(node, _BLOCKS):
            if all(_only_defines(part) for part in _statements([node])):
                yield node
        elif _only_defines(node) or (needed & _stored(node) and isinstance(node, _ASSIGNMENT)):
            yield node


def _only_defines(node: ast.stmt) -> bool:
    """Return whether a statement imports, defines, assigns without a call, or extends sys.path."""
    if isinstance(node, ast.Expr):
        return ast.unparse(node).startswith("sys.path.")
    is_constant = isinstance(node, _ASSIGNMENT) and not _calls(node)
    return is_constant or isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef | _FUNCTION)


def _needed(tree: ast.Module) -> set[str]:
    """Return the names of the module that its classes use, and what is used to make these."""
    needed: set[str] = set()
    new = {name for node in tree.body if isinstance(node, ast.ClassDef) for name in _loaded(node)}
    while new - needed:
        needed |= new
        makers = [node for node in tree.body if needed & _binds(node)]
        new = {name for node in makers for name in _loaded(node)}
    return needed


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, also those in `try` and `if`, but not under __main__."""
    for node in body:
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            continue
        if isinstance(node, _BLOCKS):
            yield from _statements(node.body)
            yield from _statements(node.orelse)
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)
        else:
            yield node


def _runs(node: ast.stmt, own: set[str]) -> bool:
    """Return whether a statement does more than define, where `own` are this file's names."""
    if isinstance(node, _RUNS):
        return True
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call) and not ast.unparse(node).startswith("sys.path.")
    if isinstance(node, _ASSIGNMENT | ast.AugAssign):
        called = {ast.unparse(call.func).partition(".")[0] for call in _calls(node)}
        return bool(called & (own | {"open"}))
    return False


def _calls(node: ast.AST) -> list[ast.Call]:
    return [part for part in ast.walk(node) if isinstance(part, ast.Call)]


def _stored(node: ast.AST) -> set[str]:
    names = (part for part in ast.walk(node) if isinstance(part, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def _binds(node: ast.stmt) -> set[str]:
    return {node.name} if isinstance(node, ast.ClassDef | _FUNCTION) else _stored(node)


def _loaded(node: ast.AST) -> set[str]:
    """Return the names that a statement uses and does not itself bind."""
    parts = list(ast.walk(node))
    own = {part.arg for part in parts if isinstance(part, ast.arg)} | _stored(node)
    return {part.id for part in parts if isinstance(part, ast.Name)} - own


@contextmanager
def _announced(path: Path) -> Iterator[None]:
    """Say so if an import takes long: it may do more than define."""
    said = (
        f"{path.name} has been importing for {PATIENCE:.0f} s: does it run something when imported?"
    )
    timer = threading.Timer(PATIENCE, lambda: print(said, file=sys.__stderr__, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
