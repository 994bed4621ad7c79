"""Find the failures that a GPT-2 with all the causes has too.

Two mistakes at once can fail what neither fails alone. So the first failed test of a requirement
that no cause explains is run again, on the catalogue's GPT-2 with all the mistakes that are known:
those of the diagnosis and of the other causes.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from .causes import example_of
from .findings import FAILED, FINDING
from .judgement import Judgement

SUITE = Path(__file__).parents[1]
# As this package is imported: a clone has two names for it (see ../plugin.py).
PACKAGE = __package__.rpartition(".")[0] if __package__ else ""


def fail_too(judgement: Judgement) -> frozenset[str]:
    """Return the unexplained requirements that a GPT-2 with all the causes fails too."""
    mistakes, names = "+".join(_mistakes(judgement)), set(judgement.unexplained)
    if not mistakes or not names:
        return frozenset()
    implementation = f"{PACKAGE}.defects:{mistakes}"
    in_ids = judgement.adapter.encode("unicode_escape").decode("ascii")  # as pytest writes it
    tests = []
    for name in sorted(names):
        file, _, test = judgement.results[name].failures[0].test.partition("::")
        function, _, parameters = test.partition("[")  # the adapter is the first of them
        parameters = parameters.replace(in_ids, implementation, 1)
        tests.append(f"{SUITE / Path(file).name}::{function}[{parameters}")
    asked = _Failures()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pytest.main(
            [
                *("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:faulthandler"),
                *("--tb=no", f"--rootdir={SUITE.parent}"),
                *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
                *dict.fromkeys(tests),
                *("--implementation", implementation, *judgement.options),
            ],
            plugins=[asked],
        )
    return frozenset(names & asked.requirements)


def _mistakes(judgement: Judgement) -> Iterator[str]:
    """Yield the mistakes of all causes, with all digits or the number that a test has read."""
    diagnosis = judgement.diagnosis
    granted = diagnosis.granted if diagnosis and diagnosis.stages else ()
    named = [cause.id for cause in judgement.causes if cause.what]
    numbered = {example_of(name) for name in named}
    yield from (each.specification for each in granted if each.id not in numbered)
    yield from (name for name in named if name not in {each.id for each in granted})


class _Failures:
    """Collects the requirements of the tests that fail."""

    def __init__(self) -> None:
        self.requirements: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in cast("list[tuple[str, Any]]", report.user_properties):
            if name == FINDING and value["finding"]["outcome"] == FAILED:
                self.requirements.add(value["requirement"])
