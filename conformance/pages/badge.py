"""Make a badge for a README: `python -m conformance.pages.badge report.json -o badge.json`.

Publish the file. The picture is then https://img.shields.io/endpoint?url= followed by its address.
This module needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .reading import UNEXPECTED, read_report

COLOURS = {  # state of a verdict -> shields.io's name of a colour
    "deviates": "red",
    "not judged in full": "orange",
    "stale known deviations": "orange",
    "known deviations only": "yellow",
    "no deviation found": "brightgreen",
    "nothing judged": "lightgrey",
}


def badge(report: dict[str, Any], implementation: str | None = None) -> dict[str, Any]:
    """Return the badge of an implementation. It must be named if the report is about several."""
    names = [str(adapter["specification"]) for adapter in report["adapters"]]
    if implementation not in names and (implementation or len(names) != 1):
        raise ValueError(f"--implementation has to be one of: {', '.join(names)}")
    adapter = report["adapters"][names.index(implementation or names[0])]
    state, counts = adapter["verdict"]["state"], adapter["counts"]
    if not report["finished"] and state != "deviates":
        state = "not judged in full"
    wrong = [f"{int(counts[name])} {name}" for name in ("failed", "errored") if counts[name]]
    passed, total = counts["passed"] + counts["variant"], sum(counts.values())
    return {
        "schemaVersion": 1,
        "label": "GPT-2 conformance",
        "message": ", ".join(wrong) or f"{passed} of {total} requirements",
        "color": COLOURS[state],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the badge. Return the exit status: 2 if that is not possible, else 0."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.badge", description="Make a badge of a conformance report."
    )
    parser.add_argument(
        "report", metavar="report.json", help="written by pytest conformance/ --conformance-report"
    )
    parser.add_argument("-o", "--output", required=True, metavar="badge.json")
    parser.add_argument("--implementation", help="which one, if the report is about several")
    options = parser.parse_args(arguments)
    try:
        text = json.dumps(badge(read_report(options.report), options.implementation))
        Path(options.output).write_text(text + "\n", encoding="utf-8")
    except (OSError, *UNEXPECTED) as error:
        print(f"{options.report}: no badge: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
