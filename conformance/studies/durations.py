"""Measures how long the tests take, from which a run says how much time is left.

    python -m conformance.studies.durations

It judges gpt2ref in one process, which takes some minutes, and writes the mean seconds of a test of
each requirement to the suite's file of durations. The times of a machine do not matter, only their
ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from statistics import fmean

import pytest

from ..invocation import ALONE, FOLDER
from ..requirements import REQUIREMENTS
from ..verdict.findings import FINDING
from ..verdict.plan import DURATIONS


class Stopwatch:
    """A pytest plugin that adds up what each test takes, with its fixtures."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)  # by test
        self.requirements: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        for name, value in report.user_properties:
            if name == FINDING and isinstance(value, dict):
                self.requirements[report.nodeid] = value["requirement"]

    def means(self) -> dict[str, float]:
        """Return the mean seconds of a test of each requirement, with two digits."""
        taken: dict[str, list[float]] = {}
        for test, requirement in self.requirements.items():
            taken.setdefault(requirement, []).append(self.seconds[test])
        return {name: float(f"{fmean(taken[name]):.2g}") for name in REQUIREMENTS if name in taken}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    stopwatch = Stopwatch()
    status = pytest.main([*ALONE, "-p", "no:xdist", str(FOLDER)], plugins=[stopwatch])
    if status == pytest.ExitCode.OK:
        DURATIONS.write_text(json.dumps(stopwatch.means(), indent=1) + "\n", encoding="utf-8")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
