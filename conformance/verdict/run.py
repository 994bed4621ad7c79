"""Gives a run of pytest what its caller has, and keeps what the run finds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import pytest

from ..adapters.adapter import ADAPTERS, Adapter
from ..chosen import CHOSEN
from .judgement import Judgement
from .plugin import VerdictPlugin
from .progress import PROGRESS, Progress


class Run:
    """A pytest plugin for `pytest.main`.

    `begun` is called with the lines that say what is judged. `adapters` and `asked`: instead of
    those of the options.
    """

    def __init__(
        self,
        progress: Progress | None,
        begun: Callable[[list[str]], None] | None = None,
        adapters: list[Adapter] | None = None,
        asked: Collection[str] | None = None,
    ) -> None:
        self.progress, self.begun = progress, begun
        self.adapters, self.asked = adapters, asked
        self.verdict: VerdictPlugin | None = None
        self.interrupted = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        if self.progress is not None:
            config.stash[PROGRESS] = self.progress
        if self.adapters is not None:
            config.stash[ADAPTERS] = self.adapters
        if self.asked is not None:
            config.stash[CHOSEN] = frozenset(self.asked)

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.verdict = session.config.pluginmanager.get_plugin("conformance-verdict")
        if self.verdict and self.progress:
            self.progress.begin([*self.verdict.adapters])
        if self.verdict and self.begun:
            self.begun(self.verdict.pytest_report_header())

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        # pytest-xdist raises a kind of its own where -x stops a run.
        self.interrupted = excinfo.type is KeyboardInterrupt
        if self.interrupted and self.progress:
            self.progress.stop()

    @property
    def judgements(self) -> Mapping[str, Judgement]:
        """Return the judgements of the implementations of which any test has run."""
        found = self.verdict.judgements if self.verdict else {}
        return {name: each for name, each in found.items() if each.results}
