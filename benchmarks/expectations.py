"""Describe each shape before it is run: its size in memory, and its limit in tokens per second."""

from __future__ import annotations

from .limits import Bandwidth, bytes_per_step, ceiling, parameters
from .memory import needed_memory
from .plan import DTYPES, Cell, Plan
from .text_table import text_table

COLUMNS = (
    "size",
    "dtype",
    "batch",
    "prompt",
    "parameters",
    "weights",
    "bytes/step",
    "ceiling tok/s",
    "memory needed",
    "fits",
)
WORDS = ("size", "dtype", "fits")


def expectations(plan: Plan, bandwidth: Bandwidth, free: int | None) -> list[str]:
    """Return lines: the measured bandwidth and the free memory, then a table of the shapes.

    `free` is in bytes, None if it is unknown.
    """
    reading = f"{bandwidth.bytes_per_second / 1e9:.1f} GB/s ({bandwidth.how})"
    memory = "an unknown amount" if free is None else format_bytes(free)
    shapes = {cell.shape: cell for cell in plan.cells}
    return [
        f"read bandwidth of {plan.device}: {reading}; {memory} of memory free",
        *text_table(
            COLUMNS, [_line(plan, cell, bandwidth, free) for cell in shapes.values()], WORDS
        ),
    ]


def _line(plan: Plan, cell: Cell, bandwidth: Bandwidth, free: int | None) -> tuple[str, ...]:
    itemsize, needed = DTYPES[cell.dtype].itemsize, needed_memory(plan, cell)
    step = bytes_per_step(
        cell.config,
        itemsize=itemsize,
        batch=cell.batch,
        prompt_length=cell.prompt_length,
        new_tokens=plan.new_tokens,
    )
    return (
        cell.size,
        cell.dtype,
        str(cell.batch),
        str(cell.prompt_length),
        f"{parameters(cell.config) / 1e6:.1f} M",
        format_bytes(itemsize * parameters(cell.config)),
        format_bytes(step),
        f"{ceiling(step, cell.batch, bandwidth.bytes_per_second):.1f}",
        format_bytes(needed),
        "unknown" if free is None else "yes" if needed <= free else "no: skipped",
    )


def format_bytes(count: int) -> str:
    """Show a number of bytes in decimal units, in which bandwidths are given too."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
