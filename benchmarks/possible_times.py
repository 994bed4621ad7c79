"""Find times that no GPT-2 can have reached: they are faster than the memory can be read.

A decode step reads every weight once, and the keys and values of all earlier tokens
(`limits.bytes_of_steps`). A prefill reads every weight at least once, however long its prompts are,
because choosing the first token needs all of them. So these bytes over the bandwidth are the least
time of any implementation that computes in the row's dtype. The bandwidth is the best of many
readings, since other work on the machine makes a reading slower and never faster.

A row may pass this limit by MARGIN, because a shared machine reads faster at one moment than at the
next. Few steps vary more than the mean of many, so n steps in a row may be faster by another 1 / n.
Measured on two cores that four other people kept busy, with 36 readings in each of 12 cells:
compiled steps of the 124M shape passed the limit by at most 61% for one step, 34% for two, 22% for
four, 13% for eight, 10% for sixteen, and 1% for a round of 31.

Where the steps are not reported (`lengths.py`), the rate and the prefill are judged alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np

from .results import MOST_PERCENT
from .timing import Timing

MARGIN = MOST_PERCENT / 100 - 1

# Device type -> by how many steps tokens may be ready before the host reads them. On CUDA the
# device goes on while the host waits (`gpt2ref.fast.captured_step.LAG`), so a host that was held up
# reads several tokens at once. On the CPU each step begins when the host has the last token.
AHEAD = {"cpu": 0, "cuda": 8}

# Seconds that a call may need to return, however short its steps are. Measured beside other work:
# 0.06 to 0.42 ms, and once 4.6 ms.
LEAST_TAIL = 20e-3


def impossible_times(
    rounds: Sequence[Timing],
    weight_bytes: int,
    step_bytes: Sequence[int],
    bandwidth: float,
    ahead: int = 0,
) -> str | None:
    """Return in a sentence why these times are impossible. None if they are possible.

    `step_bytes` are the bytes of each decode step, `bandwidth` is in bytes/s, and `ahead` is the
    number of steps that may be ready before the host reads them.
    """
    needed = [each / bandwidth for each in step_bytes]
    limit = f"at the {bandwidth / 1e9:.1f} GB/s measured"
    prefill = weight_bytes / bandwidth
    if any(timing.call_seconds for timing in rounds):  # there are no time stamps to judge
        return _impossible_rate(rounds, needed, limit) or _impossible_prefill(
            rounds, prefill, limit
        )
    return (
        _impossible_rate(rounds, needed, limit)
        or _impossible_quarter(rounds, needed, limit)
        or _burst(rounds, needed, limit, ahead)
        or _impossible_prefill(rounds, prefill, limit)
        or _late_return(rounds)
    )


def _impossible_rate(rounds: Sequence[Timing], needed: Sequence[float], limit: str) -> str | None:
    """Judge the rate of the median round."""
    rate = median(sum(needed) / sum(timing.decode_seconds) for timing in rounds)
    if rate <= 1 + MARGIN:
        return None
    mean = median(sum(timing.decode_seconds) / len(needed) for timing in rounds)
    return (
        f"decode steps took {_ms(mean)} in the mean, {_least(needed, limit)}: "
        f"{100 * rate:,.0f}% of the bandwidth, so the tokens were not computed in these steps"
    )


def _impossible_quarter(
    rounds: Sequence[Timing], needed: Sequence[float], limit: str
) -> str | None:
    """Judge a quarter of all steps, and not half, so that tokens reported in pairs are found."""
    steps = [np.divide(needed, timing.decode_seconds) for timing in rounds]
    quartile = float(np.percentile(np.concatenate(steps), 75))
    if quartile <= 1 + MARGIN:
        return None
    return (
        f"a quarter of the decode steps took at most {_ms(median(needed) / quartile)}, "
        f"{_least(needed, limit)}: tokens were computed earlier than they were reported"
    )


def _least(needed: Sequence[float], limit: str) -> str:
    return f"but a step has to read for {_ms(median(needed))} {limit}"


def _burst(rounds: Sequence[Timing], needed: Sequence[float], limit: str, ahead: int) -> str | None:
    """Find the tokens that came the fastest, in relation to what so many steps may take."""
    work = np.cumsum([0.0, *needed])
    worst, found = 1.0, None
    for number, timing in enumerate(rounds, 1):
        at = np.cumsum([0.0, *timing.decode_seconds])
        for count in range(ahead + 1, len(at)):
            computed = count - ahead  # steps that belong to this time and to no earlier one
            least = (work[computed:] - work[:-computed])[: len(at) - count]
            took = at[count:] - at[:-count]
            faster = least / took / (1 + MARGIN + 1 / computed)
            first = int(faster.argmax())
            if faster[first] > worst:
                worst, found = faster[first], (number, count, first, took[first], least[first])
    if found is None:
        return None
    number, count, first, seconds, reading = found
    tokens = f"new token {first + 1}" if count == 1 else f"{count} new tokens"
    return (
        f"round {number}: {tokens} came {_ms(seconds)} after new token {first}, "
        f"but computing that has to read for {_ms(reading)} {limit}: "
        "tokens were reported in a burst"
    )


def _impossible_prefill(rounds: Sequence[Timing], needed: float, limit: str) -> str | None:
    """Judge the median prefill as the rate, and each prefill as a single step."""
    seconds = [timing.prefill_seconds for timing in rounds]
    if needed > (1 + MARGIN) * median(seconds) or needed > (2 + MARGIN) * min(seconds):
        return (
            f"a prefill took {_ms(min(seconds))}, but it has to read every weight once, "
            f"for {_ms(needed)} {limit}: its prompt was not computed in that time"
        )
    return None


def _late_return(rounds: Sequence[Timing]) -> str | None:
    """Judge the time after the last token, in which nothing is left to compute.

    The shortest of the rounds counts, as other work may delay the return of an honest call.
    """
    tail = min(
        timing.end_to_end_seconds - timing.prefill_seconds - sum(timing.decode_seconds)
        for timing in rounds
    )
    step = median(seconds for timing in rounds for seconds in timing.decode_seconds)
    if tail > max(step / 2, LEAST_TAIL):
        return (
            f"the call went on for {_ms(tail)} after its last token, longer than half a step: "
            "tokens were reported before they were computed"
        )
    return None


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g} ms"
