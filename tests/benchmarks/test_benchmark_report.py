"""The report of benchmark results, and the page. Nothing is measured: the rows are made up."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.chart import bars_svg, heat_svg, sweep_svg
from benchmarks.comparison import compare
from benchmarks.report import main, markdown, plain
from benchmarks.report_page import page
from benchmarks.results import by_shape, read, sweeps
from benchmarks.tables import all_rows, grid, rate, slowest, sweep
from tests.conformance.test_report import Structure, rendered

HOSTILE = "<script>alert(1)</script>|'\"&`*\\ \n# \x00\x1b[31m \ud800"
SERIES = {"gpt2ref": 0, "huggingface": 1, "broken": 2}
ENVIRONMENT = {
    "device": "cpu",
    "device_name": "A Processor",
    "threads": 2,
    "platform": "Linux",
    "python": "3.11.7",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "gpt2ref": "0.1.0",
    "cuda": None,
    "driver": None,
    "commit": "a" * 40,
    "dirty": False,
}


def row(
    implementation: str = "gpt2ref", rates: tuple[float, ...] = (90.0, 100.0, 110.0), **fields: Any
) -> dict[str, Any]:
    """As the benchmarks write one; three tokens are decoded in each round."""
    batch = fields.get("batch", 1)
    samples = [
        {"prefill_seconds": 0.5, "decode_seconds": [batch / each] * 3, "end_to_end_seconds": 1.0}
        for each in rates
    ]
    middle = sorted(rates)[len(rates) // 2]
    made = {
        "implementation": implementation,
        "size": "gpt2",
        "dtype": "float32",
        "batch": 1,
        "prompt_length": 32,
        "new_tokens": 4,
        "temperature": 0.0,
        "top_k": None,
        "rounds": len(rates),
        "valid": True,
        "reason": None,
        "decode_tokens_per_second": middle,
        "decode_spread": 0.2,
        "prefill_seconds": 0.5,
        "ms_per_token": {"p5": 9.0, "p50": 10.0, "p95": 11.0, "p99": 12.0},
        "warmup": samples[0],
        "samples": samples,
    }
    return made | ENVIRONMENT | fields


def invalid(implementation: str = "broken", **fields: Any) -> dict[str, Any]:
    return row(
        implementation,
        (900.0, 990.0, 999.0),
        valid=False,
        reason="row 0, new token 3 is not the likeliest",
        **fields,
    )


def written(folder: Path, *rows: dict[str, Any], name: str = "out.json", **others: Any) -> Path:
    path = folder / name
    data = {
        "version": "5.3.1",
        "benchmarks": [{"name": "test", "extra_info": each} for each in rows],
    } | others
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


FULL = [
    row(
        temperature=0.0,
        rates=(198.0, 200.0, 202.0),
        ratio_to_huggingface=2.0,
        bandwidth_percent=80.0,
    ),
    row("huggingface", (99.0, 100.0, 101.0), temperature=0.0),
    row(temperature=1.0, rates=(148.0, 150.0, 152.0)),
    row(temperature=1.0, top_k=40, rates=(178.0, 180.0, 182.0), unstable=True),
    invalid(),
    row(batch=4, rates=(390.0, 400.0, 410.0), ceiling_tokens_per_second=1000.0),
    row("huggingface", (190.0, 200.0, 210.0), batch=4, ceiling_tokens_per_second=1000.0),
    row(prompt_length=512, rates=(118.0, 120.0, 122.0)),
]


def test_every_row_is_in_the_table_with_what_it_has(tmp_path: Path) -> None:
    table = all_rows(
        read(
            written(
                tmp_path,
                row(peak_memory_bytes=3 * 2**20),
                invalid(),
                row("huggingface", unstable=True),
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
    table = all_rows(read(written(tmp_path, row(), row(batch=4))))
    assert [line[table.heading.index("batch")] for line in table.rows] == ["1", "4"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.01234, "0.0123"), (31.0, "31.0"), (99.96, "100"), (12345.6, "12,346")]
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert rate(value) == shown


def test_the_slowest_cell_is_told_in_per_cent_of_greedy(tmp_path: Path) -> None:
    own = by_shape(read(written(tmp_path, *FULL[:5])))
    (results,) = own.values()
    reference = [result for result in results if result.implementation == "gpt2ref"]
    assert grid(reference).heading == ["temperature", "top-k 40", "top-k none"]
    assert grid(reference).rows == [["0", "", "200"], ["1", "180", "150"]]
    assert (
        slowest(reference) == "Slowest at temperature 1, top-k none: 150 tokens/s, 75% of greedy."
    )
    assert slowest([result for result in results if result.implementation == "broken"]) == ""


def test_without_greedy_nothing_is_compared_with_it(tmp_path: Path) -> None:
    results = read(written(tmp_path, row(temperature=1.0), row(temperature=1.0, top_k=40)))
    assert slowest(results) == ""
    assert "%" not in heat_svg(results, "map")


def test_what_is_wrong_is_no_cell_of_a_grid_and_no_slowest(tmp_path: Path) -> None:
    results = read(
        written(
            tmp_path, row(), row(temperature=1.0), invalid("gpt2ref", temperature=1.0, top_k=40)
        )
    )
    assert grid(results).rows == [["0", "", "100"], ["1", "", "100"]]
    drawn = heat_svg(results, "map")
    assert (drawn.count(">invalid<"), drawn.count(">not run<"), drawn.count('class="value"')) == (
        1,
        1,
        2,
    )


def test_the_colour_of_a_cell_is_what_it_has_lost(tmp_path: Path) -> None:
    rows = [
        row(rates=(200.0,)),
        row(temperature=1.0, rates=(150.0,)),
        row(temperature=2.0, rates=(20.0,)),
        row(temperature=3.0),
    ]
    opacities = re.findall(
        'class="loss"[^>]*fill-opacity="([^"]*)"', heat_svg(read(written(tmp_path, *rows)), "map")
    )
    assert opacities == ["0.000", "0.300", "0.600", "0.600"]


def test_bars_have_rounds_whiskers_and_what_is_beside_them(tmp_path: Path) -> None:
    results = [
        result
        for result in read(written(tmp_path, *FULL))
        if result.shape.batch == 1 and result.cell == (0.0, None)
    ]
    results = [result for result in results if result.shape.prompt_length == 32]
    drawn = bars_svg(results, SERIES, "bars")
    assert drawn.count('class="bar-fill"') == drawn.count('class="whisker"') == 2
    assert drawn.count('class="round"') == 6
    assert "2.00x HF" in drawn
    assert "80% bw" in drawn
    assert drawn.count("invalid: not ranked") == 1
    widths = [float(width) for width in re.findall('class="bar-fill"[^>]* width="([^"]*)"', drawn)]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    low, high = map(float, re.findall(r'd="M([\d.]+) .*?H([\d.]+)', drawn)[0])
    assert (high - low) / widths[0] == pytest.approx(4 / 200, abs=0.002)


def test_sweeps_are_there_where_something_varies(tmp_path: Path) -> None:
    results = read(written(tmp_path, *FULL))
    (batches,) = sweeps(results, "batch")
    assert {result.implementation for result in batches} == {"gpt2ref", "huggingface"}
    assert {result.cell for result in batches} == {(0.0, None)}
    assert sweep(batches, "batch").heading == ["batch", "1", "4"]
    assert sweep(batches, "batch").rows == [
        ["gpt2ref", "200", "400"],
        ["huggingface", "100", "200"],
        ["bandwidth limit", "", "1,000"],
    ]
    (depths,) = sweeps(results, "prompt_length")
    assert sweep(depths, "prompt_length").rows == [
        ["gpt2ref", "200", "120"],
        ["huggingface", "100", ""],
    ]
    assert sweeps(read(written(tmp_path, *FULL[:5])), "batch") == []


def test_lines_are_drawn_under_the_roofline(tmp_path: Path) -> None:
    rows = [
        row(
            batch=batch,
            rates=(90.0 * batch, 100.0 * batch),
            ceiling_tokens_per_second=200.0 * batch,
            prompt_length=8,
        )
        for batch in (1, 2, 4)
    ]
    drawn = sweep_svg(read(written(tmp_path, *rows)), "batch", SERIES, "lines")
    lines = re.findall('<polyline class="(ceiling|series)" points="([^"]*)"', drawn)
    assert [kind for kind, _ in lines] == ["ceiling", "series"]
    ceiling, series = (
        [tuple(map(float, point.split(","))) for point in points.split()] for _, points in lines
    )
    assert len(ceiling) == len(series) == 3
    assert [x for x, _ in ceiling] == [x for x, _ in series]
    assert all(high < low for (_, high), (_, low) in zip(ceiling, series, strict=True)), (
        "y goes down"
    )
    assert drawn.count('class="round"') == 6


def test_a_file_without_sweeps_has_none_on_the_page(tmp_path: Path) -> None:
    assert "By batch" in page(read(written(tmp_path, *FULL)))
    few = read(written(tmp_path, *FULL[:5]))
    assert "By batch" not in page(few)
    assert "By batch" not in markdown(few)


def test_the_report_is_printed_or_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, report, made = written(tmp_path, *FULL), tmp_path / "report.md", tmp_path / "report.html"
    assert main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert main([str(path), "-o", str(report), "--html", str(made)]) == 0
    assert capsys.readouterr().out == ""
    assert report.read_text(encoding="utf-8") == printed
    assert (
        "- INVALID: broken, gpt2, float32, batch 1, prompt 32, 4 new tokens, temperature 0, top-k none: row 0"
        in printed
    )
    assert "75% of greedy" in printed
    assert Structure(made.read_text(encoding="utf-8")).tags >= {"svg", "table", "details"}


def test_a_picture_by_itself_is_svg_with_every_name_and_its_own_style(tmp_path: Path) -> None:
    rows = [each | {"implementation": each["implementation"] + HOSTILE} for each in FULL]
    path, made = written(tmp_path, *rows), tmp_path / "speeds.svg"
    assert main([str(path), "-o", str(tmp_path / "report.md"), "--svg", str(made)]) == 0
    root = ElementTree.parse(made).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    titles = {title.text for title in root.iter("{http://www.w3.org/2000/svg}title")}
    assert {title[: -len(HOSTILE)] for title in titles if title} == {
        each["implementation"] for each in FULL
    }
    (style,) = root.iter("{http://www.w3.org/2000/svg}style")
    assert ".bar-fill" in (style.text or "")


def test_markdown_tables_have_as_many_cells_in_every_line(tmp_path: Path) -> None:
    results = read(
        written(
            tmp_path,
            *(each | {"implementation": each["implementation"] + HOSTILE} for each in FULL),
        )
    )
    made = markdown(results, compare(results, results))
    tables = [block.splitlines() for block in made.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 4
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert re.search(r"(?<!\\)<", made) is None
    made.encode()


def test_nothing_means_anything_in_markdown() -> None:
    assert plain("a|b\n# *c* `d` <e>\\") == r"a\|b # \*c\* \`d\` \<e\>" + r"\\"


def test_nothing_in_a_file_gets_out_of_the_text_of_the_page(tmp_path: Path) -> None:
    bad = copy.deepcopy(FULL)
    for each in bad:
        for name in (
            "implementation",
            "size",
            "dtype",
            "device",
            "device_name",
            "torch",
            "commit",
            "python",
            "platform",
        ):
            each[name] = HOSTILE + each[name]
        each["reason"] = HOSTILE if each["reason"] else None
        each["unstable"] = HOSTILE if each.get("unstable") else None
    results = read(written(tmp_path, *bad))
    made = page(results, compare(results, results))
    structure = Structure(made)
    assert "<script>alert(1)</script>" in "".join(structure.words)
    assert "\x00" not in made
    made.encode()


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    path, base, made = (
        written(tmp_path, *FULL),
        written(tmp_path, *FULL, name="base.json"),
        tmp_path / "report.html",
    )
    assert main([str(path), str(base), "-o", str(tmp_path / "report.md"), "--html", str(made)]) == 0
    source = made.read_text(encoding="utf-8")
    assert not re.findall("https?:|url\\(|@import", source), "nothing is loaded"
    assert "default-src 'none'" in source
    dom = rendered(made, tmp_path)
    for words in (
        "1 of 8 rows do not count; 1 unstable",
        "Compared with the baseline",
        "7 no difference shown",
        "A Processor",
    ):
        assert words in dom
    assert "75% of greedy" in dom


def test_a_page_of_rows_that_are_right_says_so(tmp_path: Path) -> None:
    words = "".join(Structure(page(read(written(tmp_path, row())))).words)
    assert "1 of 1 rows made the right tokens" in words
    assert "INVALID" not in words


@pytest.mark.parametrize("place", ["", "no/such/folder/report.html"])
def test_nothing_is_written_where_not_all_can_be(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, report, made = written(tmp_path, row()), tmp_path / "report.md", tmp_path / place
    assert main([str(path), "-o", str(report), "--html", str(made)]) == 2
    assert f"{made}: can't be written: " in capsys.readouterr().err
    assert not report.exists()
