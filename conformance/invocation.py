"""Holds what a run of the suite alone needs, in any folder: pytest's arguments, and modules."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent
ALONE = (
    # Ignore the pytest settings of the current folder: they are for its own tests.
    *("-c", str(FOLDER / "installed.ini"), f"--rootdir={FOLDER}"),
    *("-p", "no:cacheprovider", "--tb=short", "-rN"),
    # pytest warns that a module, which is no test, was imported before it could be rewritten.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)


def module(name: str) -> ModuleType:
    """Return a module of the suite as pytest imports it: by the name of the folder.

    An editable install has another name for the same package.
    """
    if FOLDER.name not in sys.modules and str(FOLDER.parent) not in sys.path:
        sys.path.append(str(FOLDER.parent))
    return import_module(f"{FOLDER.name}.{name}")
