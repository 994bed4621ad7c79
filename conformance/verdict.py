"""The plugin that collects what the tests find, and tells it: a verdict a person can read, and the files asked for.

One line a family, then one paragraph for each thing that is wrong, however many requirements fail by it.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import cast

import pytest

from gpt2ref import __version__

from .decisions import ERRORED, FAILED, KNOWN, NOT_APPLICABLE, PASSED, Decision, Detail, Judgement, counted
from .deviations import Deviation, read_deviations, write_deviations
from .protocol import SMOKE
from .report import check_writable, write_report
from .requirements import REQUIREMENTS

_PROPERTY = "conformance"  # of a test report: adapter, requirement, outcome, what was found
_OPTIONS = {"device": "cpu", "dtype": None, "checkpoint": None, "probe_shape": "small"}  # that decide, and their defaults


def add_options(group: pytest.OptionGroup) -> None:
    group.addoption("--conformance-report", metavar="JSON", help="write all results there; python -m conformance.page reads it")
    group.addoption(
        "--known-deviations", metavar="TOML", help="requirements that may fail, each with its reason, and that may not pass"
    )
    group.addoption("--write-known-deviations", metavar="TOML", help="write the failures as such a file, which must be new")


class Verdict:
    def __init__(self, config: pytest.Config, adapters: list[str]) -> None:
        """Raises pytest.UsageError if a file can't be read, or could not be written."""
        self.config = option = config.option
        self.known: dict[str, Deviation] = {}
        for name in ("known_deviations", "write_known_deviations"):
            if getattr(option, name) and len(adapters) > 1:
                raise pytest.UsageError(f"--{name.replace('_', '-')} goes with one --implementation, here are {len(adapters)}")
        if option.known_deviations:
            self.known = read_deviations(option.known_deviations)
        if option.conformance_report:
            check_writable("--conformance-report", option.conformance_report)
        if path := option.write_known_deviations:
            check_writable("--write-known-deviations", path)
            try:
                open(path, encoding="utf-8").close()
            except FileNotFoundError:
                pass
            else:
                raise pytest.UsageError(f"--write-known-deviations {path}: is there already, and is not overwritten")
        self.config = config
        again = [
            f"--{name.replace('_', '-')}={value}" for name in _OPTIONS if (value := getattr(option, name)) != _OPTIONS[name]
        ]
        self.judgements = {name: Judgement(name, self.known, tuple(again)) for name in adapters}
