"""Judge whether an implementation is a right GPT-2. `pytest conformance/` runs the suite.

    from gpt2ref_conformance import judge, requirements_for

These are imported when they are first used, so the package itself needs no pytest.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .from_python.judge import judge
    from .from_python.own_tests import requirements_for
    from .from_python.verdict import Verdict

__all__ = ["Verdict", "judge", "requirements_for"]

_PLACES = {"judge": "judge", "requirements_for": "own_tests", "Verdict": "verdict"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .invocation import module

    return getattr(module(f"from_python.{_PLACES[name]}"), name)
