"""Print the results as a table for the terminal, peers side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .notes import notes
from .text_table import text_table
from .timing import UNSTABLE

Fields = dict[str, Any]  # result_fields.ResultFields, while it is put together

# Column -> its text for a result. A column of AXES that is the same in all results is left out: the
# first line of the summary then has it.
AXES: dict[str, Callable[[Fields], str]] = {
    "size": lambda result: result["size"],
    "dtype": lambda result: result["dtype"],
    "batch": lambda result: str(result["batch"]),
    "prompt": lambda result: str(result["prompt_length"]),
}
SETTING: dict[str, Callable[[Fields], str]] = {
    "temp": lambda result: f"{result['temperature']:g}",
    "top-k": lambda result: str(result["top_k"] or "-"),
    "implementation": lambda result: result["implementation"],
}
# An invalid result has no figures.
FIGURES: dict[str, Callable[[Fields], str]] = {
    "decode tok/s": lambda result: f"{result['decode_tokens_per_second']:.1f}",
    "spread": lambda result: f"{result['decode_spread']:.0%}{'!' if result['unstable'] else ' '}",
    "x HF": lambda result: _or_dash(result["ratio_to_huggingface"], ".2f"),
    "% limit": lambda result: f"{result['bandwidth_percent']:.0f}",
    "prefill ms": lambda result: f"{1e3 * result['prefill_seconds']:.1f}",
    "ms/token p50": lambda result: f"{result['ms_per_token']['p50']:.2f}",
    "p95": lambda result: _or_dash(result["ms_per_token"]["p95"], ".2f"),
}
WORDS = ("size", "dtype", "implementation", "valid")
START = ("size", "dtype", "implementation", "load s", "first call s", "peak memory MB")


def summary(results: Sequence[Fields]) -> list[str]:
    """Return lines: the conditions, the limit, a table of the results, what its marks mean, a table
    of the costs of starting, how implementations were run, and why results are invalid."""
    varying = {
        name: show for name, show in AXES.items() if len({show(result) for result in results}) > 1
    }
    columns = varying | SETTING
    cells = [
        [show(result) for show in columns.values()]
        + [show(result) if result["valid"] else "-" for show in FIGURES.values()]
        + ["yes" if result["valid"] else "NO"]
        for result in results
    ]
    unstable = [
        f"! unstable: the rounds' interquartile range is above {UNSTABLE:.0%} of their median"
    ]
    return [
        _conditions(results[0], varying),
        _limit(results),
        "",
        *text_table((*columns, *FIGURES, "valid"), cells, WORDS),
        *(unstable if any(result["valid"] and result["unstable"] for result in results) else []),
        "",
        *_starts(results),
        *notes(results),
        *[f"invalid: {_setting(each)}: {each['reason']}" for each in results if each["reason"]],
    ]


def _conditions(result: Fields, varying: dict[str, Callable[[Fields], str]]) -> str:
    words = {"size": "{}", "dtype": "{}", "batch": "batch {}", "prompt": "prompt {}"}
    fixed = [words[name].format(show(result)) for name, show in AXES.items() if name not in varying]
    conditions = [
        f"{result['device']} ({result['device_name']})",
        f"{result['threads']} thread{'s' * (result['threads'] != 1)}",
        *fixed,
    ]
    conditions += [f"{result['new_tokens']} new tokens", f"{result['rounds']} rounds in turns"]
    return ", ".join(conditions)


def _limit(results: Sequence[Fields]) -> str:
    best = max(result["bandwidth_limit"] for result in results)
    measured = [each for result in results for each in result["bandwidth_rounds"]] or [best]
    spread = f"{min(measured) / 1e9:.1f} to {max(measured) / 1e9:.1f}"
    limit = f"limit: {best / 1e9:.1f} GB/s of memory bandwidth"
    return f"{limit}, measured before every round: {spread}"


def _starts(results: Sequence[Fields]) -> list[str]:
    """Return a table of the costs before the first result, for each implementation and weights."""
    first: dict[tuple[str, ...], tuple[str, ...]] = {}
    for result in results:
        key = (result["size"], result["dtype"], result["implementation"])
        peak = result["peak_memory_bytes"]
        first.setdefault(
            key,
            (
                *key,
                f"{result['load_seconds']:.2f}",
                _or_dash(result["first_call_seconds"], ".2f"),
                _or_dash(None if peak is None else peak / 1e6, ".0f"),
            ),
        )
    cells = list(first.values())
    return text_table(START, cells, WORDS)


def _setting(result: Fields) -> str:
    return ", ".join(
        [
            result["implementation"],
            result["size"],
            result["dtype"],
            f"batch {result['batch']}",
            f"prompt {result['prompt_length']}",
            f"temperature {result['temperature']:g}",
            f"top-k {result['top_k'] or '-'}",
        ]
    )


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
