"""Breaks a long call of a written adapter into lines."""

WIDTH = 84  # less than 100, since the line stands in a function


def wrapped(start: str, parts: list[str], end: str) -> str:
    """Return the parts between start and end, in one line if it is short enough."""
    line = f"{start}{', '.join(parts)}{end}"
    return (
        line if len(line) < WIDTH else "\n".join([start, *(f"    {part}," for part in parts), end])
    )
