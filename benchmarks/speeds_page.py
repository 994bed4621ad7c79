"""Make the report as an HTML page, which `templates/speeds.html` lays out, and one chart as a file.

The page is one file with its style and its charts inside, without scripts. It extends the base
template of the suite's pages (`conformance/pages/template.py`), which escapes all text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .charts import BarChart, HeatMap, LineChart
from .comparison import FASTER, NO_DIFFERENCE, SLOWER, Comparison
from .results import (
    Result,
    Shape,
    by_implementation,
    by_shape,
    default_sampling,
    samplings,
    varying,
)
from .sampling import Sampling
from .suite import part
from .tables import (
    Table,
    all_results,
    commits,
    compared,
    conditions,
    how_run,
    limits,
    problems,
    slowest,
)

TITLE = "GPT-2 generation speed"
TEMPLATES = Path(__file__).with_name("templates")
COLOURS = 6  # of templates/speeds.css
SWEEPS = {"batch": "batch", "prompt_length": "depth of context"}  # fields of Shape with a chart

TONES = {  # how the text of a table's cell begins -> CSS class
    "INVALID": "invalid",
    "unstable": "unstable",
    FASTER: "faster",
    SLOWER: "slower",
}


def page(results: Sequence[Result], comparison: Comparison | None = None) -> str:
    """Return the page of the results, compared with a baseline if there is one."""
    text: str = part("pages.template").render(
        "speeds.html",
        TEMPLATES,
        title=TITLE,
        results=results,
        invalid=sum(not result.valid for result in results),
        unstable=sum(result.valid and result.unstable for result in results),
        problems=problems(results),
        how_run=how_run(results),
        conditions=conditions(results),
        comparison=comparison,
        sides=[commits(side) for side in (comparison.old, comparison.new)] if comparison else [],
        counts=_counts(comparison) if comparison else "",
        line_charts=_line_charts(results),
        shapes=[ShapeSection(shape, group, results) for shape, group in by_shape(results).items()],
        compared=compared,
        all_results=all_results(results),
        cell_class=cell_class,
    )
    return text


def picture(results: Sequence[Result]) -> str:
    """Return the bar chart of the first shape at its plainest setting, as an SVG file."""
    shape, group = next(iter(by_shape(results).items()))
    chart = ShapeSection(shape, group, results).bars(default_sampling(group))
    shared = part("pages.template")
    files = (shared.TEMPLATES / "base.css", TEMPLATES / "speeds.css")
    style = "".join(path.read_text(encoding="utf-8") for path in files)
    svg: str = shared.render("bar_chart.svg", TEMPLATES, chart=chart, style=style)
    return svg


def colours(results: Sequence[Result]) -> dict[str, int]:
    """Implementation -> the number of its colour."""
    return {name: number % COLOURS for number, name in enumerate(by_implementation(results))}


class ShapeSection:
    """The results of one shape, with their charts."""

    def __init__(self, shape: Shape, group: Sequence[Result], results: Sequence[Result]) -> None:
        self.shape = shape
        self.group = group
        self.colours = colours(results)

    @property
    def heat_maps(self) -> list[tuple[str, str, HeatMap]]:
        """The charts, each with the implementation and its slowest setting in words."""
        if len(samplings(self.group)) == 1:
            return []
        label = "tokens per second by temperature and top-k"
        return [
            (name, slowest(own), HeatMap(own, f"{name}: {label}, {self.shape}"))
            for name, own in by_implementation(self.group).items()
        ]

    @property
    def settings(self) -> list[tuple[Sampling, BarChart]]:
        """The bar chart of each setting of the sampler, the plainest first."""
        first = default_sampling(self.group)
        others = [sampling for sampling in samplings(self.group) if sampling != first]
        return [(sampling, self.bars(sampling)) for sampling in (first, *others)]

    def bars(self, sampling: Sampling) -> BarChart:
        results = [result for result in self.group if result.sampling == sampling]
        label = f"tokens per second at {sampling.words}, {self.shape}"
        return BarChart(results, self.colours, label)


def _line_charts(results: Sequence[Result]) -> list[tuple[str, str, list[str], bool, LineChart]]:
    """Return the charts, each with the name of its axis, its conditions, its implementations, and
    whether it has a limit."""
    charts = []
    for field, words in SWEEPS.items():
        for group in varying(results, field):
            caption = f"{group[0].shape.without(field)}; {group[0].sampling.words}"
            label = f"tokens per second by {words}: {caption}"
            chart = LineChart(group, field, colours(results), label)
            names = list(by_implementation(group))
            charts.append((words, caption, names, bool(limits(group, field)), chart))
    return charts


def _counts(comparison: Comparison) -> str:
    counts = Counter(pair.finding for pair in comparison.pairs)
    shown = [finding for finding in (FASTER, SLOWER, NO_DIFFERENCE) if counts[finding]]
    return ", ".join(f"{counts[finding]} {finding}" for finding in shown)


def cell_class(table: Table, column: int, text: str = "") -> str:
    """Return the CSS class of a cell, which depends on its column and on how its text begins."""
    plain = "word" if column < table.words else "figure"
    return next((tone for start, tone in TONES.items() if text.startswith(start)), plain)
