"""The search for the value of a constant that explains logits best."""

from __future__ import annotations

import math
from collections.abc import Callable


def golden_section(
    distance: Callable[[float], float], low: float, high: float, precision: float
) -> float:
    """Return where `distance`, which has one minimum between low and high, is smallest."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = distance(left), distance(right)
    while high - low > precision:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = distance(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = distance(right)
    return (low + high) / 2
