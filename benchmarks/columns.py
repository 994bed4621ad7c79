"""Aligned columns for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def aligned(
    columns: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[str]
) -> list[str]:
    """A line of column names, then a line for each row. The columns named in `words` go to the left, the others right."""
    lines = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def align(text: str, width: int, column: str) -> str:
        return text.ljust(width) if column in words else text.rjust(width)

    return ["  ".join(map(align, line, widths, columns)).rstrip() for line in lines]
