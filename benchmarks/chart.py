"""Tokens per second as inline SVG: a heat map, bars with their rounds, and lines under a roofline. Colours are the page's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from conformance.pages.chart import LEFT, RIGHT, WIDTH, Panel
from conformance.pages.report_page import text

from .results import Cell, Result
from .tables import NOTHING, axes, ceilings, greedy_rate, heat, rate, standing

_FULL_LOSS = 0.5  # what a cell has lost against greedy when it has the strongest colour
_BARS_WIDTH, _NAMES, _FIGURES, _BAR = (
    760,
    130,
    275,
    30,
)  # of the drawing, its left and right column, and the height of a bar


def heat_svg(results: Sequence[Result], label: str) -> str:
    """Temperature by top-k, of one implementation and shape: tokens/s, and the per cent of greedy, which is the colour."""
    temperatures, top_ks = axes(results)
    left, top, wide, high = 62, 40, 84, 42
    svg = [
        f'<svg class="heat" viewBox="0 0 {left + wide * len(top_ks)} {top + high * len(temperatures)}" '
    ]
    svg += [
        f'style="max-width:{left + wide * len(top_ks)}px" role="img" aria-label="{text(label)}">'
    ]
    svg += [
        f'<text x="{left - 8}" y="{y}" text-anchor="end">{axis}</text>'
        for axis, y in (("top-k", 14), ("temp.", 32))
    ]
    for column, top_k in enumerate(top_ks):
        svg.append(
            f'<text x="{left + wide * (column + 0.5):g}" y="14" text-anchor="middle">{top_k or "none"}</text>'
        )
    for line, temperature in enumerate(temperatures):
        y = top + high * line
        svg.append(
            f'<text x="{left - 8}" y="{y + high / 2 + 4:g}" text-anchor="end">{temperature:g}</text>'
        )
        for column, top_k in enumerate(top_ks):
            box = f'x="{left + wide * column + 1}" y="{y + 1}" width="{wide - 2}" height="{high - 2}" rx="3"'
            svg += _heat_cell(
                results, Cell(temperature, top_k), box, left + wide * (column + 0.5), y + high / 2
            )
    return "".join([*svg, "</svg>"])


def _heat_cell(
    results: Sequence[Result], cell: Cell, box: str, x: float, y: float
) -> Iterator[str]:
    rates = heat(results)
    if cell not in rates:
        word = "invalid" if any(result.cell == cell for result in results) else "not run"
        yield f'<rect class="void" {box}/><text x="{x:g}" y="{y + 4:g}" text-anchor="middle">{word}</text>'
        return
    greedy = greedy_rate(results)
    share = rates[cell] / greedy if greedy else 1.0
    loss = min(max(1 - share, 0.0) / _FULL_LOSS, 1.0)
    unstable = any(result.cell == cell and result.unstable for result in results)
    yield f'<rect class="cell" {box}/><rect class="loss" {box} fill-opacity="{0.6 * loss:.3f}"/>'
    yield f'<text class="value" x="{x:g}" y="{y:g}" text-anchor="middle">{rate(rates[cell])}{"*" if unstable else ""}</text>'
    yield (
        f'<text x="{x:g}" y="{y + 14:g}" text-anchor="middle">{share:.0%}</text>' if greedy else ""
    )


def bars_svg(results: Sequence[Result], series: Mapping[str, int], label: str) -> str:
    """Implementations in one cell and shape: the median round, the reach of the rounds, each of them, and what is beside it."""
    most = max(
        (max(*result.rates, result.tokens_per_second) for result in results if result.valid),
        default=1.0,
    )
    right, bottom = _BARS_WIDTH - _FIGURES, 8 + _BAR * len(results)

    def at(tokens_per_second: float) -> float:
        return round(_NAMES + tokens_per_second / most * (right - _NAMES), 1)

    svg = [f'<svg viewBox="0 0 {_BARS_WIDTH} {bottom + 24}" role="img" aria-label="{text(label)}">']
    for value in _steps(most):
        svg.append(f'<line class="tick" x1="{at(value)}" x2="{at(value)}" y1="4" y2="{bottom}"/>')
        svg.append(
            f'<text x="{at(value)}" y="{bottom + 16}" text-anchor="middle">{value:,.4g}</text>'
        )
    svg.append(
        f'<text x="{_BARS_WIDTH}" y="{bottom + 16}" text-anchor="end">decode tokens/s</text>'
    )
    for line, result in enumerate(results):
        y = 8 + _BAR * (line + 0.5)
        name = (
            result.implementation
            if len(result.implementation) <= 18
            else result.implementation[:17] + "…"
        )
        svg.append(
            f'<text class="title" x="{_NAMES - 8}" y="{y + 4:g}" text-anchor="end">{text(name)}'
        )
        svg.append(f"<title>{text(result.implementation)}</title></text>")
        if not result.valid:
            svg.append(
                f'<text class="invalid" x="{_NAMES + 6}" y="{y + 4:g}">invalid: not ranked</text>'
            )
            continue
        svg.append(f'<g class="s{series[result.implementation]}">')
        svg.append(
            f'<rect class="bar-fill" x="{_NAMES}" y="{y - 9:g}" width="{at(result.tokens_per_second) - _NAMES:.1f}" '
        )
        svg += [
            f'height="18"/><path class="whisker" d="{_whisker(at(min(result.rates)), at(max(result.rates)), y)}"/>'
        ]
        svg += [
            f'<circle class="round" cx="{at(each)}" cy="{y:g}" r="2.2"/>' for each in result.rates
        ]
        svg.append(f'</g><text x="{right + 12}" y="{y + 4:g}">{_beside(result)}</text>')
    return "".join([*svg, "</svg>"])


def _whisker(low: float, high: float, y: float) -> str:
    return f"M{low} {y - 6:g}V{y + 6:g}M{low} {y:g}H{high}M{high} {y - 6:g}V{y + 6:g}"


def _beside(result: Result) -> str:
    ratio, bandwidth = result.number("ratio_to_huggingface"), result.number("bandwidth_percent")
    return " · ".join(
        filter(
            None,
            [
                f'<tspan class="value">{rate(result.tokens_per_second)}</tspan>',
                NOTHING if ratio is None else f"{ratio:.2f}x HF",
                NOTHING if bandwidth is None else f"{bandwidth:.0f}% bw",
                f'<tspan class="unstable">{standing(result)}</tspan>'
                if result.unstable
                else NOTHING,
            ],
        )
    )


def sweep_svg(results: Sequence[Result], field: str, series: Mapping[str, int], label: str) -> str:
    """Tokens/s of one cell over batch or prompt length, both logarithmic: a line each, dots for rounds, and the roofline."""
    limits = sorted(ceilings(results, field).items())
    values = sorted({getattr(result.shape, field) for result in results})
    rates = [each for result in results for each in result.rates] + [limit for _, limit in limits]
    low, high = math.log10(min(rates)), math.log10(max(rates))
    above = max(
        0.08 * (high - low), (math.log10(4) - (high - low)) / 2
    )  # a factor of four at least, not to magnify noise
    first, last = math.log2(values[0]), math.log2(values[-1])
    beside = 0.06 * (last - first)
    panel = Panel(24, 230, (first - beside, last + beside), (low - above, high + above))
    return "".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {panel.top + panel.height + 40:g}" role="img" aria-label="{text(label)}">',
            *_frame(panel, values, field.replace("_", " ")),
            panel.line(
                [(math.log2(value), math.log10(limit)) for value, limit in limits], "ceiling"
            ),
            *_lines(results, field, series, panel),
            "</svg>",
        ]
    )


def _frame(panel: Panel, values: Sequence[int], axis: str) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, panel.top + panel.height
    yield f'<rect class="frame" x="{LEFT}" y="{panel.top}" width="{right - LEFT}" height="{panel.height}"/>'
    yield f'<text class="title" x="{LEFT}" y="{panel.top - 7}">decode tokens/s</text>'
    yield f'<text class="title" x="{right}" y="{bottom + 34}" text-anchor="end">{axis}</text>'
    for value in _decades(*panel.y):
        y = panel.at(0, math.log10(value))[1]
        yield f'<line class="tick" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:g}" text-anchor="end">{value:,.4g}</text>'
    for value in values:
        x = panel.at(math.log2(value), 0)[0]
        yield f'<line class="tick" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{value}</text>'


def _lines(
    results: Sequence[Result], field: str, series: Mapping[str, int], panel: Panel
) -> Iterator[str]:
    for name in dict.fromkeys(result.implementation for result in results):
        own = sorted(
            (getattr(r.shape, field), r.tokens_per_second, r.rates)
            for r in results
            if r.implementation == name
        )
        yield f'<g class="s{series[name]}">'
        yield panel.line(
            [(math.log2(value), math.log10(median)) for value, median, _ in own], "series"
        )
        for value, _, rounds in own:
            for each in rounds:
                x, y = panel.at(math.log2(value), math.log10(each))
                yield f'<circle class="round" cx="{x}" cy="{y}" r="2.6"/>'
        yield "</g>"


def _steps(most: float) -> list[float]:
    """Round numbers from 0 to `most`, five or so."""
    power = 10.0 ** math.floor(math.log10(most / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= most / 5)
    return [step * n for n in range(math.floor(most / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten: the fewer decades there are, the more of each."""
    factors = (1, 1.5, 2, 3, 5, 7) if high - low < 1 else (1, 2, 5) if high - low < 2.5 else (1,)
    every = [
        factor * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for factor in factors
    ]
    return [value for value in every if low <= math.log10(value) <= high]
