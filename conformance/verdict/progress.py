"""Shows how far a run is: the families that are finished, the first finding, the diagnosis."""

from __future__ import annotations

import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TextIO

import pytest
from tqdm import tqdm

from ..requirements import REQUIREMENTS
from .findings import ERRORED, FAILED, NOT_APPLICABLE, NOT_RUN, Finding
from .judgement import Judgement, counted
from .plan import Place, family_of
from .terminal import columns, wrapped

_KNOWN_SPEED = 0.03  # the part of a run after which the time left is told
_NAME = 30  # characters of a name in the bar
_LOOKING = "looking for the mistakes"


class Progress:
    """Shows a user on standard error how far a run is.

    On a terminal a bar is rewritten in place, and gone at the end. Elsewhere lines are added. The
    first finding of each implementation stays on both.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream  # of now: pytest replaces it
        self.several = False  # implementations
        self.tests: Counter[tuple[str, str]] = Counter()  # those that have run, by family
        self.finished = 0  # families
        self.families = 0
        self.named: dict[str, bool] = {}  # whether a finding of each was shown that names a mistake
        self.shown: set[str] = set()  # lines of diagnoses
        self.compared: dict[str, str] = {}  # how far the diagnosis of each is
        self.waiting = False  # for a diagnosis
        self.clock = _Clock()
        self.bar = _Bar(self.stream, self.summary) if self.stream.isatty() else None

    def begin(self, names: Sequence[str]) -> None:
        """Name the implementations."""
        self.several = len(names) > 1
        if self.bar is not None:
            name = f"{len(names)} GPT-2s" if self.several else names[0]
            short = name if len(name) <= _NAME else f"...{name[3 - _NAME :]}"
            self.bar.set_description_str(f"judging {short}")

    def tested(
        self, judgement: Judgement, requirement: str, finding: Finding, place: Place
    ) -> None:
        """Count a test. `judgement` knows its finding already."""
        adapter, family = judgement.adapter, family_of(requirement)
        computed = finding.outcome not in (NOT_APPLICABLE, ERRORED)
        self.clock.advance(place["share"], computed=computed)
        self.families = place["families"]
        self._show_first(adapter, requirement, finding)
        self.tests[adapter, family] += 1
        if self.tests[adapter, family] == place["tests"]:
            self.finished += 1
            outcomes = map(judgement.outcome, _members(family))
            said = counted(Counter(each for each in outcomes if each != NOT_RUN))
            if self.bar is None:
                self.add(f"{self._of(adapter)}{family}: {said} ({self.summary()})")
        if self.bar is not None:
            self.bar.update_to(self.clock.share)

    def _show_first(self, adapter: str, requirement: str, finding: Finding) -> None:
        """Show the first finding of an implementation, and the first that names a mistake."""
        known = self.named.get(adapter)
        if finding.outcome not in (FAILED, ERRORED) or known or (finding.own < (known is False)):
            return
        self.named[adapter] = finding.own
        said = (finding.sentence.strip().splitlines() or ["(no message)"])[0]
        kind = "first finding" if known is None else "first mistake"
        self.add(f"{self._of(adapter)}{kind}: {requirement}: {said}")

    def comparing(
        self, adapter: str, said: str = "", *, lasting: bool = False, waited: bool = False
    ) -> None:
        """Tell how far a diagnosis is.

        `lasting`: what is said holds for more than a moment. `waited`: the tests are done, and the
        diagnosis, which may have begun beside them, is waited for.
        """
        self.waiting |= waited
        self.compared[adapter] = said = said or self.compared.get(adapter, "")
        text = f"{self._of(adapter)}{_LOOKING}{said and ': '}{said}"
        if self.bar is not None:
            if self.waiting:
                self.bar.say(text)
        elif (lasting or waited) and text not in self.shown:
            self.shown.add(text)
            self.add(text)

    def summary(self) -> str:
        """Say how many families are finished, and the time left if it is known."""
        if not self.families:
            return "starting"
        left = self.clock.left()
        time_left = f", {tqdm.format_interval(round(left))} left" if left >= 1 else ""
        return f"{self.finished} of {self.families} families{time_left}"

    def stop(self) -> None:
        """Tell that the run was interrupted, as its processes may take seconds to end."""
        if self.bar is not None:
            self.bar.say("interrupted: ending the tests")

    def end(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def _of(self, adapter: str) -> str:
        return f"{adapter}: " if self.several else ""

    def add(self, text: str, stream: TextIO | None = None) -> None:
        """Add lines that stay, also to another stream, which may be the same terminal."""
        lines = wrapped(text, columns(stream or self.stream))
        with self.bar.external_write_mode(self.stream) if self.bar is not None else nullcontext():
            print(*lines, sep="\n", file=stream or self.stream, flush=True)


# Of a pytest.Config: where a run shows how far it is. Without it, pytest shows its own letters.
PROGRESS: pytest.StashKey[Progress] = pytest.StashKey()


class _Clock:
    """Tells the time left from the time that the tests so far have taken."""

    def __init__(self) -> None:
        self.share = 0.0  # of the run, that is done
        self.begun: float | None = None  # the end of the first test
        self.at = 0.0  # the end of the last test
        self.timed = 0.0  # the share of the tests between them that had something to compute

    def advance(self, share: float, *, computed: bool) -> None:
        """Count a test. One that is not applicable takes no time, and says nothing of the speed."""
        self.share = min(1.0, self.share + share)
        self.at = time.monotonic()
        if self.begun is None:  # the start of the processes says nothing of it either
            self.begun = self.at
        elif computed:
            self.timed += share

    def left(self) -> float:
        """Return the seconds left, or 0 where they are not known."""
        if self.begun is None or self.timed < _KNOWN_SPEED:
            return 0.0
        speed = self.timed / max(self.at - self.begun, 1e-3)
        return max(0.0, (1 - self.share) / speed - (time.monotonic() - self.at))


class _Bar(tqdm):
    """A bar that says more than tqdm knows, and whose time moves on during a long test."""

    monitor_interval = 0  # no thread of tqdm's

    def __init__(self, stream: TextIO, summary: Callable[[], str]) -> None:
        self.summary, self.closed = summary, threading.Event()
        form = "{desc} {percentage:3.0f}%|{bar}| {summary}"
        options = {"bar_format": form, "leave": False, "dynamic_ncols": True, "mininterval": 0}
        super().__init__(desc="judging", total=1.0, file=stream, **options)
        threading.Thread(target=self._tick, daemon=True).start()

    @property
    def format_dict(self) -> dict[str, Any]:
        return {**super().format_dict, "summary": self.summary()}

    def update_to(self, share: float) -> None:
        self.n = share
        self.refresh()

    def say(self, text: str) -> None:
        """Show a text in the place of the bar."""
        self.bar_format = "{desc}"
        width = columns(self.fp) or 80
        self.set_description_str(textwrap.shorten(text, width - 1, placeholder=" ..."))

    def close(self) -> None:
        self.closed.set()
        super().close()

    def _tick(self) -> None:
        while not self.closed.wait(1.0):
            self.refresh()


def _members(family: str) -> list[str]:
    return [name for name in REQUIREMENTS if family_of(name) == family]
