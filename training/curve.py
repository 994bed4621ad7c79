"""The loss of each step as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from conformance.pages.chart import WIDTH, Panel

HEIGHT = 300
_STYLE = """
text { font: 12px sans-serif; fill: #333 } rect { fill: none; stroke: #999 } line { stroke: #ddd }
polyline { fill: none } .steps { stroke: #b8cbe4 } .mean { stroke: #1f5fb0; stroke-width: 2 }
"""


def curve_svg(losses: Sequence[float]) -> str:
    """Nats a token over steps, and their mean over 50 steps or fewer, which sets the scale."""
    smoothing = min(50, 1 + len(losses) // 4)
    means = [
        (step / 1000, mean(losses[step - smoothing : step]))
        for step in range(smoothing, len(losses) + 1)
    ]
    highest = max(value for _, value in means)
    panel = Panel(30, HEIGHT - 70, (0, len(losses) / 1000), (min(losses) - 0.2, highest))
    steps = [((step + 1) / 1000, loss) for step, loss in enumerate(losses) if loss <= highest]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<style>{_STYLE}</style>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" style="fill: white; stroke: none"/>',
            *panel.frame("training loss, nats a token, over thousands of steps", with_x=True),
            panel.line(steps, "steps"),
            panel.line(means, "mean"),
            "</svg>\n",
        ]
    )
