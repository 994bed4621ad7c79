"""Holds the arguments of pytest that run the suite alone, in any folder."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
ALONE = (
    # Ignore the pytest settings of the current folder: they are for its own tests.
    *("-c", str(FOLDER / "installed.ini"), f"--rootdir={FOLDER}"),
    *("-p", "no:cacheprovider", "--tb=short", "-rN"),
    # pytest warns that a module, which is no test, was imported before it could be rewritten.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
