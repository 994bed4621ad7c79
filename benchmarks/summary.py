"""The rows as a table for the terminal, peers side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from .columns import aligned
from .timing import UNSTABLE

AnyRow = dict[str, Any]  # a row.Row while it is being put together

# Column -> how a row fills it. The first four are left out where all rows say the same, which the first line then says.
AXES: dict[str, Callable[[AnyRow], str]] = {
    "size": lambda row: row["size"],
    "dtype": lambda row: row["dtype"],
    "batch": lambda row: str(row["batch"]),
    "prompt": lambda row: str(row["prompt_length"]),
}
FIGURES: dict[str, Callable[[AnyRow], str]] = {
    "temp": lambda row: f"{row['temperature']:g}",
    "top-k": lambda row: str(row["top_k"] or "-"),
    "implementation": lambda row: row["implementation"],
    "decode tok/s": lambda row: f"{row['decode_tokens_per_second']:.1f}",
    "spread": lambda row: f"{row['decode_spread']:.0%}{'!' if row['unstable'] else ' '}",
    "x HF": lambda row: _or_dash(row["ratio_to_huggingface"], ".2f"),
    "% limit": lambda row: f"{row['bandwidth_percent']:.0f}",
    "prefill ms": lambda row: f"{1e3 * row['prefill_seconds']:.1f}",
    "ms/token p50": lambda row: f"{row['ms_per_token']['p50']:.2f}",
    "p95": lambda row: f"{row['ms_per_token']['p95']:.2f}",
    "valid": lambda row: "yes" if row["valid"] else "NO",
}
WORDS = ("size", "dtype", "implementation", "valid")
START = ("size", "dtype", "implementation", "load s", "first call s", "peak memory MB")


def summary(rows: Sequence[AnyRow]) -> list[str]:
    """Lines: what is the same for all rows, a row each, what the marks mean, the costs of a start, why rows are invalid."""
    varying = {name: fill for name, fill in AXES.items() if len({fill(row) for row in rows}) > 1}
    columns = varying | FIGURES
    cells = [[fill(row) for fill in columns.values()] for row in rows]
    unstable = [
        f"! unstable: the rounds' interquartile range is above {UNSTABLE:.0%} of their median"
    ]
    return [
        _conditions(rows[0], varying),
        _limit(rows),
        "",
        *aligned(tuple(columns), cells, WORDS),
        *(unstable if any(row["unstable"] for row in rows) else []),
        "",
        *_starts(rows),
        *[f"invalid: {_setting(row)}: {row['reason']}" for row in rows if row["reason"]],
    ]


def _conditions(row: AnyRow, varying: dict[str, Callable[[AnyRow], str]]) -> str:
    words = {"size": "{}", "dtype": "{}", "batch": "batch {}", "prompt": "prompt {}"}
    fixed = [words[name].format(fill(row)) for name, fill in AXES.items() if name not in varying]
    told = [
        f"{row['device']} ({row['device_name']})",
        f"{row['threads']} thread{'s' * (row['threads'] != 1)}",
        *fixed,
    ]
    return f"{', '.join(told)}, {row['new_tokens']} new tokens, {row['rounds']} rounds in turns"


def _limit(rows: Sequence[AnyRow]) -> str:
    measured = sorted(each / 1e9 for row in rows for each in row["bandwidth_rounds"])
    spread = f"{measured[0]:.1f} to {measured[-1]:.1f}"
    return f"limit: {median(measured):.1f} GB/s of memory bandwidth, measured before every round: {spread}"


def _starts(rows: Sequence[AnyRow]) -> list[str]:
    """Once for each implementation on each weights: what comes before the first row."""
    first = {(row["size"], row["dtype"], row["implementation"]): row for row in reversed(rows)}
    cells = [
        (
            *key,
            f"{row['load_seconds']:.2f}",
            _or_dash(row["first_call_seconds"], ".2f"),
            "-" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 1e6:.0f}",
        )
        for key, row in reversed(first.items())
    ]
    return aligned(START, cells, WORDS)


def _setting(row: AnyRow) -> str:
    where = ", ".join(
        [row["size"], row["dtype"], f"batch {row['batch']}", f"prompt {row['prompt_length']}"]
    )
    return f"{row['implementation']}, {where}, temperature {row['temperature']:g}, top-k {row['top_k'] or '-'}"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
