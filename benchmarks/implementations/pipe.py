"""Measure what the messages of a program cost, by a program that answers at once.

Its answers are as long as those of the program that is measured, and are read by the same code.
What remains is the work of both sides: JSON, base64, and the pipe.
"""

from __future__ import annotations

import itertools
import shlex
import sys
import time
from collections.abc import Sequence
from statistics import median

from ..sampling import Sampling
from .protocol import Implementation, TokenIds

# An answer of logits is kept by its shape, so that only the first one takes long.
ECHO = """
import base64, json, sys
kept, vocab_size = {}, 0
def encoded(**answer):
    return json.dumps(answer).encode() + bytes([10])
for line in sys.stdin:
    asked = json.loads(line)
    ids = asked.get("token_ids", [[]])
    shape = len(ids), len(ids[0]), vocab_size
    if asked["method"] == "load":
        with open(asked["checkpoint"] + "/config.json") as file:
            vocab_size = json.load(file)["vocab_size"]
        answer = encoded(methods=sys.argv[1:])
    elif asked["method"] == "generate":
        answer = encoded(token_ids=[[0] * asked["max_new_tokens"] for _ in ids])
    else:
        if shape not in kept:
            zeros = base64.b64encode(bytes(4 * len(ids) * len(ids[0]) * vocab_size))
            kept[shape] = encoded(shape=shape, logits=zeros.decode(), cache=0)
        answer = kept[shape]
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
"""


def echoing(methods: Sequence[str]) -> str:
    """Return the adapter's name of a program that has these methods and computes nothing."""
    return f"command: {shlex.join([sys.executable, '-c', ECHO, *methods])}"


def message_seconds(echo: Implementation, prompts: TokenIds, max_new_tokens: int) -> float:
    """Return the median seconds of a step, or of a call if the steps are not reported."""
    for _ in range(2):  # the first is a warm-up
        readings = [time.perf_counter()]
        echo.generate(
            prompts,
            Sampling(0.0, None),
            max_new_tokens=max_new_tokens,
            seed=0,
            on_step=lambda: readings.append(time.perf_counter()),  # noqa: B023 - called in it
        )
        readings = readings if echo.reports_steps else [readings[0], time.perf_counter()]
    first = 1 if echo.reports_steps else 0  # a prefill is no step
    return median(later - earlier for earlier, later in itertools.pairwise(readings[first:]))
