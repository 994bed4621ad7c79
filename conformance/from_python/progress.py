"""One line that says how far a verdict is."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any, TextIO

import pytest


class Progress:
    """A pytest plugin that shows the families that are finished.

    On a terminal the line is rewritten, and gone at the end. Elsewhere it only grows.
    """

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self.name = name
        self.stream = sys.stderr if stream is None else stream  # of now: pytest replaces it
        self.rewrites = self.stream.isatty()
        self.left: Counter[str] = Counter()
        self.families: dict[str, str] = {}  # test -> family
        self.total = 0
        self.failed = False

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for mark in item.iter_markers("requirement"):
                self.families[item.nodeid] = mark.args[0].partition(".")[0]
        self.left.update(self.families.values())
        self.total = len(self.families)
        self._write(f"judging {self.name}:")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed
        family = self.families.get(report.nodeid)
        if report.when != "teardown" or family is None:
            return
        self.left[family] -= 1
        if self.rewrites:
            done = self.total - self.left.total()
            self._write(f"judging {self.name}: {done} of {self.total} tests, {family}")
        elif not self.left[family]:
            self._write(f" {family}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: Any) -> None:  # noqa: ARG002
        if self.failed:
            self._write(" ... looking for the mistakes")

    def end(self) -> None:
        self._write("" if self.rewrites else "\n")

    def _write(self, text: str) -> None:
        self.stream.write(f"\r\x1b[2K{text[:100]}" if self.rewrites else text)
        self.stream.flush()
