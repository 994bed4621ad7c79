"""Find the decode rate of an engine that says nothing before its last token.

It is called for all new tokens, for half of them, and for one. The call for one token is the
prefill. Between two calls, the difference of the times belongs to the difference of the tokens:

    seconds of a step = (seconds for the more tokens - seconds for the fewer) / (more - fewer)

What a call costs whatever its length, such as making a cache, is in neither. Of the two differences
the larger one counts, so an engine gains nothing from being slow when few tokens are asked for. An
engine without a cache, whose steps become longer, shows the rate of its later steps.

Each call has prompts of its own. Otherwise the shorter call would prepare the longer one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from .timing import TimeStampError, Timing


def lengths(new_tokens: int) -> list[int]:
    """Return the numbers of tokens to ask for. The first call after loading asks for all."""
    return sorted({1, (new_tokens + 1) // 2, new_tokens}, reverse=True)


def from_calls(seconds: Mapping[int, float]) -> Timing:
    """Make a Timing of the seconds that calls for several numbers of tokens took.

    All its steps are equally long. Raises TimeStampError if more tokens took no longer.
    """
    tokens = sorted(seconds)
    steps = [
        (seconds[more] - seconds[fewer]) / (more - fewer)
        for fewer, more in itertools.pairwise(tokens)
    ]
    if max(steps) <= 0:
        shown = ", ".join(f"{count} in {seconds[count]:.3g} s" for count in tokens)
        raise TimeStampError(f"more new tokens took no longer: {shown}")
    return Timing(
        seconds[1],
        (max(steps),) * (tokens[-1] - 1),
        seconds[tokens[-1]],
        tuple((count, seconds[count]) for count in tokens),
    )
