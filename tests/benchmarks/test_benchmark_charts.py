"""The charts of the benchmarks. No result is measured: all are made up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.charts import BarChart, HeatMap, LineChart
from benchmarks.results import GREEDY, Result, read
from benchmarks.speeds_page import TEMPLATES
from benchmarks.tables import grid, slowest
from conformance.pages.template import render
from tests.shared.benchmark_results import RESULTS, a_result, an_invalid_result, written

COLOURS = {"gpt2ref": 0, "huggingface": 1, "broken": 2}


def heat_map(results: Sequence[Result]) -> str:
    return render("heat_map.svg", TEMPLATES, chart=HeatMap(results, "map"))


def bar_chart(results: Sequence[Result]) -> str:
    return render("bar_chart.svg", TEMPLATES, chart=BarChart(results, COLOURS, "bars"))


def line_chart(results: Sequence[Result], field: str) -> str:
    return render("line_chart.svg", TEMPLATES, chart=LineChart(results, field, COLOURS, "lines"))


def test_without_greedy_nothing_is_compared_with_it(tmp_path: Path) -> None:
    results = read(
        written(tmp_path, a_result(temperature=1.0), a_result(temperature=1.0, top_k=40))
    )
    assert slowest(results) == ""
    assert "%" not in heat_map(results)


def test_invalid_rows_are_in_no_grid_and_never_the_slowest(tmp_path: Path) -> None:
    results = read(
        written(
            tmp_path,
            a_result(),
            a_result(temperature=1.0),
            an_invalid_result("gpt2ref", temperature=1.0, top_k=40),
        )
    )
    assert grid(results).rows == [["0", "", "100"], ["1", "", "100"]]
    drawn = heat_map(results)
    assert (drawn.count(">invalid<"), drawn.count(">not run<"), drawn.count('class="value"')) == (
        1,
        1,
        2,
    )


def test_the_colour_of_a_cell_shows_the_lost_speed(tmp_path: Path) -> None:
    rows = [
        a_result(rates=(200.0,)),
        a_result(temperature=1.0, rates=(150.0,)),
        a_result(temperature=2.0, rates=(20.0,)),
        a_result(temperature=3.0),
    ]
    opacities = re.findall(
        'class="loss"[^>]*fill-opacity="([^"]*)"', heat_map(read(written(tmp_path, *rows)))
    )
    assert opacities == ["0.000", "0.300", "0.600", "0.600"]


def test_bars_have_rounds_whiskers_and_labels(tmp_path: Path) -> None:
    results = [
        result
        for result in read(written(tmp_path, *RESULTS))
        if result.shape.batch == 1 and result.sampling == GREEDY
    ]
    results = [result for result in results if result.shape.prompt_length == 32]
    drawn = bar_chart(results)
    assert drawn.count('class="bar-fill"') == drawn.count('class="whisker"') == 2
    assert drawn.count('class="round"') == 6
    assert "2.00x HF" in drawn
    assert "80% bw" in drawn
    assert drawn.count("invalid: not ranked") == 1
    widths = [float(width) for width in re.findall('class="bar-fill"[^>]* width="([^"]*)"', drawn)]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    low, high = map(float, re.findall(r'd="M([\d.]+) .*?H([\d.]+)', drawn)[0])
    assert (high - low) / widths[0] == pytest.approx(4 / 200, abs=0.002)


def test_lines_are_drawn_under_the_bandwidth_limit(tmp_path: Path) -> None:
    rows = [
        a_result(
            batch=batch,
            rates=(90.0 * batch, 100.0 * batch),
            ceiling_tokens_per_second=200.0 * batch,
            prompt_length=8,
        )
        for batch in (1, 2, 4)
    ]
    drawn = line_chart(read(written(tmp_path, *rows)), "batch")
    lines = re.findall('<polyline class="(limit-line|series)" points="([^"]*)"', drawn)
    assert [kind for kind, _ in lines] == ["limit-line", "series"]
    limit, series = (
        [tuple(map(float, point.split(","))) for point in points.split()] for _, points in lines
    )
    assert len(limit) == len(series) == 3
    assert [x for x, _ in limit] == [x for x, _ in series]
    assert all(high < low for (_, high), (_, low) in zip(limit, series, strict=True)), "y goes down"
    assert drawn.count('class="round"') == 6
