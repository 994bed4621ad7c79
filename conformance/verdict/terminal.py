"""The verdict on one implementation as lines for a terminal.

One line for each family of requirements, then one paragraph for each cause, however many
requirements fail because of it.
"""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TextIO

from ..chosen import left_out
from ..requirements import REQUIREMENTS
from .causes import Cause
from .findings import ERRORED, FAILED, KNOWN, NOT_APPLICABLE, NOT_RUN, PASSED, VARIANT, Finding
from .judgement import Judgement, counted

_PAGE = 110  # columns where there is no terminal
_NARROWEST, _WIDEST = 40, 120  # columns of a text on a terminal
_FURTHER_LINES = 7  # of a finding: enough for the end of a program's standard error


def verdict_lines(judgement: Judgement, width: int | None = None, above: str = "") -> list[str]:
    """Return the verdict as lines, the last of which is its sentence.

    `width`: the columns of a terminal. Without them, paragraphs have those of a page, and the
    sentence is one line. `above`: a line above the sentence.
    """
    sentence = wrapped(judgement.sentence, width)
    return [*_Text(judgement, width).lines(), *([above] if above else []), *sentence]


def wrapped(text: str, width: int | None) -> list[str]:
    """Return the lines of a text, each of them wrapped to the columns of a terminal."""
    lines = text.splitlines()
    if width is None:
        return lines
    cut = (textwrap.wrap(line, width, break_on_hyphens=False) or [""] for line in lines)
    return [line for each in cut for line in each]


def columns(stream: TextIO) -> int | None:
    """Return how wide a text may be on the terminal that a stream writes to, if it does."""
    if not stream.isatty():
        return None
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError, AttributeError):  # what says that it is one, and is none
        width = 0
    return min(max(width, _NARROWEST), _WIDEST) if width else 80


class _Text:
    """The text above a verdict's sentence, wrapped to a width."""

    def __init__(self, judgement: Judgement, columns: int | None) -> None:
        """`columns`: those of a terminal, if there is one."""
        self.judgement, self.columns, self.width = judgement, columns, columns or _PAGE

    def lines(self) -> list[str]:
        judgement = self.judgement
        ran = [name for name in REQUIREMENTS if judgement.outcome(name) != NOT_RUN]
        lines = [
            f"{family:12} {counted(Counter(map(judgement.outcome, names)))}"
            for family, names in _families(ran).items()
        ]
        if judgement.broken is not None:
            return [*lines, "", *wrapped(judgement.broken, self.columns), ""]
        for cause in judgement.causes:
            lines += ["", *self._cause(cause)]
        if judgement.together:
            others = ", ".join(name for name in REQUIREMENTS if name in judgement.together)
            lines += [
                "",
                *self._wrapped("", f"A GPT-2 with all these causes fails these too: {others}"),
            ]
        lines += self._diagnosis()
        if judgement.causes:
            lines += self._also_failed(judgement.unexplained)
        for names in self._alike():
            lines += ["", *self._paragraph(names, judgement.results[names[0]].decisive)]
        for test in judgement.crashed:
            lines += ["", *wrapped(f"{test}: the process ended in this test", self.columns)]
        for name in judgement.stale:
            lines += [
                "",
                *wrapped(f"{name}: this known deviation no longer occurs: remove it", self.columns),
            ]
        if judgement.quick:
            lines += ["", *wrapped(f"Left out by --quick: {left_out(ran)}", self.columns)]
        return [*lines, ""]

    def _cause(self, cause: Cause) -> Iterator[str]:
        """Show the first requirement that a cause explains, then the cause, then the others."""
        if cause.finding:
            yield from self._paragraph(cause.explains[:1], cause.finding)
        known = f": {cause.what} ({cause.source})" if cause.what else ""
        yield from self._wrapped("likely: " if cause.likely else "cause: ", f"{cause.id}{known}")
        if cause.places:
            yield from self._wrapped("look at: ", "; ".join(cause.places))
        if cause.alternatives:
            yield from self._wrapped("or: ", ", or ".join(cause.alternatives))
        if others := cause.explains[1:]:
            failures = _plural(len(others), "more failure")
            yield from self._wrapped("", f"{cause.id} explains {failures}: {', '.join(others)}")
        if not cause.explains:
            yield from self._wrapped(
                "", f"It explains no failure of its own; it was read from: {cause.question}"
            )

    def _diagnosis(self) -> Iterator[str]:
        if self.judgement.undiagnosed:
            yield ""
            yield from self._wrapped("", f"No diagnosis: {self.judgement.undiagnosed}")
        if self.judgement.diagnosis is not None:
            yield ""
            yield from self._wrapped("", str(self.judgement.diagnosis))

    def _also_failed(self, names: list[str]) -> Iterator[str]:
        if names:
            yield ""
            yield "Also failed; run again after fixing the cause above:"
        for family, members in _families(names).items():
            short = ", ".join(REQUIREMENTS[name].name for name in members)
            line = f"{family} {len(members)}: {short}"
            yield "    " + textwrap.shorten(line, self.width - 4, placeholder=" ...")

    def _alike(self) -> Iterable[list[str]]:
        """Group the requirements that have the same to say, of those that no cause speaks for."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for name in REQUIREMENTS:
            outcome = self.judgement.outcome(name)
            if outcome in (PASSED, NOT_RUN) or (outcome == FAILED and self.judgement.causes):
                continue
            reason = name if outcome == KNOWN else ""
            key = (outcome, self.judgement.results[name].decisive.sentence, reason)
            groups.setdefault(key, []).append(name)
        return groups.values()

    def _paragraph(self, names: list[str], finding: Finding) -> Iterator[str]:
        """Show what the first requirement asks, what was found, and how to see it again.

        The others, which have the same finding, follow by name.
        """
        name, *others = names
        outcome = finding.outcome
        found = finding.sentence.strip().splitlines() or ["(no message)"]
        yield f"{name}: {outcome.upper() if outcome in (FAILED, ERRORED) else outcome}"
        if outcome in (NOT_APPLICABLE, VARIANT):
            yield from self._wrapped("", found[0])
        else:
            if outcome == KNOWN:
                yield from self._wrapped("known: ", str(self.judgement.known[name]))
            yield from self._wrapped("asked: ", REQUIREMENTS[name].sentence)
            yield from self._wrapped("found: ", found[0])
            yield from (f"           {line}" for line in found[1 : 1 + _FURTHER_LINES])
            yield f"    again: {self.judgement.again(name, finding.test)}"
        if others:
            more = _plural(len(others), "more failure" if outcome == FAILED else "more requirement")
            yield from self._wrapped("", f"The same for {more}: {', '.join(others)}")

    def _wrapped(self, label: str, text: str) -> list[str]:
        """Wrap a paragraph of the finding above it."""
        return textwrap.wrap(
            label + text,
            self.width,
            initial_indent="    ",
            subsequent_indent=" " * (4 + len(label)),
            break_on_hyphens=False,
        )


def _families(names: Iterable[str]) -> dict[str, list[str]]:
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(REQUIREMENTS[name].family, []).append(name)
    return families


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"
