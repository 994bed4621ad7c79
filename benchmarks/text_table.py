"""Align a table for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def text_table(
    heading: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[str]
) -> list[str]:
    """Return the lines of a table. Columns whose heading is in `words` are aligned to the left."""
    lines = [heading, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def align(text: str, width: int, column: str) -> str:
        return text.ljust(width) if column in words else text.rjust(width)

    return ["  ".join(map(align, line, widths, heading)).rstrip() for line in lines]
