"""Draw the loss of each training step as an SVG picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

from jinja2 import Template

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 548, 30, 260  # of the rectangle that holds the curves
PICTURE = Template("""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" role="img">
<style>
text { font: 12px sans-serif; fill: #333 } rect { fill: none; stroke: #999 }
line { stroke: #ddd } polyline { fill: none }
.steps { stroke: #b8cbe4 } .mean { stroke: #1f5fb0; stroke-width: 2 }
</style>
<rect width="{{ width }}" height="{{ height }}" style="fill: white; stroke: none"/>
<text x="{{ left }}" y="{{ top - 7 }}">training loss, nats a token, over steps</text>
<rect x="{{ left }}" y="{{ top }}" width="{{ right - left }}" height="{{ bottom - top }}"/>
{%- for value, y in losses %}
<line x1="{{ left }}" x2="{{ right }}" y1="{{ y }}" y2="{{ y }}"/>
<text x="{{ left - 6 }}" y="{{ y + 4 }}" text-anchor="end">{{ value }}</text>
{%- endfor %}
{%- for value, x in steps %}
<line x1="{{ x }}" x2="{{ x }}" y1="{{ bottom }}" y2="{{ bottom + 4 }}"/>
<text x="{{ x }}" y="{{ bottom + 17 }}" text-anchor="middle">{{ value }}</text>
{%- endfor %}
{%- for name, points in curves %}
<polyline class="{{ name }}" points="{{ points }}"/>
{%- endfor %}
</svg>
""")


def curve_svg(losses: Sequence[float]) -> str:
    """Return the picture of the losses (nats a token, one for each step) and of their mean.

    The mean is over 50 steps, or over a quarter of them if they are few. Its largest value is the
    top of the picture.
    """
    window = min(50, 1 + len(losses) // 4)
    ends = range(window, len(losses) + 1)
    means = [(float(step), mean(losses[step - window : step])) for step in ends]
    low, high = min(losses) - 0.2, max(value for _, value in means)
    inside = [(float(step), loss) for step, loss in enumerate(losses, 1) if loss <= high]

    def x(step: float) -> float:
        return round(LEFT + step / len(losses) * (RIGHT - LEFT), 1)

    def y(loss: float) -> float:
        return round(TOP + (high - loss) / (high - low) * (BOTTOM - TOP), 1)

    curves = {
        name: " ".join(f"{x(step)},{y(loss)}" for step, loss in points)
        for name, points in (("steps", inside), ("mean", means))
    }
    between = 10 ** int(math.log10(len(losses)))  # steps from one label to the next
    return PICTURE.render(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=RIGHT,
        top=TOP,
        bottom=BOTTOM,
        losses=[(value, y(value)) for value in range(math.ceil(low), math.floor(high) + 1)],
        steps=[(step, x(step)) for step in range(0, len(losses) + 1, between)],
        curves=curves.items(),
    )
