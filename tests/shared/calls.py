"""Record the calls of a function that a test replaces."""

from collections.abc import Callable
from typing import Any


def recorded(function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> Callable[..., Any]:
    """Return a function that does the same and appends its positional arguments to `calls`."""

    def record(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return function(*arguments, **options)

    return record
