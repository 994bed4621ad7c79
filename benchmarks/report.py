"""Report one run, or compare it with an earlier one:

    python -m benchmarks.report out.json [baseline.json] [-o report.md] [--html report.html]
                                [--svg speeds.svg]

`results.py` reads the files, `comparison.py` compares them, and `tables.py` and `charts.py` lay out
what is shown. This module prints it as Markdown, and `speeds_page.py` makes a page of it.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .comparison import Comparison, compare
from .results import (
    Result,
    ResultsError,
    by_implementation,
    by_shape,
    read,
    samplings,
    varying,
)
from .speeds_page import SWEEPS, TITLE, page, picture
from .tables import (
    Table,
    all_results,
    compared,
    conditions,
    grid,
    how_run,
    problems,
    slowest,
    sweep,
)


def markdown(results: Sequence[Result], comparison: Comparison | None = None) -> str:
    """Return the report as Markdown."""
    compared_with = _comparison(comparison) if comparison else ()
    return "\n".join([*_summary(results), *compared_with, *_speeds(results)])


def _summary(results: Sequence[Result]) -> Iterator[str]:
    yield f"# {TITLE}\n"
    yield "; ".join(f"{name} {plain(value)}" for name, value in conditions(results)) + ".\n"
    if lines := problems(results) + how_run(results):
        yield "\n".join(f"- {plain(line)}" for line in lines) + "\n"


def _comparison(comparison: Comparison) -> Iterator[str]:
    yield f"## Compared with the baseline\n\n{comparison.legend}\n"
    if comparison.pairs:
        yield table(compared(comparison))
    if comparison.unmatched:
        lines = [f"- {plain(f'{result.name}: {why}')}" for result, why in comparison.unmatched]
        yield "Not compared:\n\n" + "\n".join(lines) + "\n"


def _speeds(results: Sequence[Result]) -> Iterator[str]:
    yield "## All results\n"
    yield table(all_results(results))
    for field, words in SWEEPS.items():
        for group in varying(results, field):
            where = f"{group[0].shape.without(field)}; {group[0].sampling.words}"
            yield f"## By {words}: decode tokens/s\n\n{plain(where)}\n"
            yield table(sweep(group, field))
    for shape, group in by_shape(results).items():
        if len(samplings(group)) == 1:
            continue
        yield f"## Temperature by top-k: decode tokens/s\n\n{plain(str(shape))}\n"
        for name, own in by_implementation(group).items():
            yield f"### {plain(name)}\n"
            yield table(grid(own))
            if sentence := slowest(own):
                yield f"{sentence}\n"


def table(made: Table) -> str:
    """Return a Markdown table, padded so that it is readable as text: words left, numbers right."""
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
    """Return a text on one line, with everything escaped that means something in Markdown or HTML.

    Names and reasons come from anybody.
    """
    shown = " ".join(re.sub("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", " ", value).split())
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report. Return the exit status: 2 if that is not possible, else 0."""
    options = _parser().parse_args(arguments)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.report", description="Report how fast GPT-2 generated."
    )
    for name, metavar, help in (
        ("results", "out.json", "written by pytest benchmarks/ --benchmark-json"),
        ("-o --output", "report.md", "Markdown (default: to standard output)"),
        ("--html", "report.html", "a page with charts"),
        ("--svg", "speeds.svg", "one chart as a file: the implementations beside each other"),
    ):
        parser.add_argument(*name.split(), metavar=metavar, help=help)
    parser.add_argument(
        "baseline", nargs="?", metavar="baseline.json", help="an earlier run, to compare with"
    )
    return parser


def _write(files: Mapping[Path, str]) -> None:
    """Write all files, or none. Raises OSError, which names the file that can't be written."""
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
