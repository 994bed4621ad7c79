"""The tables and the Markdown of benchmark results. No result is measured: all are made up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import compare
from benchmarks.report import main, markdown, plain
from benchmarks.results import GREEDY, by_shape, read, varying
from benchmarks.speeds_page import page
from benchmarks.tables import all_results, grid, how_run, slowest, sweep, three_digits
from tests.shared.benchmark_results import (
    HOSTILE,
    RESULTS,
    a_result,
    an_invalid_result,
    written,
)
from tests.shared.html_pages import Structure


def test_the_table_has_every_row_with_its_figures(tmp_path: Path) -> None:
    table = all_results(
        read(
            written(
                tmp_path,
                a_result(peak_memory_bytes=3 * 2**20),
                an_invalid_result(),
                a_result("huggingface", unstable=True),
            )
        )
    )
    shown = [dict(zip(table.heading, line, strict=True)) for line in table.rows]
    assert [(line["implementation"], line["valid"]) for line in shown] == [
        ("gpt2ref", "yes"),
        ("broken", "INVALID"),
        ("huggingface", "unstable"),
    ]
    assert shown[0]["peak memory MiB"] == "3.00"
    assert shown[1]["peak memory MiB"] == ""
    assert shown[0]["ms/token p95"] == "11.0"
    assert "load s" not in shown[0], "no row has it"
    assert "batch" not in shown[0], "all rows have the same"


def test_the_shape_is_in_the_table_where_it_varies(tmp_path: Path) -> None:
    table = all_results(read(written(tmp_path, a_result(), a_result(batch=4))))
    assert [line[table.heading.index("batch")] for line in table.rows] == ["1", "4"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.01234, "0.0123"), (31.0, "31.0"), (99.96, "100"), (12345.6, "12,346")]
)
def test_figures_have_three_significant_digits(value: float, shown: str) -> None:
    assert three_digits(value) == shown


def test_the_slowest_cell_is_given_in_per_cent_of_greedy(tmp_path: Path) -> None:
    own = by_shape(read(written(tmp_path, *RESULTS[:5])))
    (results,) = own.values()
    reference = [result for result in results if result.implementation == "gpt2ref"]
    assert grid(reference).heading == ["temperature", "top-k 40", "top-k none"]
    assert grid(reference).rows == [["0", "", "200"], ["1", "180", "150"]]
    assert (
        slowest(reference) == "Slowest at temperature 1, top-k none: 150 tokens/s, 75% of greedy."
    )
    assert slowest([result for result in results if result.implementation == "broken"]) == ""


def test_there_is_a_sweep_for_each_axis_that_varies(tmp_path: Path) -> None:
    results = read(written(tmp_path, *RESULTS))
    (batches,) = varying(results, "batch")
    assert {result.implementation for result in batches} == {"gpt2ref", "huggingface"}
    assert {result.sampling for result in batches} == {GREEDY}
    assert sweep(batches, "batch").heading == ["batch", "1", "4"]
    assert sweep(batches, "batch").rows == [
        ["gpt2ref", "200", "400"],
        ["huggingface", "100", "200"],
        ["bandwidth limit", "", "1,000"],
    ]
    (depths,) = varying(results, "prompt_length")
    assert sweep(depths, "prompt_length").rows == [
        ["gpt2ref", "200", "120"],
        ["huggingface", "100", ""],
    ]
    assert varying(read(written(tmp_path, *RESULTS[:5])), "batch") == []


def test_the_report_is_printed_or_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, report, made = (
        written(tmp_path, *RESULTS),
        tmp_path / "report.md",
        tmp_path / "report.html",
    )
    assert main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert main([str(path), "-o", str(report), "--html", str(made)]) == 0
    assert capsys.readouterr().out == ""
    assert report.read_text(encoding="utf-8") == printed
    assert (
        "- INVALID: broken, gpt2, float32, batch 1, prompt 32, 4 new tokens, "
        "temperature 0, top-k none: row 0" in printed
    )
    assert "75% of greedy" in printed
    assert Structure(made.read_text(encoding="utf-8")).tags >= {"svg", "table", "details"}


def test_markdown_tables_have_as_many_cells_in_every_line(tmp_path: Path) -> None:
    results = read(
        written(
            tmp_path,
            *(each | {"implementation": each["implementation"] + HOSTILE} for each in RESULTS),
        )
    )
    made = markdown(results, compare(results, results))
    tables = [block.splitlines() for block in made.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 4
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert re.search(r"(?<!\\)<", made) is None
    made.encode()


def test_markup_in_results_is_escaped_in_markdown() -> None:
    assert plain("a|b\n# *c* `d` <e>\\") == r"a\|b # \*c\* \`d\` \<e\>" + r"\\"


@pytest.mark.parametrize("place", ["", "no/such/folder/report.html"])
def test_nothing_is_written_if_one_output_cannot_be(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, report, made = written(tmp_path, a_result()), tmp_path / "report.md", tmp_path / place
    assert main([str(path), "-o", str(report), "--html", str(made)]) == 2
    assert f"{made}: can't be written: " in capsys.readouterr().err
    assert not report.exists()


MINE: dict[str, Any] = {
    "loop": "its own generate(), which reports no steps",
    "measured_by": "lengths",
    "greedy_by_top_k": True,
    "pipe_seconds": 0.125,
    "end_to_end_seconds": 0.5,
}


def test_another_loop_than_its_own_is_said_everywhere(tmp_path: Path) -> None:
    results = read(written(tmp_path, a_result(), a_result("mine.py", **MINE)))
    expected = [
        "mine.py: the loop is its own generate(), which reports no steps",
        "mine.py: it refuses temperature 0, and was asked for top-k 1 instead",
        "mine.py: messages take up to 125.00 ms of a call, 25.0%",
    ]
    assert how_run(results) == expected
    assert how_run(results[:1]) == []
    report = markdown(results)
    for made in (report, page(results)):
        for line in expected:
            assert line in made
    table = all_results(results)
    place = table.heading.index("messages ms")
    assert [row[place] for row in table.rows] == ["", "125"]


def test_a_step_of_another_program_is_compared_with_its_messages(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"pipe_seconds": 0.001, "measured_by": "steps"}
    slow: dict[str, Any] = {
        "ms_per_token": {"p50": 20.0},
        "pipe_seconds": 0.0005,
        "measured_by": "steps",
    }
    results = read(written(tmp_path, a_result("p", **fields), a_result("p", batch=2, **slow)))
    assert how_run(results) == ["p: messages take up to 1.00 ms of a step, 10.0%"]


def test_results_of_different_loops_are_not_compared(tmp_path: Path) -> None:
    own = read(written(tmp_path, a_result()))
    changes: list[dict[str, Any]] = [{"loop": "another"}, {"measured_by": "lengths"}]
    for change in changes:
        compared = compare(read(written(tmp_path, a_result(**change))), own)
        assert not compared.pairs
        assert [why for _, why in compared.unmatched] == ["run in another loop in the baseline"]
    same: dict[str, Any] = {"loop": "its own", "measured_by": "steps"}
    assert compare(read(written(tmp_path, a_result(**same))), own).pairs
