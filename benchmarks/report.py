"""A report of one run, or of two compared:

    python -m benchmarks.report out.json [baseline.json] [-o report.md] [--html report.html] [--svg speeds.svg]

`results.py` reads the files, `comparison.py` compares them, `tables.py` and `chart.py` make what is shown. Here it
becomes Markdown, and `report_page.py` makes a page of the same.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .comparison import Comparison, compare
from .report_page import SWEEPS, TITLE, page, picture
from .results import Result, ResultsError, by_implementation, by_shape, cells, read, sweeps
from .tables import Table, all_rows, compared, conditions, grid, problems, slowest, sweep


def markdown(results: Sequence[Result], comparison: Comparison | None = None) -> str:
    return "\n".join(
        [*_summary(results), *(_comparison(comparison) if comparison else ()), *_speeds(results)]
    )


def _summary(results: Sequence[Result]) -> Iterator[str]:
    yield f"# {TITLE}\n"
    yield "; ".join(f"{name} {plain(value)}" for name, value in conditions(results)) + ".\n"
    if told := problems(results):
        yield "\n".join(f"- {plain(problem)}" for problem in told) + "\n"


def _comparison(comparison: Comparison) -> Iterator[str]:
    yield f"## Compared with the baseline\n\n{comparison.legend}\n"
    if comparison.pairs:
        yield table(compared(comparison))
    if comparison.unmatched:
        rows = [
            f"- {row.implementation}, {row.shape}, {row.cell}: {why}"
            for row, why in comparison.unmatched
        ]
        yield "Not compared:\n\n" + "\n".join(map(plain, rows)) + "\n"


def _speeds(results: Sequence[Result]) -> Iterator[str]:
    yield "## All rows\n"
    yield table(all_rows(results))
    for field, words in SWEEPS.items():
        for group in sweeps(results, field):
            yield f"## By {words}: decode tokens/s\n\n{plain(f'{group[0].shape.without(field)}; {group[0].cell}')}\n"
            yield table(sweep(group, field))
    for shape, group in by_shape(results).items():
        if len(cells(group)) == 1:
            continue
        yield f"## Temperature by top-k: decode tokens/s\n\n{plain(str(shape))}\n"
        for name, own in by_implementation(group).items():
            yield f"### {plain(name)}\n"
            yield table(grid(own))
            if told := slowest(own):
                yield f"{told}\n"


def table(made: Table) -> str:
    """Words to the left, numbers to the right; padded, so that it reads as it is too."""
    cells = [[plain(value) for value in line] for line in (made.heading, *made.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = [
        "-" * width if column < made.words else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    lines = [
        [
            value.ljust(width) if column < made.words else value.rjust(width)
            for column, (value, width) in enumerate(pairs)
        ]
        for pairs in (zip(line, widths, strict=True) for line in cells)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:])) + "\n"


def plain(value: str) -> str:
    """On one line, and nothing in it means anything in Markdown or HTML: names and reasons are anybody's."""
    shown = " ".join(re.sub("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", " ", value).split())
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", shown)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description="How fast GPT-2 generated."
    )
    parser.add_argument(
        "results", metavar="out.json", help="written by pytest benchmarks/ --benchmark-json"
    )
    parser.add_argument(
        "baseline", nargs="?", metavar="baseline.json", help="an earlier run, to compare with"
    )
    parser.add_argument(
        "-o", "--output", metavar="report.md", help="Markdown (default: to standard output)"
    )
    parser.add_argument("--html", metavar="report.html", help="a page with pictures")
    parser.add_argument(
        "--svg",
        metavar="speeds.svg",
        help="one of them by itself: the implementations beside each other",
    )
    options = parser.parse_args(arguments)
    try:
        results = read(options.results)
        comparison = compare(results, read(options.baseline)) if options.baseline else None
        report = markdown(results, comparison)
        files = {options.output: report}
        files |= {options.html: page(results, comparison)} if options.html else {}
        files |= {options.svg: picture(results)} if options.svg else {}
        _write({Path(path): content for path, content in files.items() if path is not None})
    except (ResultsError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.output is None:
        print(report, end="")
    return 0


def _write(files: Mapping[Path, str]) -> None:
    """All of them, or none: raises OSError before any is touched if one can't be written."""
    for path in files:
        if path.is_dir():
            raise IsADirectoryError(f"{path}: can't be written: it is a folder")
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise OSError(f"{path}: can't be written: {error.strerror}") from error
    for path, content in files.items():
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
