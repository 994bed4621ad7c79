"""The verdict on one implementation, as an object."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import Any

from ..requirements import REQUIREMENTS
from ..verdict.causes import Cause
from ..verdict.findings import NOT_RUN, Finding
from ..verdict.judgement import Judgement
from ..verdict.report import report_of
from ..verdict.terminal import verdict_lines

_NUMBERS = itertools.count(1)  # so that the links of two verdicts in a notebook differ


class Verdict:
    """The verdict that `judge` returns.

    `print(verdict)` prints the text of the terminal, and a notebook shows a picture of it.
    """

    def __init__(self, judgement: Judgement, device: str, dtype: str, said: str = "") -> None:
        """`said`: what was recognised of a model that has no adapter."""
        self._judgement = judgement
        self._said = said
        self._number = next(_NUMBERS)
        self.causes: list[Cause] = judgement.causes
        """The mistakes that explain failures. `id` is a mistake's name in the catalogue."""
        self.unexplained: list[str] = judgement.unexplained
        """The failed requirements that no cause explains."""
        self.failed: dict[str, list[Finding]] = {
            name: result.failures for name, result in judgement.failed.items()
        }
        """Each failed requirement, and what its tests found."""
        self.report: dict[str, Any] = report_of([judgement], device, dtype, finished=True)
        """All of it, as the JSON of `--conformance-report`."""

    @property
    def passed(self) -> bool:
        """Return whether something was judged, and all of it is as in GPT-2."""
        return self._judgement.state == "no deviation found"

    @cached_property
    def outcomes(self) -> dict[str, str]:
        """Each requirement that was asked, with its outcome: "passed", "failed", "errored", ..."""
        outcomes = {name: self._judgement.outcome(name) for name in REQUIREMENTS}
        return {name: outcome for name, outcome in outcomes.items() if outcome != NOT_RUN}

    def sentence_of(self, requirement: str) -> str:
        """Say what decided a requirement: an empty text if it passed.

        Raises KeyError for a requirement that was not asked.
        """
        result = self._judgement.results[requirement]
        return result.decisive.sentence if result.findings and result.outcome != "passed" else ""

    def __str__(self) -> str:
        above = [self._said, ""] if self._said else []
        return "\n".join([*above, *verdict_lines(self._judgement)])

    def __repr__(self) -> str:
        return f"<{self._judgement.sentence}>"

    def _repr_html_(self) -> str:
        from ..pages.report_page import fragment  # a text needs no templates

        return fragment(self.report, self._number)
