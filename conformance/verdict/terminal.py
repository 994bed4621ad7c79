"""The verdict on one implementation as lines for a terminal.

One line for each family of requirements, then one paragraph for each cause, however many
requirements fail because of it.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator

from ..chosen import left_out
from ..requirements import REQUIREMENTS
from .causes import Cause
from .findings import ERRORED, FAILED, KNOWN, NOT_APPLICABLE, NOT_RUN, PASSED, VARIANT, Finding
from .judgement import Judgement, counted

WIDTH = 110  # columns
_FURTHER_LINES = 7  # of a finding: enough for the end of a program's standard error


def verdict_lines(judgement: Judgement) -> list[str]:
    ran = [name for name in REQUIREMENTS if judgement.outcome(name) != NOT_RUN]
    lines = [
        f"{family:12} {counted(Counter(map(judgement.outcome, names)))}"
        for family, names in _families(ran).items()
    ]
    if judgement.broken is not None:
        return [*lines, "", judgement.broken, "", judgement.sentence]
    for cause in judgement.causes:
        lines += ["", *_cause(judgement, cause)]
    if judgement.together:
        others = ", ".join(name for name in REQUIREMENTS if name in judgement.together)
        lines += ["", *_wrapped("", f"A GPT-2 with all these causes fails these too: {others}")]
    lines += _diagnosis(judgement)
    if judgement.causes:
        lines += _also_failed(judgement.unexplained)
    for names in _alike(judgement):
        lines += ["", *_paragraph(judgement, names, judgement.results[names[0]].decisive)]
    for name in judgement.stale:
        lines += ["", f"{name}: this known deviation no longer occurs: remove it"]
    if judgement.quick:
        lines += ["", f"Left out by --quick: {left_out(ran)}"]
    return [*lines, "", judgement.sentence]


def _cause(judgement: Judgement, cause: Cause) -> Iterator[str]:
    """Show the first requirement that a cause explains, then the cause, then the others."""
    if cause.finding:
        yield from _paragraph(judgement, cause.explains[:1], cause.finding)
    known = f": {cause.what} ({cause.source})" if cause.what else ""
    yield from _wrapped("likely: " if cause.likely else "cause: ", f"{cause.id}{known}")
    if cause.places:
        yield from _wrapped("look at: ", "; ".join(cause.places))
    if cause.alternatives:
        yield from _wrapped("or: ", ", or ".join(cause.alternatives))
    if others := cause.explains[1:]:
        failures = _plural(len(others), "more failure")
        yield from _wrapped("", f"{cause.id} explains {failures}: {', '.join(others)}")
    if not cause.explains:
        yield from _wrapped("", f"No requirement failed by it; it was read from: {cause.question}")


def _diagnosis(judgement: Judgement) -> Iterator[str]:
    if judgement.undiagnosed:
        yield ""
        yield from _wrapped("", f"No diagnosis: {judgement.undiagnosed}")
    if judgement.diagnosis is not None:
        yield ""
        yield from _wrapped("", str(judgement.diagnosis))


def _also_failed(names: list[str]) -> Iterator[str]:
    if names:
        yield ""
        yield "Also failed; run again after fixing the cause above:"
    for family, members in _families(names).items():
        short = ", ".join(REQUIREMENTS[name].name for name in members)
        line = f"{family} {len(members)}: {short}"
        yield "    " + textwrap.shorten(line, WIDTH - 4, placeholder=" ...")


def _alike(judgement: Judgement) -> Iterable[list[str]]:
    """Group the requirements that have the same to say, of those that no cause speaks for."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in REQUIREMENTS:
        outcome = judgement.outcome(name)
        if outcome in (PASSED, NOT_RUN) or (outcome == FAILED and judgement.causes):
            continue
        reason = name if outcome == KNOWN else ""
        key = (outcome, judgement.results[name].decisive.sentence, reason)
        groups.setdefault(key, []).append(name)
    return groups.values()


def _paragraph(judgement: Judgement, names: list[str], finding: Finding) -> Iterator[str]:
    """Show what the first requirement asks, what was found, and how to see it again.

    The others, which have the same finding, follow by name.
    """
    name, *others = names
    outcome = finding.outcome
    found = finding.sentence.strip().splitlines() or ["(no message)"]
    yield f"{name}: {outcome.upper() if outcome in (FAILED, ERRORED) else outcome}"
    if outcome in (NOT_APPLICABLE, VARIANT):
        yield from _wrapped("", found[0])
    else:
        if outcome == KNOWN:
            yield from _wrapped("known: ", str(judgement.known[name]))
        yield from _wrapped("asked: ", REQUIREMENTS[name].sentence)
        yield from _wrapped("found: ", found[0])
        yield from (f"           {line}" for line in found[1 : 1 + _FURTHER_LINES])
        yield f"    again: {judgement.again(name, finding.test)}"
    if others:
        more = _plural(len(others), "more failure" if outcome == FAILED else "more requirement")
        yield from _wrapped("", f"The same for {more}: {', '.join(others)}")


def _families(names: Iterable[str]) -> dict[str, list[str]]:
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(REQUIREMENTS[name].family, []).append(name)
    return families


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def _wrapped(label: str, text: str) -> list[str]:
    indent = " " * (4 + len(label))
    return textwrap.wrap(
        label + text, WIDTH, initial_indent="    ", subsequent_indent=indent, break_on_hyphens=False
    )
