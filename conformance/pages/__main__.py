"""Make an HTML page: `python -m conformance.pages FILE.json ... -o page.html`.

The files are conformance reports, which make one page together, or one kill matrix.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jinja2 import TemplateError

from . import kill_matrix_page, report_page
from .reading import KILL_MATRIX, UNEXPECTED, read


class PageError(Exception):
    """A file can't be shown. The message is one line, which names the file."""


def page_of(paths: Sequence[str]) -> str:
    """Return the page of these files. Raises PageError."""
    reports = []
    for path in paths:
        try:
            kind, content = read(path)
            if kind == KILL_MATRIX and len(paths) > 1:
                raise ValueError(f"a {kind} makes a page by itself: give no other file")
            if kind == KILL_MATRIX:
                return kill_matrix_page.page(content)
            reports.append(content)
            report_page.page([content])  # raises what is wrong with this report
        except (OSError, TemplateError, *UNEXPECTED) as error:
            raise PageError(f"{path}: no page: {type(error).__name__}: {error}") from error
    return report_page.page(reports)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page. Return the exit status: 2 if that is not possible, else 0."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}", description="Make an HTML page of the suite's results."
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE.json",
        help="written by pytest conformance/ with --conformance-report or with --defects-report",
    )
    parser.add_argument("-o", "--output", required=True, metavar="page.html")
    options = parser.parse_args(arguments)
    try:
        page = page_of(options.files)
        Path(options.output).write_text(page, encoding="utf-8")
    except PageError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{options.output}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
