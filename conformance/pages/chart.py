"""A measured curve as inline SVG: GPT-2's under it, and below, on a scale of its own, the difference of the two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

Points = Sequence[tuple[float, float]]

WIDTH, LEFT, RIGHT = 560, 62, 12
_VIEW = (-6.0, 6.0)  # where an activation bends; beyond it is straight


@dataclass(frozen=True)
class Panel:
    """A rectangle of the drawing, and the ranges of x and y that it shows."""

    top: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(
            self.top + (self.y[1] - y) / (self.y[1] - self.y[0]) * self.height, 1
        )

    def line(self, points: Points, kind: str) -> str:
        """Through the points there are; where a value is no number, or far outside, there is a gap."""
        reach = self.y[1] - self.y[0]

        def drawable(point: tuple[float, float]) -> bool:
            return (
                all(map(math.isfinite, point)) and self.y[0] - reach < point[1] < self.y[1] + reach
            )

        pieces = [
            " ".join("{},{}".format(*self.at(*p)) for p in run)
            for good, run in groupby(points, drawable)
            if good
        ]
        return "".join(f'<polyline class="{kind}" points="{piece}"/>' for piece in pieces)

    def frame(self, title: str, *, with_x: bool) -> Iterator[str]:
        bottom = self.top + self.height
        yield f'<rect class="frame" x="{LEFT}" y="{self.top}" width="{WIDTH - LEFT - RIGHT}" height="{self.height}"/>'
        yield f'<text class="title" x="{LEFT}" y="{self.top - 7}">{title}</text>'
        for value in _ticks(*self.y, 4):
            y = self.at(0, value)[1]
            yield f'<line class="{"tick" if value else "zero"}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
            yield f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.3g}</text>'
        for value in _ticks(*self.x, 6) if with_x else ():
            x = self.at(value, 0)[0]
            yield f'<line class="tick" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>'
            yield f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{value:.3g}</text>'


def curve_svg(read: Points, expected: Points, label: str) -> str:
    """Both are points at the same x, in order. A value may be NaN or infinite. The label is HTML, escaped."""
    points = [(x, y, truth) for (x, y), (_, truth) in zip(read, expected, strict=True)]
    inner = [point for point in points if _VIEW[0] <= point[0] <= _VIEW[1]]
    points = inner if len(inner) > 1 else points
    xs = (min((x for x, *_ in points), default=0.0), max((x for x, *_ in points), default=1.0))
    xs = xs if xs[0] < xs[1] else (xs[0] - 1, xs[0] + 1)
    difference = [(x, y - truth) for x, y, truth in points]
    ys = [truth for _, _, truth in points] or [0.0]
    margin = 0.08 * (max(ys) - min(ys)) or 1.0
    largest = max((abs(d) for _, d in difference if math.isfinite(d)), default=0.0)
    most = max(largest, 1e-12) * 1.15
    upper = Panel(top=24, height=210, x=xs, y=(min(ys) - margin, max(ys) + margin))
    lower = Panel(top=276, height=100, x=xs, y=(-most, most))
    dots = "".join(
        '<circle r="1.9" cx="{}" cy="{}"/>'.format(*upper.at(x, y))
        for x, y, _ in points
        if math.isfinite(y) and upper.y[0] <= y <= upper.y[1]
    )
    return "".join(
        [
            f'<svg viewBox="0 0 {WIDTH} 402" role="img" aria-label="{label}">',
            *upper.frame("measured (line and dots) over GPT-2 (band)", with_x=False),
            upper.line([(x, truth) for x, _, truth in points], "expected"),
            upper.line([(x, y) for x, y, _ in points], "read"),
            f'<g class="points">{dots}</g>',
            *lower.frame(f"measured minus GPT-2: at most {largest:.1e}", with_x=True),
            lower.line(difference, "difference"),
            "</svg>",
        ]
    )


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two others."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return [
        0.0 if abs(n * step) < step / 2 else n * step
        for n in range(math.ceil(low / step), math.floor(high / step) + 1)
    ]
