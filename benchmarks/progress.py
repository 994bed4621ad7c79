"""Show how far a run is, and how long it will still take."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

from tqdm import tqdm

tqdm.monitor_interval = 0  # no thread of its own beside what is measured


class Progress:
    """Shows nothing."""

    def advance(self, name: str) -> None:
        """Say that the next generation begins, and whose it is."""

    def reach(self, part: float) -> None:
        """Say which part of the run is done. A failed implementation takes no more turns."""

    def clear(self) -> None:
        """Make room for a line of text."""

    def close(self) -> None:
        """End."""


class TerminalProgress(Progress):
    """Shows a bar on standard error, if that is a terminal. It is drawn between generations.

    `shown` is a context in which output reaches the terminal.
    """

    def __init__(self, calls: int, shown: Callable[[], AbstractContextManager[object]]) -> None:
        self.calls, self.shown = calls, shown
        self.bar: tqdm[None] | None = None

    def advance(self, name: str) -> None:
        with self.shown():
            if self.bar is None:
                self.bar = tqdm(
                    total=self.calls,
                    unit="turn",
                    file=sys.stderr,
                    leave=False,
                    disable=None,
                    dynamic_ncols=True,
                )
                self.bar.set_postfix_str(name)
                return
            self.bar.set_postfix_str(name, refresh=False)
            self.bar.update()

    def reach(self, part: float) -> None:
        if self.bar is not None:
            with self.shown():
                self.bar.update(round(part * self.calls) - self.bar.n)

    def clear(self) -> None:
        if self.bar is not None:
            with self.shown():
                self.bar.clear()

    def close(self) -> None:
        if self.bar is not None:
            with self.shown():
                self.bar.close()
