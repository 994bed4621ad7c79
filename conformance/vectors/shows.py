"""Says in which cases each defect of the catalogue shows by itself.

    python -m conformance.studies.vectors --shows conformance/vectors/shows.json

writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ..diagnosis.known_to_show import read_shows

FILE = Path(__file__).with_name("shows.json")


@cache
def shows() -> Mapping[str, frozenset[str]]:
    """Return the ids of the cases for each defect. Without the file, nothing is known."""
    return read_shows(FILE) if FILE.exists() else {}
