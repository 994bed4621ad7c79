"""Lay out the chart of a measured activation function, which `templates/activation.svg` draws.

The upper panel shows the measured curve over GPT-2's, the lower one their difference.
Lengths are in units of the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

Points = Sequence[tuple[float, float]]

WIDTH, LEFT, RIGHT = 560, 62, 548  # of the drawing, and where panels begin and end
_BEND = (-6.0, 6.0)  # the range of x in which an activation function bends


@dataclass
class Panel:
    """A rectangle that shows a range of x and of y."""

    title: str
    top: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    lines: list[tuple[str, str]] = field(default_factory=list)  # CSS class, points of a polyline
    dots: list[tuple[float, float]] = field(default_factory=list)

    def across(self, x: float) -> float:
        """Return where x is in the drawing."""
        low, high = self.x
        return round(LEFT + (x - low) / (high - low) * (RIGHT - LEFT), 1)

    def down(self, y: float) -> float:
        """Return where y is in the drawing."""
        low, high = self.y
        return round(self.top + (high - y) / (high - low) * self.height, 1)

    def add_line(self, kind: str, points: Points) -> None:
        """Draw a line with gaps, where a value is not finite or is far outside the panel."""
        low, high = self.y
        reach = high - low
        for drawn, run in groupby(points, lambda point: low - reach < point[1] < high + reach):
            if drawn:
                self.lines.append(
                    (kind, " ".join(f"{self.across(x)},{self.down(y)}" for x, y in run))
                )

    @property
    def x_ticks(self) -> list[float]:
        return _ticks(*self.x, 6)

    @property
    def y_ticks(self) -> list[float]:
        return _ticks(*self.y, 4)


class ActivationChart:
    """Both curves have the same values of x, in order. y may be NaN or infinite."""

    width, left, right = WIDTH, LEFT, RIGHT

    def __init__(self, read: Points, expected: Points, label: str) -> None:
        self.label = label
        self.panels = _panels(read, expected)


def _panels(read: Points, expected: Points) -> list[Panel]:
    points = [(x, y, truth) for (x, y), (_, truth) in zip(read, expected, strict=True)]
    inner = [point for point in points if _BEND[0] <= point[0] <= _BEND[1]]
    points = inner if len(inner) > 1 else points
    xs = [x for x, _, _ in points] or [0.0]
    x_range = (min(xs), max(xs)) if min(xs) < max(xs) else (xs[0] - 1, xs[0] + 1)
    truths = [truth for _, _, truth in points] or [0.0]
    margin = 0.08 * (max(truths) - min(truths)) or 1.0
    differences = [(x, y - truth) for x, y, truth in points]
    largest = max((abs(d) for _, d in differences if math.isfinite(d)), default=0.0)
    reach = 1.15 * max(largest, 1e-12)

    y_range = (min(truths) - margin, max(truths) + margin)
    title = "measured (line and dots) over GPT-2 (band)"
    upper = Panel(title, 24, 210, x_range, y_range)
    upper.add_line("expected", [(x, truth) for x, _, truth in points])
    upper.add_line("read", [(x, y) for x, y, _ in points])
    upper.dots += [
        (upper.across(x), upper.down(y)) for x, y, _ in points if y_range[0] <= y <= y_range[1]
    ]
    title = f"measured minus GPT-2: at most {largest:.1e}"
    lower = Panel(title, 276, 100, x_range, (-reach, reach))
    lower.add_line("difference", differences)
    return [upper, lower]


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Return round numbers between two numbers, about as many as asked for."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    multiples = range(math.ceil(low / step), math.floor(high / step) + 1)
    return [multiple * step for multiple in multiples]
