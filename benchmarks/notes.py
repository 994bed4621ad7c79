"""Say of each implementation how it was run, where that is not its own loop with a time a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

OWN_LOOP = "its own"
Fields = Mapping[str, Any]  # of result_fields.ResultFields; older files lack some of them


def notes(results: Iterable[Fields]) -> list[str]:
    """Return lines, each once, about the valid results."""
    valid = [result for result in results if result["valid"]]
    lines = [f"{result['implementation']}: {text}" for result in valid for text in _texts(result)]
    return list(dict.fromkeys(lines)) + _messages(valid)


def _texts(result: Fields) -> Iterator[str]:
    loop = result.get("loop", OWN_LOOP)
    if loop != OWN_LOOP:
        yield f"the loop is {loop}"
    if result.get("greedy_by_top_k"):
        yield "it refuses temperature 0, and was asked for top-k 1 instead"


def _messages(results: Iterable[Fields]) -> list[str]:
    """Say what the messages of each other program cost, where they are the largest part."""
    most: dict[str, tuple[float, str]] = {}
    for result in results:
        seconds = result.get("pipe_seconds")
        if seconds is None:
            continue
        by_step = result["measured_by"] == "steps"
        whole = result["ms_per_token"]["p50"] / 1e3 if by_step else result["end_to_end_seconds"]
        part = seconds / whole
        text = f"{1e3 * seconds:.2f} ms of a {'step' if by_step else 'call'}, {part:.1%}"
        name = result["implementation"]
        most[name] = max(most.get(name, (part, text)), (part, text))
    return [f"{name}: messages take up to {text}" for name, (_, text) in most.items()]
