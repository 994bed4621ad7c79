"""Lay out the charts of decode tokens/s that the templates `*.svg` draw.

There are a heat map over temperature and top-k, bars with their rounds, and lines under the
bandwidth limit. The colours are the page's. Lengths are in units of a drawing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from .bars import shortened
from .results import Result
from .sampling import Sampling
from .tables import axes, greedy_rate, limits, rates_by_sampling, three_digits, validity

_FULL_LOSS = 0.5  # the part of the greedy rate whose loss has the strongest colour
Point = tuple[float, float]


class HeatCell(NamedTuple):
    """A setting of the sampler in the heat map. One that has no valid result has no rate."""

    x: float
    y: float
    words: str  # why there is no rate
    rate: str = ""
    share: str = ""  # of the greedy rate
    opacity: float = 0.0  # of the colour for what is lost


class HeatMap:
    """Temperature by top-k, for one implementation and shape. A cell's colour is what it loses
    against greedy decoding."""

    left, top, cell_width, cell_height = 62, 40, 84, 42

    def __init__(self, results: Sequence[Result], label: str) -> None:
        self.results = results
        self.label = label
        self.temperatures, self.top_ks = axes(results)
        self.width = self.left + self.cell_width * len(self.top_ks)
        self.height = self.top + self.cell_height * len(self.temperatures)

    @property
    def columns(self) -> list[tuple[float, str]]:
        """The middle of each column, and its top-k."""
        return [
            (self.left + self.cell_width * (number + 0.5), str(top_k or "none"))
            for number, top_k in enumerate(self.top_ks)
        ]

    @property
    def lines(self) -> list[tuple[float, str]]:
        """The middle of each line, and its temperature."""
        return [
            (self.top + self.cell_height * (number + 0.5), f"{temperature:g}")
            for number, temperature in enumerate(self.temperatures)
        ]

    @property
    def cells(self) -> Iterator[HeatCell]:
        for line, temperature in enumerate(self.temperatures):
            for column, top_k in enumerate(self.top_ks):
                x, y = self.left + self.cell_width * column, self.top + self.cell_height * line
                yield self._cell(Sampling(temperature, top_k), x, y)

    def _cell(self, sampling: Sampling, x: float, y: float) -> HeatCell:
        rates, greedy = rates_by_sampling(self.results), greedy_rate(self.results)
        there = [result for result in self.results if result.sampling == sampling]
        if sampling not in rates:
            return HeatCell(x, y, "invalid" if there else "not run")
        rate = rates[sampling]
        share = rate / greedy if greedy else 1.0
        loss = min(max(1 - share, 0.0) / _FULL_LOSS, 1.0)
        star = "*" if any(result.unstable for result in there) else ""
        shown = f"{share:.0%}" if greedy else ""
        return HeatCell(x, y, "", f"{three_digits(rate)}{star}", shown, 0.6 * loss)


class Bar(NamedTuple):
    """A result: the median round, all rounds, and what is written beside them."""

    result: Result
    colour: int
    y: float
    name: str  # short enough for the column
    end: float
    rounds: Sequence[float]
    rate: str
    comparisons: Sequence[str]
    warning: str  # that the result is unstable


class BarChart:
    """The implementations at one setting of the sampler and one shape."""

    width, names, figures, step = 760, 130, 275, 30  # of the drawing, its columns, and a bar
    longest_name = 18  # characters

    def __init__(self, results: Sequence[Result], colours: Mapping[str, int], label: str) -> None:
        self.results, self.colours, self.label = results, colours, label
        self.right = self.width - self.figures
        self.bottom = 8 + self.step * len(results)
        rates = [max(*r.rates, r.tokens_per_second) for r in results if r.valid]
        self.largest = max(rates, default=1.0)

    def across(self, rate: float) -> float:
        """Return where a rate is."""
        return round(self.names + rate / self.largest * (self.right - self.names), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Round numbers from 0 on, about five, each with its place."""
        power = 10.0 ** math.floor(math.log10(self.largest / 5))
        factor = next(factor for factor in (1, 2, 5, 10) if factor * power >= self.largest / 5)
        count = math.floor(self.largest / (factor * power))
        values = [factor * power * number for number in range(count + 1)]
        return [(self.across(value), f"{value:,.4g}") for value in values]

    @property
    def bars(self) -> Iterator[Bar]:
        for number, result in enumerate(self.results):
            yield self._bar(result, 8 + self.step * (number + 0.5))

    def _bar(self, result: Result, y: float) -> Bar:
        name, colour = result.implementation, self.colours[result.implementation]
        short = shortened(name, self.longest_name)
        if not result.valid:
            return Bar(result, colour, y, short, self.names, (), "", (), "")
        ratio, percent = result.number("ratio_to_huggingface"), result.number("bandwidth_percent")
        comparisons = [] if ratio is None else [f"{ratio:.2f}x HF"]
        comparisons += [] if percent is None else [f"{percent:.0f}% bw"]
        rate = result.tokens_per_second
        rounds = [self.across(each) for each in result.rates]
        warning = validity(result) if result.unstable else ""
        end = self.across(rate)
        return Bar(result, colour, y, short, end, rounds, three_digits(rate), comparisons, warning)


@dataclass
class LineChart:
    """Tokens/s over batch or prompt length at one setting of the sampler, both logarithmic.

    Each implementation has a line through its medians and a dot for each round. The bandwidth
    limit is a line as well.
    """

    results: Sequence[Result]
    field: str  # of Shape, which varies
    colours: Mapping[str, int]
    label: str
    width, height, left, right, top, bottom = 560, 294, 62, 548, 24, 254

    @cached_property
    def values(self) -> list[int]:
        return sorted({getattr(result.shape, self.field) for result in self.results})

    @cached_property
    def _x_range(self) -> Point:
        first, last = math.log2(self.values[0]), math.log2(self.values[-1])
        beside = 0.06 * (last - first)
        return first - beside, last + beside

    @cached_property
    def _y_range(self) -> Point:
        """A factor of four at least, so that noise is not magnified."""
        rates = [each for result in self.results for each in result.rates]
        rates += limits(self.results, self.field).values()
        low, high = math.log10(min(rates)), math.log10(max(rates))
        above = max(0.08 * (high - low), (math.log10(4) - (high - low)) / 2)
        return low - above, high + above

    def across(self, value: float) -> float:
        """Return where a batch or a prompt length is."""
        low, high = self._x_range
        part = (math.log2(value) - low) / (high - low)
        return round(self.left + part * (self.right - self.left), 1)

    def down(self, rate: float) -> float:
        """Return where a rate is."""
        low, high = self._y_range
        return round(
            self.top + (high - math.log10(rate)) / (high - low) * (self.bottom - self.top), 1
        )

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Round numbers with their places: the fewer decades there are, the more of each."""
        low, high = self._y_range
        decades = high - low
        factors = (1, 1.5, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 2.5 else (1,)
        powers = range(math.floor(low), math.ceil(high) + 1)
        values = [factor * 10.0**power for power in powers for factor in factors]
        within = [value for value in values if low <= math.log10(value) <= high]
        return [(self.down(value), f"{value:,.4g}") for value in within]

    @property
    def limit(self) -> str:
        """The points of the bandwidth limit's line."""
        return self._points(sorted(limits(self.results, self.field).items()))

    @property
    def lines(self) -> Iterator[tuple[int, str, list[Point]]]:
        """The colour, the points of the line and the rounds of each implementation."""
        for name in dict.fromkeys(result.implementation for result in self.results):
            own = [result for result in self.results if result.implementation == name]
            own.sort(key=lambda result: getattr(result.shape, self.field))
            medians = [(getattr(r.shape, self.field), r.tokens_per_second) for r in own]
            rounds = [
                (self.across(getattr(result.shape, self.field)), self.down(rate))
                for result in own
                for rate in result.rates
            ]
            yield self.colours[name], self._points(medians), rounds

    def _points(self, pairs: Sequence[tuple[int, float]]) -> str:
        return " ".join(f"{self.across(value)},{self.down(rate)}" for value, rate in pairs)
