"""Draw decode tokens/s as bars for the terminal, under the limit that the memory sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WIDTH = 80
LONGEST_NAME = 24
FIGURES = 15  # characters for the rate and its part of the limit
EIGHTHS = " ▏▎▍▌▋▊▉█"
LIMIT = "│"

Fields = dict[str, Any]  # result_fields.ResultFields


def bars(results: Sequence[Fields], encoding: str | None = "utf-8") -> list[str]:
    """Return lines of at most 80 columns: each shape at its plainest setting of the sampler."""
    plain = _is_plain(encoding)
    shapes: dict[tuple[Any, ...], list[Fields]] = {}
    for result in results:
        shape = tuple(result[name] for name in ("size", "dtype", "batch", "prompt_length"))
        shapes.setdefault(shape, []).append(result)
    return [line for group in shapes.values() for line in _picture(_plainest(group), plain)]


def shortened(name: str, width: int) -> str:
    """Cut a name to `width` characters. Of a path, the end is what tells it from another."""
    if len(name) <= width:
        return name
    is_path = "/" in name and not name.startswith("command:")
    return f"…{name[1 - width :]}" if is_path else f"{name[: width - 1]}…"


def _plainest(group: Sequence[Fields]) -> list[Fields]:
    """Return the results at the lowest temperature, without a top-k if there are such."""
    first = min(group, key=lambda each: (each["temperature"], each["top_k"] or 0))
    setting = first["temperature"], first["top_k"]
    return [each for each in group if (each["temperature"], each["top_k"]) == setting]


def _picture(results: Sequence[Fields], plain: bool) -> list[str]:
    first = results[0]
    limit = max(result["ceiling_tokens_per_second"] for result in results)
    rates = [result["decode_tokens_per_second"] for result in results if result["valid"]]
    largest = max([limit, *rates])
    names = [shortened(result["implementation"], LONGEST_NAME) for result in results]
    column = max(map(len, [*names, "limit"]))
    room = WIDTH - column - 2 - FIGURES
    mark = min(room - 1, int(limit / largest * room))
    title = (
        f"decode tokens/s: {first['size']}, {first['dtype']}, batch {first['batch']}, "
        f"prompt {first['prompt_length']}, temperature {first['temperature']:g}, "
        f"top-k {first['top_k'] or 'none'}"
    )
    lines = ["", title]
    for name, result in zip(names, results, strict=True):
        rate = result["decode_tokens_per_second"] if result["valid"] else None
        bar = _bar(0.0 if rate is None else rate / largest, room, plain)
        bar = bar[:mark] + ("|" if plain else LIMIT) + bar[mark + 1 :]
        figures = "invalid" if rate is None else f"{rate:,.1f} {rate / limit:5.0%}"
        lines.append(f"{name:{column}}  {bar}{figures:>{FIGURES}}")
    at = " " * mark + ("|" if plain else LIMIT)
    lines.append(f"{'limit':{column}}  {at:{room}}{f'{limit:,.1f}  100%':>{FIGURES}}")
    return [line.replace("…", "~") for line in lines] if plain else lines


def _bar(part: float, room: int, plain: bool) -> str:
    eighths = round(8 * part * room)
    if plain:
        return ("#" * round(eighths / 8)).ljust(room)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(room)[:room]


def _is_plain(encoding: str | None) -> bool:
    """Return whether the terminal has ASCII alone."""
    try:
        f"{EIGHTHS}{LIMIT}…".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return False
