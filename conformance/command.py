"""Judges as a command: shows how far it is, and the verdict as the last thing on the screen."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import pytest
from tqdm import tqdm

from .invocation import ALONE, FOLDER
from .options import OPTIONS
from .verdict.hidden import Hidden, hidden, silence
from .verdict.progress import Progress
from .verdict.run import Run
from .verdict.terminal import columns, verdict_lines

# The words that leave the screen to the suite. With any other, the user asks for pytest's own.
_LISTING = {"--list-requirements", "--write-adapter", "--new-adapter", "--defects"}
_LONG = {*OPTIONS, "--exitfirst", "--maxfail", "--numprocesses", "--dist", "--quiet"} - _LISTING
_SHORT = re.compile("-([kmnpW].*|[xq]+)")
# States of a judgement in which pytest has nothing to fail.
_PASSED = ("no deviation found", "known deviations only", "nothing judged")


def own_screen(words: Sequence[str]) -> bool:
    """Return whether options leave the screen to the suite: none asks for pytest's own lines."""
    options = [word for word in words if word.startswith("-")]
    return all(
        word.partition("=")[0] in _LONG if word.startswith("--") else _SHORT.fullmatch(word)
        for word in options
    )


def run(adapters: Sequence[str], settings: Sequence[str], *, last: bool = False) -> int:
    """Judge, and return the exit status.

    `settings`: further words for pytest. `last`: the process ends with this, and has no more to say
    than the verdict.
    """
    implementations = [word for each in adapters for word in ("--implementation", each)]
    words = [*ALONE, str(FOLDER), *implementations, *settings]
    if not own_screen(settings):
        return int(pytest.main(words))
    quiet = any(word in ("-q", "--quiet") for word in settings)
    start = time.monotonic()
    with hidden() as screen:
        progress = None if quiet else Progress(screen.err)

        def begun(lines: list[str]) -> None:
            if progress:
                progress.add("\n".join(lines), screen.out)
            else:
                print(*lines, sep="\n", file=screen.out)

        judged = Run(progress, begun)
        try:
            status = int(pytest.main([*words, "-p", "no:faulthandler"], plugins=[judged]))
        except KeyboardInterrupt:  # before the tests, or after them
            status, judged.interrupted = int(pytest.ExitCode.INTERRUPTED), True
        finally:
            if progress:
                progress.end()
        if status == pytest.ExitCode.INTERRUPTED and judged.judgements and not judged.interrupted:
            status = int(pytest.ExitCode.TESTS_FAILED)  # -x has stopped several processes
        _show(judged, status, screen, f"After {tqdm.format_interval(time.monotonic() - start)}:")
    if last:
        silence()
    nothing = all(each.state == "nothing judged" for each in judged.judgements.values())
    return int(pytest.ExitCode.NO_TESTS_COLLECTED) if status == 0 and nothing else status


def _show(judged: Run, status: int, screen: Hidden, above: str) -> None:
    """Show the verdicts, and what pytest says where they do not say why a run has failed."""
    judgements = judged.judgements
    ended = judged.interrupted or status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    passed = all(each.state in _PASSED for each in judgements.values())
    if not judged.interrupted and (not ended or (passed and status != 0)):
        print(screen.text(), file=screen.err)
    if judged.interrupted:
        found = "this is what was found so far:" if judgements else "nothing was found so far."
        print(f"Interrupted; {found}", file=screen.err)
    if ended:
        width = columns(screen.out)
        for adapter, judgement in judgements.items():
            title = f" conformance of {adapter} ".center(width or 80, "=")
            print(title, "", *verdict_lines(judgement, width, above), sep="\n", file=screen.out)
