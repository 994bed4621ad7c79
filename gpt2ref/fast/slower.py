"""One warning for each thing that makes the loop faster, and has failed."""

from __future__ import annotations

import warnings

_said: set[str] = set()


def warn_slower(failure: str, error: Exception) -> None:
    """Warn that the loop goes on without what has failed. Each failure is told once a process."""
    if failure in _said:
        return
    _said.add(failure)
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    warnings.warn(
        f"{failure} ({reason}), so generation is slower. The tokens are the same.",
        RuntimeWarning,
        stacklevel=2,
    )
