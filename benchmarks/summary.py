"""The rows as a table for the terminal, peers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]  # a test's extra_info

COLUMNS = (
    "size",
    "temperature",
    "top-k",
    "implementation",
    "decode tok/s",
    "spread",
    "prefill ms",
    "ms/token p50",
    "p95",
    "valid",
)
TEXT = ("size", "implementation", "valid")  # columns of words


def summary(rows: Sequence[Row]) -> list[str]:
    """Lines: the conditions, which are the same for all rows, then a row each, then why the invalid ones are invalid."""
    cells = [COLUMNS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    table = ["  ".join(map(_align, line, widths, COLUMNS)).rstrip() for line in cells]
    invalid = [
        f"invalid: {row['size']} {row['implementation']} {_setting(row)}: {row['reason']}" for row in rows if row["reason"]
    ]
    return [_conditions(rows[0]), "", *table, *invalid]


def _conditions(row: Row) -> str:
    return (
        f"{row['device']} ({row['device_name']}), {row['dtype']}, {row['threads']} threads, batch {row['batch']}, "
        f"prompt {row['prompt_length']}, {row['new_tokens']} new tokens, {row['rounds']} rounds"
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row["size"],
        f"{row['temperature']:g}",
        str(row["top_k"] or "-"),
        row["implementation"],
        f"{row['decode_tokens_per_second']:.1f}",
        f"{row['decode_spread']:.0%}",
        f"{1e3 * row['prefill_seconds']:.1f}",
        f"{row['ms_per_token']['p50']:.2f}",
        f"{row['ms_per_token']['p95']:.2f}",
        "yes" if row["valid"] else "NO",
    )


def _setting(row: Row) -> str:
    return f"temperature {row['temperature']:g} top-k {row['top_k'] or '-'}"


def _align(text: str, width: int, column: str) -> str:
    """Words to the left, numbers to the right."""
    return text.ljust(width) if column in TEXT else text.rjust(width)
