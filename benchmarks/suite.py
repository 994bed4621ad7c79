"""Find the parts of the conformance suite that the benchmarks use.

In a clone the two packages are `benchmarks` and `conformance`, and in the wheel
`gpt2ref_benchmarks` and `gpt2ref_conformance` (`conformance/plugin.py` says why). So no module here
imports the suite by its name.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

assert __package__, "import this module as a part of its package"
SUITE = __package__.replace("benchmarks", "conformance")


def part(name: str) -> Any:
    """Import a module of the suite: `adapters.adapter`."""
    return import_module(f"{SUITE}.{name}")
