"""The import graph of the modules: no circle, and benchmarks -> conformance -> gpt2ref."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each package, and the packages of this project that it may import.
ALLOWED = {
    "gpt2ref": {"gpt2ref"},
    "conformance": {"gpt2ref", "conformance"},
    # The suite has another name in the wheel, so `benchmarks/suite.py` finds it.
    "benchmarks": {"gpt2ref", "benchmarks"},
}

# The core of gpt2ref, which runs without the folders `fast` and `checkpoint`.
CORE = ("config", "model", "conversion", "sampling", "generation")
# What it calls for arguments, devices and names. These know nothing of the core but `config`.
BESIDE = ("arguments", "devices", "wrappers")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for package in ALLOWED for path in (ROOT / package).rglob("*.py")}


def imported(module: str, source: str, *, is_package: bool) -> Iterator[str]:
    """Return every name that a module imports, also inside functions, with relative ones resolved.

    Imports under `if TYPE_CHECKING:` are left out: they are not executed.
    """
    tree = ast.parse(source)
    skipped = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test).endswith("TYPE_CHECKING")
        for part in test.body
        for node in ast.walk(part)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package else -1]
                parents = parents[: len(parents) - (node.level - 1)]
                base = ".".join([*parents, *filter(None, [base])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def in_project(name: str) -> str | None:
    """Return the module of the project that has this name or contains it."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name or None


def graph() -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {}
    for module, path in FILES.items():
        source = path.read_text(encoding="utf-8")
        names = imported(module, source, is_package=path.name == "__init__.py")
        edges[module] = {found for name in names if (found := in_project(name))} - {module}
    return edges


def circle(edges: dict[str, set[str]]) -> list[str] | None:
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return None


def test_no_modules_import_each_other() -> None:
    assert circle(graph()) is None


def test_a_circle_is_found_in_a_function_and_through_a_package() -> None:
    def edges(module: str, source: str) -> list[str]:
        return list(imported(module, source, is_package=False))

    assert edges("a.b.c", "def f():\n    from ..d import e") == ["a.d.e"]
    assert edges("a.b.c", "from . import d, e") == ["a.b.d", "a.b.e"]
    assert edges("a.b", "if TYPE_CHECKING:\n    import c") == []
    assert list(imported("a.b", "from .c import d", is_package=True)) == ["a.b.c.d"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()})
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_go_one_way(package: str) -> None:
    modules = {module: path for module, path in FILES.items() if module.split(".")[0] == package}
    assert modules
    for module, path in modules.items():
        source = path.read_text(encoding="utf-8")
        names = imported(module, source, is_package=path.name == "__init__.py")
        packages = {name.split(".")[0] for name in names}
        assert packages & {*ALLOWED, "tests", "training"} <= ALLOWED[package], module
        assert package != "gpt2ref" or "transformers" not in packages, module


def test_the_core_imports_neither_fast_nor_checkpoint() -> None:
    edges = graph()
    core, beside = ({f"gpt2ref.{name}" for name in names} for names in (CORE, BESIDE))
    for name in core:
        assert edges[name] <= core | beside, name
    for name in beside:
        assert edges[name] <= {"gpt2ref.config"}, name
