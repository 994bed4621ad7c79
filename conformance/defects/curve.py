"""A function that no entry has, as a curve through the points that were read of it."""

from __future__ import annotations

import json
from functools import cached_property

import torch
from torch import Tensor

from .complete import CompleteGPT2
from .read import ReadFile

POINTS = 6  # of a polynomial
_SAID = (-3.0, -1.0, -0.5, 0.5, 1.0, 3.0)  # the points that a verdict shows


class Curve:
    """A curve through points: in each cell a polynomial, beyond the first and the last straight.

    A polynomial goes through POINTS points next to each other, two of them the cell's ends. Of
    those that can be chosen, the one with the smallest highest difference is taken. So a kink at a
    point spoils no cell beside it.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        """Take float64 [point], at least POINTS, with x in ascending order."""
        self.x, self.y = x, y
        self.differences = [y]  # divided differences, of each order one fewer
        for order in range(1, POINTS):
            before = self.differences[-1]
            self.differences.append((before[1:] - before[:-1]) / (x[order:] - x[:-order]))
        highest = self.differences[-1].abs()
        starts = torch.arange(len(x) - 1)[:, None] - torch.arange(POINTS - 1)
        starts = starts.clamp(0, len(highest) - 1)
        best = highest[starts].argmin(-1, keepdim=True)
        self.starts = starts.gather(-1, best)[:, 0]  # of each cell, the first of its points

    def __call__(self, x: Tensor) -> Tensor:
        cell = (torch.searchsorted(self.x, x, right=True) - 1).clamp(0, len(self.starts) - 1)
        start = self.starts[cell]
        inside = self.differences[-1][start]
        for order in reversed(range(POINTS - 1)):
            inside = self.differences[order][start] + (x - self.x[start + order]) * inside
        slopes = self.differences[1]
        low = self.y[0] + (x - self.x[0]) * slopes[0]
        high = self.y[-1] + (x - self.x[-1]) * slopes[-1]
        return torch.where(x < self.x[0], low, torch.where(x > self.x[-1], high, inside))

    def in_words(self) -> str:
        """For example: -0.16 at -1, 0.84 at 1."""
        said = torch.tensor(_SAID, dtype=torch.float64)
        pairs = zip(_SAID, self(said).tolist(), strict=True)
        return ", ".join(f"{y:.5g} at {x:g}" for x, y in pairs)


class ReadCurve(ReadFile):
    """An activation that was read.

    `file`: JSON with the points, `{"x": [...], "y": [...]}`.
    """

    name = "activation-curve"
    like = "relu"
    family = "activation"
    steps = frozenset({"activation"})

    @cached_property
    def curve(self) -> Curve:
        points = json.loads(self.file.read_text(encoding="utf-8"))
        x, y = (torch.tensor(points[name], dtype=torch.float64) for name in "xy")
        return Curve(x, y)

    @property
    def what(self) -> str:
        return f"The activation is none of those that are known. It is {self.curve.in_words()}."

    @cached_property
    def kind(self) -> type[CompleteGPT2]:
        curve = self.curve

        class Activation(CompleteGPT2):
            def activation(self, x: Tensor) -> Tensor:
                return curve(x.double()).to(x.dtype)

        return Activation
