"""The page of the benchmarks, and the picture. No result is measured: all are made up."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.comparison import compare
from benchmarks.report import main, markdown
from benchmarks.results import read
from benchmarks.speeds_page import page
from tests.shared.benchmark_results import HOSTILE, RESULTS, a_result, written
from tests.shared.html_pages import Structure, rendered


def test_markup_in_results_is_escaped(tmp_path: Path) -> None:
    bad = copy.deepcopy(RESULTS)
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
        written(tmp_path, *RESULTS),
        written(tmp_path, *RESULTS, name="base.json"),
        tmp_path / "report.html",
    )
    assert main([str(path), str(base), "-o", str(tmp_path / "report.md"), "--html", str(made)]) == 0
    source = made.read_text(encoding="utf-8")
    assert not re.findall("https?:|url\\(|@import", source), "nothing is loaded"
    assert "default-src 'none'" in source
    dom = rendered(made, tmp_path)
    for words in (
        "1 of 8 results do not count; 1 unstable",
        "Compared with the baseline",
        "7 no difference shown",
        "A Processor",
    ):
        assert words in dom
    assert "75% of greedy" in dom


def test_a_page_of_results_that_are_right_says_so(tmp_path: Path) -> None:
    words = "".join(Structure(page(read(written(tmp_path, a_result())))).words)
    assert "1 of 1 results have the right tokens" in words
    assert "INVALID" not in words


def test_a_picture_by_itself_is_svg_with_every_name_and_its_own_style(tmp_path: Path) -> None:
    rows = [each | {"implementation": each["implementation"] + HOSTILE} for each in RESULTS]
    path, made = written(tmp_path, *rows), tmp_path / "speeds.svg"
    assert main([str(path), "-o", str(tmp_path / "report.md"), "--svg", str(made)]) == 0
    root = ElementTree.parse(made).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    titles = {title.text for title in root.iter("{http://www.w3.org/2000/svg}title")}
    assert {title[: -len(HOSTILE)] for title in titles if title} == {
        each["implementation"] for each in RESULTS
    }
    (style,) = root.iter("{http://www.w3.org/2000/svg}style")
    assert ".bar-fill" in (style.text or "")


def test_a_file_without_sweeps_has_none_on_the_page(tmp_path: Path) -> None:
    assert "By batch" in page(read(written(tmp_path, *RESULTS)))
    few = read(written(tmp_path, *RESULTS[:5]))
    assert "By batch" not in page(few)
    assert "By batch" not in markdown(few)
