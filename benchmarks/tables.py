"""Put results into tables of words, which `report` prints as Markdown and `speeds_page` as HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .comparison import Comparison, Pair
from .notes import notes
from .results import Result, Shape, default_sampling, samplings
from .sampling import Sampling

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


class Table(NamedTuple):
    """Texts. An empty text stands for a value that a result does not have."""

    heading: list[str]
    rows: list[list[str]]
    words: int  # how many of the first columns are words; the others are numbers


class Column(NamedTuple):
    heading: str
    show: Callable[[Result], str]


def three_digits(value: float) -> str:
    """Show a number with three digits, or all digits of its integer part if there are more."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def _figure(
    heading: str, *names: str, scale: float = 1.0, show: Callable[[float], str] = three_digits
) -> Column:
    def shown(result: Result) -> str:
        value = result.number(*names) if result.valid else None  # an invalid result has no figures
        return "" if value is None else show(scale * value)

    return Column(heading, shown)


# A column of the shape is in a table only where the shapes differ in it.
SHAPE_COLUMNS = {
    "size": Column("size", lambda result: result.shape.size),
    "dtype": Column("dtype", lambda result: result.shape.dtype),
    "batch": Column("batch", lambda result: str(result.shape.batch)),
    "prompt_length": Column("prompt", lambda result: str(result.shape.prompt_length)),
    "new_tokens": Column("new tokens", lambda result: str(result.shape.new_tokens)),
}
SAMPLING_COLUMNS = (
    Column("temperature", lambda result: f"{result.sampling.temperature:g}"),
    Column("top-k", lambda result: str(result.sampling.top_k or "none")),
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
    _figure("messages ms", "pipe_seconds", scale=1e3),
    _figure("load s", "load_seconds"),
    _figure("first call s", "first_call_seconds"),
    _figure("peak memory MiB", "peak_memory_bytes", scale=2**-20),
)


def validity(result: Result) -> str:
    """Say whether a result counts: "yes", "unstable" or "INVALID"."""
    if not result.valid:
        return "INVALID"
    return "unstable" if result.unstable else "yes"


def all_results(results: Sequence[Result]) -> Table:
    """One line for each result, in their order. A column without any value is left out."""
    columns = [
        Column("implementation", lambda result: result.implementation),
        Column("valid", validity),
        *_shape_columns([result.shape for result in results]),
        *SAMPLING_COLUMNS,
        *FIGURES,
    ]
    shown = [(column.heading, [column.show(result) for result in results]) for column in columns]
    kept = [(heading, values) for heading, values in shown if any(values)]
    rows = [list(row) for row in zip(*(values for _, values in kept), strict=True)]
    return Table([heading for heading, _ in kept], rows, words=2)


def _shape_columns(shapes: Sequence[Shape]) -> list[Column]:
    fields = [name for name in Shape._fields if len({getattr(s, name) for s in shapes}) > 1]
    return [SHAPE_COLUMNS[name] for name in fields]


# The next functions take the results of one implementation and one shape.


def rates_by_sampling(results: Sequence[Result]) -> dict[Sampling, float]:
    """Setting of the sampler -> decode tokens/s. An invalid result is left out."""
    return {result.sampling: result.tokens_per_second for result in results if result.valid}


def axes(results: Sequence[Result]) -> tuple[list[float], list[int | None]]:
    """Return the temperatures and the values of top-k, both ascending, None (no limit) last."""
    there = samplings(results)
    top_ks = sorted({each.top_k for each in there}, key=lambda top_k: top_k or math.inf)
    return sorted({each.temperature for each in there}), top_ks


def grid(results: Sequence[Result]) -> Table:
    """Temperature by top-k: decode tokens/s."""
    rates = rates_by_sampling(results)
    temperatures, top_ks = axes(results)
    rows = []
    for temperature in temperatures:
        values = [rates.get(Sampling(temperature, top_k)) for top_k in top_ks]
        rows.append([f"{temperature:g}", *map(_or_empty, values)])
    return Table(["temperature", *(f"top-k {top_k or 'none'}" for top_k in top_ks)], rows, words=1)


def greedy_rate(results: Sequence[Result]) -> float | None:
    """Return the rate with which the others are compared. None if no greedy result is valid."""
    plainest = default_sampling(results)
    return rates_by_sampling(results).get(plainest) if plainest.temperature == 0 else None


def slowest(results: Sequence[Result]) -> str:
    """Compare the slowest setting with greedy, in words. Empty if there is nothing to compare."""
    rates, greedy = rates_by_sampling(results), greedy_rate(results)
    if greedy is None or len(rates) < 2:
        return ""
    sampling = min(rates, key=rates.__getitem__)
    rate = rates[sampling]
    share = f"{rate / greedy:.0%} of greedy"
    return f"Slowest at {sampling.words}: {three_digits(rate)} tokens/s, {share}."


# The next functions take results that differ in the implementation and in one field of the shape.


def sweep(results: Sequence[Result], field: str) -> Table:
    """Implementation by the values of the field: decode tokens/s. The last line is the limit."""
    values = sorted({getattr(result.shape, field) for result in results})
    rates: dict[str, dict[int, float]] = {}
    for result in results:
        value = getattr(result.shape, field)
        rates.setdefault(result.implementation, {})[value] = result.tokens_per_second
    if limit := limits(results, field):
        rates["bandwidth limit"] = limit
    rows = [[name, *(_or_empty(own.get(value)) for value in values)] for name, own in rates.items()]
    return Table([SHAPE_COLUMNS[field].heading, *map(str, values)], rows, words=1)


def limits(results: Sequence[Result], field: str) -> dict[int, float]:
    """Value of the field -> the most tokens/s that the memory bandwidth allows.

    The implementation that needs the fewest bytes a step sets the limit.
    """
    limits: dict[int, float] = {}
    for result in results:
        limit = result.number("ceiling_tokens_per_second")
        if limit is not None and limit > 0:
            value = getattr(result.shape, field)
            limits[value] = max(limit, limits.get(value, 0.0))
    return limits


def _or_empty(rate: float | None) -> str:
    return "" if rate is None else three_digits(rate)


def compared(comparison: Comparison) -> Table:
    """One line for each pair. A spread is that of a run's rounds, as a part of their median."""
    shape_columns = _shape_columns([pair.new.shape for pair in comparison.pairs])
    columns = [*shape_columns, *SAMPLING_COLUMNS]
    figures = ["new/old", "new tokens/s", "spread", "old tokens/s", "spread"]
    heading = ["implementation", "finding", *(column.heading for column in columns), *figures]
    return Table(heading, [_compared(pair, columns) for pair in comparison.pairs], words=2)


def _compared(pair: Pair, columns: Sequence[Column]) -> list[str]:
    runs = (pair.new, pair.old)
    figures = [[three_digits(run.tokens_per_second), SPREAD.show(run)] for run in runs]
    unstable = " (unstable)" if any(run.unstable for run in runs) else ""
    shape = [column.show(pair.new) for column in columns]
    finding = f"{pair.finding}{unstable}"
    return [pair.new.implementation, finding, *shape, f"{pair.ratio:.3f}", *figures[0], *figures[1]]


def conditions(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Name and value of what the figures depend on, and of the fields that all shapes share.

    What a file does not have is left out.
    """
    found = {name: {_field(result, name) for result in results} for name in _ENVIRONMENT}
    found["commit"] = {_commit(result) for result in results}
    for name in Shape._fields:
        values = {str(getattr(result.shape, name)) for result in results}
        found |= {name: values} if len(values) == 1 else {}
    known = [(name, sorted(values - {""})) for name, values in found.items()]
    return [(name.replace("_", " "), ", ".join(values)) for name, values in known if values]


def commits(results: Sequence[Result]) -> str:
    """Return the commits that were measured."""
    return ", ".join(sorted({*map(_commit, results)} - {""})) or "unknown"


def _field(result: Result, name: str) -> str:
    value = result.fields.get(name)
    return "" if value is None else str(value)


def _commit(result: Result) -> str:
    identifier = result.fields.get("commit")
    modified = " (modified)" if result.fields.get("dirty") is True else ""
    return f"{identifier[:12]}{modified}" if isinstance(identifier, str) else ""


def how_run(results: Sequence[Result]) -> list[str]:
    """Say which implementations ran in another loop than their own."""
    return notes([result.fields for result in results])


def problems(results: Sequence[Result]) -> list[str]:
    """Name the results that are invalid or unstable, and the reason if the file has one."""
    lines = []
    for result in results:
        reason = result.fields.get("unstable" if result.valid else "reason")
        if not result.valid or result.unstable:
            why = f": {reason}" if isinstance(reason, str) else ""
            lines.append(f"{validity(result)}: {result.name}{why}")
    return lines
