"""The rows as tables of words, which `report` prints as Markdown and `report_page` as HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .comparison import Comparison, Pair
from .results import Cell, Result, Shape, cells, plain_cell

NOTHING = ""  # where a row does not have what a column shows


class Table(NamedTuple):
    heading: list[str]
    rows: list[list[str]]
    words: int  # the first so many columns are words, the others numbers


class Column(NamedTuple):
    heading: str
    show: Callable[[Result], str]


def rate(value: float) -> str:
    """Three digits, and no fraction that is only noise."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def _figure(
    heading: str, *names: str, scale: float = 1.0, show: Callable[[float], str] = rate
) -> Column:
    def shown(result: Result) -> str:
        value = result.number(*names)
        return NOTHING if value is None else show(scale * value)

    return Column(heading, shown)


# Of the shape: what is the same everywhere is said once, above the table.
SHAPE_COLUMNS = {
    "size": Column("size", lambda result: result.shape.size),
    "dtype": Column("dtype", lambda result: result.shape.dtype),
    "batch": Column("batch", lambda result: str(result.shape.batch)),
    "prompt_length": Column("prompt", lambda result: str(result.shape.prompt_length)),
    "new_tokens": Column("new tokens", lambda result: str(result.shape.new_tokens)),
}
CELL_COLUMNS = (
    Column("temperature", lambda result: f"{result.cell.temperature:g}"),
    Column("top-k", lambda result: str(result.cell.top_k or "none")),
)
SPREAD = _figure("spread", "decode_spread", show="{:.0%}".format)
FIGURES = (
    _figure("decode tokens/s", "decode_tokens_per_second"),
    SPREAD,
    _figure("x Hugging Face", "ratio_to_huggingface", show="{:.2f}".format),
    _figure("% of bandwidth", "bandwidth_percent", show="{:.0f}".format),
    _figure("limit tokens/s", "ceiling_tokens_per_second"),
    _figure("end to end tokens/s", "end_to_end_tokens_per_second"),
    _figure("prefill ms", "prefill_seconds", scale=1e3),
    *(_figure(f"ms/token {name}", "ms_per_token", name) for name in ("p50", "p95", "p99")),
    _figure("sampling ms", "sampling_seconds", scale=1e3),
    _figure("load s", "load_seconds"),
    _figure("first call s", "first_call_seconds"),
    _figure("peak memory MiB", "peak_memory_bytes", scale=2**-20),
)

_ENVIRONMENT = (
    "device",
    "device_name",
    "threads",
    "platform",
    "cuda",
    "driver",
    "python",
    "torch",
    "transformers",
    "gpt2ref",
)


def standing(result: Result) -> str:
    """Whether a row counts, and how far."""
    return "unstable" if result.valid and result.unstable else "yes" if result.valid else "INVALID"


def all_rows(results: Sequence[Result]) -> Table:
    """In the order they were measured. Columns without a value are left out, and those of an equal shape."""
    varying = [
        name
        for name in Shape._fields
        if len({getattr(result.shape, name) for result in results}) > 1
    ]
    words = [
        Column("implementation", lambda result: result.implementation),
        Column("valid", standing),
    ]
    columns = [*words, *(SHAPE_COLUMNS[name] for name in varying), *CELL_COLUMNS, *FIGURES]
    shown = [[column.show(result) for result in results] for column in columns]
    kept = [
        (column.heading, values)
        for column, values in zip(columns, shown, strict=True)
        if any(values)
    ]
    rows = [list(row) for row in zip(*(values for _, values in kept), strict=True)]
    return Table([heading for heading, _ in kept], rows, len(words))


def heat(results: Sequence[Result]) -> dict[Cell, float]:
    """Decode tokens/s of each cell of one implementation and shape; what is not valid is not there."""
    return {result.cell: result.tokens_per_second for result in results if result.valid}


def axes(results: Sequence[Result]) -> tuple[list[float], list[int | None]]:
    """Temperatures and top-k of a grid, each from the strictest on."""
    there = cells(results)
    top_ks = sorted({cell.top_k for cell in there}, key=lambda top_k: top_k or math.inf)
    return sorted({cell.temperature for cell in there}), top_ks


def grid(results: Sequence[Result]) -> Table:
    """Temperature by top-k, of one implementation and shape."""
    rates = heat(results)
    temperatures, top_ks = axes(results)
    rows = []
    for temperature in temperatures:
        values = (rates.get(Cell(temperature, top_k)) for top_k in top_ks)
        rows.append(
            [f"{temperature:g}", *(NOTHING if value is None else rate(value) for value in values)]
        )
    return Table(["temperature", *(f"top-k {top_k or 'none'}" for top_k in top_ks)], rows, 1)


def greedy_rate(results: Sequence[Result]) -> float | None:
    """What the cells of one implementation and shape are compared with; None if no greedy cell counts."""
    cell = plain_cell(results)
    return heat(results).get(cell) if cell.temperature == 0 else None


def slowest(results: Sequence[Result]) -> str:
    """The slowest cell of one implementation and shape, beside greedy; nothing if there is nothing to compare."""
    rates, greedy = heat(results), greedy_rate(results)
    if greedy is None or len(rates) < 2:
        return NOTHING
    cell = min(rates, key=rates.__getitem__)
    return f"Slowest at {cell}: {rate(rates[cell])} tokens/s, {rates[cell] / greedy:.0%} of greedy."


def sweep(results: Sequence[Result], field: str) -> Table:
    """Implementation by batch or by depth of context, of one cell, with the limit below."""
    values = sorted({getattr(result.shape, field) for result in results})
    rates = {
        (result.implementation, getattr(result.shape, field)): result.tokens_per_second
        for result in results
    }
    names = list(dict.fromkeys(result.implementation for result in results))
    rows = [
        [
            name,
            *(rate(rates[name, value]) if (name, value) in rates else NOTHING for value in values),
        ]
        for name in names
    ]
    limits = ceilings(results, field)
    if limits:
        rows.append(
            [
                "bandwidth limit",
                *(rate(limits[value]) if value in limits else NOTHING for value in values),
            ]
        )
    return Table([f"{SHAPE_COLUMNS[field].heading}", *map(str, values)], rows, 1)


def ceilings(results: Sequence[Result], field: str) -> dict[int, float]:
    """Value of the field -> the roofline in tokens/s, of the implementation that needs the fewest bytes a step."""
    limits: dict[int, float] = {}
    for result in results:
        limit = result.number("ceiling_tokens_per_second")
        if limit is not None and limit > 0:
            value = getattr(result.shape, field)
            limits[value] = max(limit, limits.get(value, 0.0))
    return limits


def compared(comparison: Comparison) -> Table:
    """Row by row: what became faster or slower. Spread is that of a run's rounds, as a part of its median."""
    shapes = [pair.new.shape for pair in comparison.pairs]
    varying = [
        name for name in Shape._fields if len({getattr(shape, name) for shape in shapes}) > 1
    ]
    columns = [*(SHAPE_COLUMNS[name] for name in varying), *CELL_COLUMNS]
    figures = ["new/old", "new tokens/s", "spread", "old tokens/s", "spread"]
    heading = ["implementation", "finding", *(column.heading for column in columns), *figures]
    return Table(heading, [_compared(pair, columns) for pair in comparison.pairs], 2)


def _compared(pair: Pair, columns: Sequence[Column]) -> list[str]:
    new, old = ([rate(run.tokens_per_second), SPREAD.show(run)] for run in (pair.new, pair.old))
    finding = (
        f"{pair.finding} (unstable)" if pair.new.unstable or pair.old.unstable else pair.finding
    )
    return [
        pair.new.implementation,
        finding,
        *(column.show(pair.new) for column in columns),
        f"{pair.ratio:.3f}",
        *new,
        *old,
    ]


def conditions(results: Sequence[Result]) -> list[tuple[str, str]]:
    """What the figures depend on, and the shape where it is the same for all rows; what a file does not say is left out."""
    told = [
        (name, {str(result.row[name]) for result in results if result.row.get(name) is not None})
        for name in _ENVIRONMENT
    ]
    told.append(("commit", {commit(result) for result in results} - {NOTHING}))
    shapes = [
        (name, {str(getattr(result.shape, name)) for result in results}) for name in Shape._fields
    ]
    told += [(name, values) for name, values in shapes if len(values) == 1]
    return [(name.replace("_", " "), ", ".join(sorted(values))) for name, values in told if values]


def commit(result: Result) -> str:
    identifier = result.row.get("commit")
    return (
        f"{identifier[:12]}{' (modified)' * (result.row.get('dirty') is True)}"
        if isinstance(identifier, str)
        else NOTHING
    )


def problems(results: Sequence[Result]) -> list[str]:
    """Of the rows that do not count, or not fully: which, and why."""
    told = []
    for result in results:
        reason = result.row.get("reason" if not result.valid else "unstable")
        if not result.valid or result.unstable:
            why = f": {reason}" if isinstance(reason, str) else ""
            told.append(
                f"{standing(result)}: {result.implementation}, {result.shape}, {result.cell}{why}"
            )
    return told
