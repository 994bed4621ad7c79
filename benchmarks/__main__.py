"""Measures how fast your own GPT-2 generates, from any folder.

    gpt2-benchmark my_gpt2.py [more] [--size gpt2 --batch 1,8] --json out.json --html report.html

Each word is an adapter as `gpt2-conformance` takes it (my_gpt2.py, model.py:GPT, package.module,
"command: program"), or an engine by its name. It is measured beside gpt2ref and huggingface, unless
--peers names others, or none. In a clone: `python -m benchmarks my_gpt2.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MISSING = "{error}. The benchmarks need more than gpt2ref alone: pip install 'gpt2ref[benchmark]'"
FOLDER = Path(__file__).parent
ALONE = (
    # Ignore the pytest settings of the current folder: they are for its own tests.
    *("-c", str(FOLDER / "installed.ini"), f"--rootdir={FOLDER}"),
    # The summary says all that pytest and pytest-benchmark would.
    *("-p", "no:cacheprovider", "--tb=no", "-q", "--no-header", "-rN", "--disable-warnings"),
    "--benchmark-quiet",
)
FILES = {
    "--json": "all results, as pytest-benchmark writes them",
    "--output": "a report in Markdown",
    "--html": "a page with charts",
    "--svg": "one chart",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the files. Return pytest's exit status: 1 if a result does not count."""
    try:
        import jinja2  # noqa: F401 - the report needs it, after the measurement
        import pytest
        import pytest_benchmark  # noqa: F401 - pytest loads it

        from . import options
        from .implementations import DEFAULT
    except ModuleNotFoundError as error:
        print(MISSING.format(error=error), file=sys.stderr)
        return 4
    parser = _parser(options.OPTIONS, DEFAULT)
    asked = parser.parse_intermixed_args(arguments)
    peers = [] if asked.peers == "none" else asked.peers.split(",")
    chosen: dict[str, Any] = {name.replace("-", "_"): None for name in options.OPTIONS}
    chosen |= {name: getattr(asked, name) for name in chosen if name != "implementation"}
    chosen["implementation"] = [*asked.implementation, *peers]
    if not chosen["implementation"]:
        parser.error("nothing is named: expected an adapter or an engine")
    try:
        options.read_plan(chosen)
    except ValueError as error:
        parser.error(_of_this_command(str(error)))
    for name in FILES:
        path = getattr(asked, name.removeprefix("--"))
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"{name}={path}: no such folder")
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        results = asked.json or temporary / "out.json"
        words = [*ALONE, str(FOLDER), f"--benchmark-json={results}", *_for_pytest(chosen)]
        status = int(pytest.main(words, plugins=[_NoDots()]))
        return _report(results, asked, temporary) or status


class _NoDots:
    """Lets pytest print no letter for a test, since a line says what was measured."""

    @staticmethod
    def pytest_report_teststatus(report: Any) -> tuple[str, str, str] | None:
        return (report.outcome, "", "") if report.when == "call" or report.skipped else None


def _parser(options: dict[str, dict[str, Any]], peers: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpt2-benchmark",
        usage="gpt2-benchmark ADAPTER... [option]...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("implementation", nargs="*", help="an adapter or an engine")
    named = ",".join(peers)
    parser.add_argument("--peers", default=named, help=f"engines beside it (default: {named})")
    for name, described in options.items():
        if name != "implementation":
            parser.add_argument(f"--{name}", **described)
    for name, help in FILES.items():
        parser.add_argument(name, type=Path, metavar="FILE", help=help)
    return parser


def _for_pytest(chosen: dict[str, Any]) -> list[str]:
    """Return the options by the names that they have in `pytest benchmarks/`."""
    words = []
    for name, value in chosen.items():
        option = f"--bench-{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option if value else option.replace("--bench-", "--no-bench-"))
        elif value is not None:
            values = value if isinstance(value, list) else [value]
            words += [f"{option}={each}" for each in values]
    return words


def _of_this_command(error: str) -> str:
    return error.replace("--bench-implementation=", "").replace("--bench-", "--")


def _report(results: Path, asked: argparse.Namespace, temporary: Path) -> int:
    """Write the report's files that were asked for. Return 0, or 2 if that was not possible."""
    files = {"-o": asked.output, "--html": asked.html, "--svg": asked.svg}
    words = [word for name, path in files.items() if path for word in (name, str(path))]
    if not words or not results.is_file() or not results.stat().st_size:
        return 0
    from .report import main as report

    if asked.output is None:
        words += ["-o", str(temporary / "report.md")]  # otherwise it is printed
    return report([str(results), *words])


if __name__ == "__main__":
    sys.exit(main())
