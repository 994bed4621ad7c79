"""The environments of tox.ini."""

from __future__ import annotations

import configparser
import itertools
import re
from pathlib import Path

TOX = configparser.ConfigParser(interpolation=None)
TOX.read(Path(__file__).parents[2] / "tox.ini", encoding="utf-8")


def environments() -> list[str]:
    """Expand env_list: torch{1, 2}-transformers{3, 4} is four environments."""
    names = []
    for line in TOX["tox"]["env_list"].split("\n"):
        parts = [part.split(",") for part in re.split(r"[{}]", line)]
        names += ["".join(map(str.strip, each)) for each in itertools.product(*parts) if any(each)]
    return names
