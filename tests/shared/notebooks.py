"""Run the code cells of a notebook in one namespace, as IPython does, and keep what they show."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def run_cells(path: Path) -> list[Any]:
    """Return the value of each code cell's last expression, or None."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    module = ModuleType(f"{path.stem}_cells")
    sys.modules[module.__name__] = module  # a class is looked up in its module
    try:
        return [
            _run("".join(cell["source"]), vars(module))
            for cell in notebook["cells"]
            if cell["cell_type"] == "code"
        ]
    finally:
        del sys.modules[module.__name__]


def _run(source: str, names: dict[str, Any]) -> Any:
    tree = ast.parse(source)
    *before, last = tree.body
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "<cell>", "exec"), names)
        return None
    exec(compile(ast.Module(before, []), "<cell>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
