"""The report as a page to read and to publish: one HTML file with its style and its drawings inside, and no script.

All text of a file is escaped: names of implementations and the reasons why a row is invalid are anybody's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import conformance.pages.report_page
from conformance.pages.report_page import text

from .chart import bars_svg, heat_svg, sweep_svg
from .comparison import FASTER, NO_DIFFERENCE, SLOWER, Comparison
from .results import Result, by_implementation, by_shape, cells, plain_cell, sweeps
from .tables import Table, all_rows, ceilings, commit, compared, conditions, problems, slowest

TITLE = "GPT-2 generation speed"
SERIES = 6  # colours of report_page.css
SWEEPS = {
    "batch": "batch",
    "prompt_length": "depth of context",
}  # fields of Shape that are drawn along an axis

TONES = {
    "INVALID": "invalid",
    "unstable": "unstable",
    FASTER: "faster",
    SLOWER: "slower",
}  # how a cell begins -> its class


def style() -> str:
    files = (
        Path(conformance.pages.report_page.__file__).with_name("report_page.css"),
        Path(__file__).with_name("report_page.css"),
    )
    return "".join(path.read_text(encoding="utf-8") for path in files)


def series_of(results: Sequence[Result]) -> dict[str, int]:
    """A colour for each implementation."""
    return {name: number % SERIES for number, name in enumerate(by_implementation(results))}


def picture(results: Sequence[Result]) -> str:
    """The bars of the first shape's plainest cell, as an SVG file of its own."""
    shape, group = next(iter(by_shape(results).items()))
    rows = [result for result in group if result.cell == plain_cell(group)]
    drawn = bars_svg(rows, series_of(results), f"tokens per second at {rows[0].cell}, {shape}")
    head, _, body = drawn.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"><style>{style()}</style>{body}\n'


def page(results: Sequence[Result], comparison: Comparison | None = None) -> str:
    series = series_of(results)
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>{TITLE}</title>\n<style>\n{style()}</style>\n</head>",
            "<body>\n<main class='speeds'>",
            *_summary(results),
            *(_comparison(comparison) if comparison else ()),
            *_sweeps(results, series),
            *_shapes(results, series),
            "<h2>All rows</h2><p class='lead'>Medians over rounds, in the order in which they were measured. Spread is the "
            "interquartile range of the rounds, as a part of their median.</p>",
            *_table(all_rows(results)),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _summary(results: Sequence[Result]) -> Iterator[str]:
    yield f"<header><h1>{TITLE}</h1><p class='lead'>Decode tokens per second: each row's tokens after its first, over the time "
    yield "they took. Neither loading nor prefill is in them.</p></header>"
    invalid, unstable = (
        sum(each)
        for each in zip(*((not r.valid, r.valid and r.unstable) for r in results), strict=True)
    )
    yield f"<section class='verdict {'failed' if invalid else 'passed'}'>"
    total = len(results)
    state = (
        f"{invalid} of {total} rows do not count"
        if invalid
        else f"{total} of {total} rows made the right tokens"
    )
    yield f"<p class='state'>{state}{f'; {unstable} unstable' if unstable else ''}</p>"
    if told := problems(results):
        yield f"<ul class='problems'>{''.join(f'<li>{text(problem)}</li>' for problem in told)}</ul>"
    said = "; ".join(f"{text(name)} <b>{text(value)}</b>" for name, value in conditions(results))
    yield f"<p class='soft'>{said}</p></section>"


def _comparison(comparison: Comparison) -> Iterator[str]:
    sides = [
        ", ".join(sorted({*map(commit, side)} - {""})) or "unknown"
        for side in (comparison.old, comparison.new)
    ]
    yield f"<h2>Compared with the baseline</h2><p class='lead'>From commit <code>{text(sides[0])}</code> to "
    yield f"<code>{text(sides[1])}</code>, on the same machine and libraries. {text(comparison.legend)}</p>"
    if comparison.pairs:
        counts = Counter(pair.finding for pair in comparison.pairs)
        told = ", ".join(
            f"{counts[finding]} {finding}"
            for finding in (FASTER, SLOWER, NO_DIFFERENCE)
            if counts[finding]
        )
        yield f"<details open class='shape'><summary>{told}</summary>"
        yield from _table(compared(comparison))
        yield "</details>"
    if comparison.unmatched:
        rows = [
            f"{row.implementation}, {row.shape}, {row.cell}: {why}"
            for row, why in comparison.unmatched
        ]
        yield f"<p>Not compared:</p><ul>{''.join(f'<li>{text(row)}</li>' for row in rows)}</ul>"


def _sweeps(results: Sequence[Result], series: Mapping[str, int]) -> Iterator[str]:
    drawn = [(field, group) for field in SWEEPS for group in sweeps(results, field)]
    if not drawn:
        return
    yield "<h2>By batch and depth of context</h2>"
    yield "<p class='lead'>Lines are medians, dots rounds. Both axes are logarithmic.</p><div class='figures'>"
    for field, group in drawn:
        caption = f"{group[0].shape.without(field)}; {group[0].cell}"
        yield f"<figure><figcaption><b>By {SWEEPS[field]}</b><br>{text(caption)}<ul class='legend'>"
        for name in by_implementation(group):
            yield f"<li><span class='swatch s{series[name]}'></span>{text(name)}</li>"
        if ceilings(group, field):
            yield "<li><span class='swatch limit'></span>bandwidth limit</li>"
        yield "</ul></figcaption>"
        yield (
            sweep_svg(group, field, series, f"tokens per second by {SWEEPS[field]}: {caption}")
            + "</figure>"
        )
    yield "</div>"


def _shapes(results: Sequence[Result], series: Mapping[str, int]) -> Iterator[str]:
    groups = by_shape(results)
    yield "<h2>Temperature, top-k and peers</h2><p class='lead'>Grids: tokens/s, and the per cent of greedy without a top-k; "
    yield "the stronger the colour, the more is lost. Bars: the median round, each round as a dot, whiskers from the slowest "
    yield "to the fastest; bw is the part of the memory bandwidth, measured in the same run. * is unstable.</p>"
    for number, (shape, group) in enumerate(groups.items()):
        yield f"<details class='shape'{' open' if number < 2 else ''}><summary>{text(shape)}</summary>"
        if len(cells(group)) > 1:
            yield "<div class='heats'>"
            for name, own in by_implementation(group).items():
                yield f"<figure><figcaption><b>{text(name)}</b><br><span class='soft'>{text(slowest(own))}</span></figcaption>"
                yield (
                    heat_svg(own, f"{name}: tokens per second by temperature and top-k, {shape}")
                    + "</figure>"
                )
            yield "</div>"
        plain = plain_cell(group)
        yield _bars(group, plain, series)
        if others := [cell for cell in cells(group) if cell != plain]:
            yield f"<details><summary>Other cells: {len(others)}</summary>"
            yield "".join(_bars(group, cell, series) for cell in others) + "</details>"
        yield "</details>"


def _bars(
    group: Sequence[Result], cell: tuple[float, int | None], series: Mapping[str, int]
) -> str:
    rows = [result for result in group if result.cell == cell]
    label = f"{rows[0].cell}"
    drawn = bars_svg(rows, series, f"tokens per second at {label}, {rows[0].shape}")
    return f"<figure><figcaption>{text(label)}</figcaption>{drawn}</figure>"


def _table(table: Table) -> Iterator[str]:
    yield "<div class='scroll'><table class='report'><thead><tr>"
    kinds = ["word" if column < table.words else "figure" for column in range(len(table.heading))]
    heads = [
        text(head).replace("-", "&#8209;") for head in table.heading
    ]  # a hyphen where no line is broken
    yield "".join(
        f"<th scope='col' class='{kind}'>{head}</th>"
        for kind, head in zip(kinds, heads, strict=True)
    )
    yield "</tr></thead><tbody>"
    for row in table.rows:
        yield "<tr>"
        for kind, value in zip(kinds, row, strict=True):
            toned = next((tone for words, tone in TONES.items() if value.startswith(words)), kind)
            yield f"<td class='{toned}'>{text(value)}</td>"
        yield "</tr>"
    yield "</tbody></table></div>"
