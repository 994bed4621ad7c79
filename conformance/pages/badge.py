"""Makes a badge for a README, in the format of shields.io, from a report.

    python -m conformance.pages.badge report.json -o badge.json

Publish the file. The picture is at https://img.shields.io/endpoint?url= followed by its address.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLOURS = {  # of the states of a verdict
    "deviates": "red",
    "not judged in full": "orange",
    "stale known deviations": "orange",
    "known deviations only": "yellow",
    "no deviation found": "brightgreen",
    "nothing judged": "lightgrey",
}


def badge(report: dict[str, Any], implementation: str | None = None) -> dict[str, Any]:
    """Make the badge of the implementation that is named, or of the only one.

    Raises ValueError, naming --implementation, if it is neither.
    """
    names = [str(adapter["specification"]) for adapter in report["adapters"]]
    if implementation not in names and (implementation or len(names) != 1):
        raise ValueError(f"--implementation has to be one of: {', '.join(names)}")
    adapter = report["adapters"][names.index(implementation or names[0])]
    state, counts = adapter["verdict"]["state"], adapter["counts"]
    if not report["finished"] and state != "deviates":
        state = "not judged in full"
    wrong = [
        f"{int(counts[outcome])} {outcome}" for outcome in ("failed", "errored") if counts[outcome]
    ]
    message = (
        ", ".join(wrong)
        or f"{counts['passed'] + counts['variant']} of {sum(counts.values())} requirements"
    )
    return {
        "schemaVersion": 1,
        "label": "GPT-2 conformance",
        "message": message,
        "color": COLOURS[state],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.badge", description="A badge of a conformance report."
    )
    parser.add_argument(
        "report", metavar="report.json", help="written by pytest conformance/ --conformance-report"
    )
    parser.add_argument("-o", "--output", required=True, metavar="badge.json")
    parser.add_argument("--implementation", help="whose badge, where the report is about several")
    options = parser.parse_args(arguments)
    try:
        report = json.loads(Path(options.report).read_text(encoding="utf-8"))
        if report["format"] != 2:
            raise ValueError(f"format {report['format']!r}, expected 2")
        text = json.dumps(badge(report, options.implementation))
        Path(options.output).write_text(text + "\n", encoding="utf-8")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        print(f"{options.report}: no badge: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
