"""How a test of the suite ends when it does not pass, as types with fields.

Tests and adapters raise them. The plugin maps them to pytest's outcomes (verdict/plugin.py). A
verdict, a report and a diagnosis read the fields; no text is read back.
"""

from __future__ import annotations


class Outcome(Exception):  # noqa: N818 - not an error of the suite
    """Ends a test with something other than *passed*."""


class NotApplicable(Outcome):
    """The implementation can't be asked this. The argument says why."""


class Variant(Outcome):
    """The implementation does what another source does: no mistake. The argument says what."""


class Failure(Outcome):
    """The implementation's answer is wrong.

    `read`: what was found, in words. `expected`: what GPT-2 has instead, unless `read` says it.
    `mistakes`: the ids of the catalogue's entries that give this very answer. `own`: whether they
    are mistakes of the fact that the requirement is about, and not others that spoil its answer.
    """

    def __init__(
        self,
        read: str,
        *,
        expected: str = "",
        mistakes: tuple[str, ...] = (),
        own: bool = False,
    ) -> None:
        super().__init__(read)
        self.read = read
        self.expected = expected
        self.mistakes = mistakes
        self.own = own

    def __str__(self) -> str:
        return sentence(self.read, self.expected)


def sentence(read: str, expected: str) -> str:
    """Say in one sentence what was read and what GPT-2 has instead; `expected` may be empty."""
    return f"reads {read}; GPT-2 has {expected}" if expected else read


def check(holds: bool, read: str, *, expected: str = "") -> None:
    """Raise a Failure unless `holds`. Unlike `assert`, it reports these words alone."""
    __tracebackhide__ = True
    if not holds:
        raise Failure(read, expected=expected)
