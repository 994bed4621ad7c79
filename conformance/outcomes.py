"""What a test of the suite can come to, as types: tests and adapters raise them, with fields.

The plugin maps them to pytest's own outcomes, once. No text is read back: what a verdict, a report or
a diagnosis needs is in the fields, and the sentence a person reads is made of them here.
"""

from __future__ import annotations


class Outcome(Exception):  # noqa: N818 - not an error of the suite
    """Ends a test with something other than *passed*."""


class NotApplicable(Outcome):
    """The implementation can't be asked this. The argument says why."""


class Variant(Outcome):
    """The implementation does as another source does, which is no mistake. The argument says what."""


class Failure(Outcome):
    """The implementation's answer is wrong.

    `read`: what was found, in words. `expected`: what GPT-2 has instead, if that is not in `read`.
    `mistakes`: ids of the catalogue's entries that give just this answer. `own`: whether they are
    mistakes of the fact that the requirement is about; else they only spoil its answer.
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
        return f"reads {self.read}; GPT-2 has {self.expected}" if self.expected else self.read
