"""Constants of GPT-2 that may have any wrong value, as mistakes with the value in their ids.

A wrong epsilon or scale can be any number, so the catalogue has no entry for each. The diagnosis
finds the value that explains an answer. `conformance.defects:epsilon-of-ln_f=1e-16` judges one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..probes.minimum import golden_section
from .complete import CompleteGPT2

Kind = type[CompleteGPT2]
_DECADES, _A_DECADE = 8, 3  # how far from GPT-2's value a search goes, and in what steps
_SLOPES, _STEP = 8, 1e-3  # how often a slope is taken, and over which part of the value


@dataclass(frozen=True)
class Constant:
    """A constant of GPT-2. `make` returns a class in which it has another value.

    `vanishes`: whether it can be too small to be seen.
    """

    name: str
    what: str
    value: float
    make: Callable[[float], Kind]
    vanishes: bool = False

    def search(self, distance: Callable[[float], float]) -> float:
        """Return the value, above zero, at which the distance is smallest."""

        def at(log: float) -> float:
            return distance(math.exp(log))

        middle, width = math.log(self.value), math.log(10) / _A_DECADE
        steps = _DECADES * _A_DECADE
        best = min((middle + step * width for step in range(-steps, steps + 1)), key=at)
        return math.exp(golden_section(at, best - width, best + width, 1e-8))

    def near(self, value: float, found: Tensor, logits_of: Callable[[float], Tensor]) -> float:
        """Return the value near this one with which the logits are found, if there is one.

        `found`: float64 [batch, time, shown]. `logits_of`: takes a value, and returns as many. Each
        step along the slope must bring them nearer by half.
        """
        here = logits_of(value)
        for _ in range(_SLOPES):
            slope = (logits_of(value * math.exp(_STEP)) - here).flatten() / _STEP
            left = (found - here).flatten()
            step = float(slope @ left / (slope @ slope))
            if not -1 < step < 1:
                break
            there = logits_of(value * math.exp(step))
            if not (found - there).abs().max() < left.abs().max() / 2:
                break
            value, here = value * math.exp(step), there
        return value

    def refine(self, value: float, distance: Callable[[float], float]) -> float:
        """Return the value nearby, to a ten-thousandth, at which the distance is smallest."""

        def at(log: float) -> float:
            return distance(value * math.exp(log))

        return value * math.exp(golden_section(at, -1e-4, 1e-4, 1e-14))


@dataclass(frozen=True)
class Measured:
    """A constant with a wrong value. The fields are those of an `Entry`."""

    constant: Constant
    value: float
    requirement: None = None
    family: str = "constants"
    source: str = "read out of the logits"

    @property
    def id(self) -> str:
        return f"{self.constant.name}={self.value:.3g}"

    @property
    def specification(self) -> str:
        """The id with all digits."""
        return f"{self.constant.name}={self.value!r}"

    @property
    def what(self) -> str:
        value = f"{self.value:.3g}" if self.value else "0, or too small to be seen"
        return f"{self.constant.what} is {value}, and not {self.constant.value:.3g}."

    @property
    def kind(self) -> Kind:
        return self.constant.make(self.value)

    @property
    def steps(self) -> frozenset[str]:
        kind = self.kind  # held here, so that it is not collected while its names are read
        return frozenset(name for name in vars(kind) if not name.startswith("__"))


def measured(specification: str) -> Measured:
    """Read name=value. Raises KeyError for a name that no constant has, or no number."""
    name, _, value = specification.partition("=")
    try:
        return Measured(CONSTANTS[name], float(value))
    except ValueError:
        raise KeyError(specification) from None


def _epsilon(*endings: str) -> Callable[[float], Kind]:
    def make(value: float) -> Kind:
        class Epsilon(CompleteGPT2):
            def epsilon(self, name: str) -> float:
                return value if name.endswith(endings) else super().epsilon(name)

        return Epsilon

    return make


def _scale(value: float) -> Kind:
    class Scale(CompleteGPT2):
        def attention_scale(self, layer: int, head_width: int) -> float:
            return value

    return Scale


def _gelu(inner: float, cubic: float) -> Kind:
    class Gelu(CompleteGPT2):
        def activation(self, x: Tensor) -> Tensor:
            return 0.5 * x * (1 + torch.tanh(inner * (x + cubic * x**3)))

    return Gelu


def _factor(step: str) -> Callable[[float], Kind]:
    """Multiply what a step returns."""

    def make(value: float) -> Kind:
        def scaled(self: CompleteGPT2, *arguments: object) -> Tensor:
            return value * getattr(super(kind, self), step)(*arguments)

        kind: Kind = type("Factor", (CompleteGPT2,), {step: scaled})
        return kind

    return make


_INNER, _CUBIC = math.sqrt(2 / math.pi), 0.044715
CONSTANTS = {
    constant.name: constant
    for constant in (
        *(
            Constant(name, f"The epsilon of {what}", 1e-5, _epsilon(*endings), vanishes=True)
            for name, what, *endings in (
                ("epsilon-of-ln_f", "ln_f", "ln_f"),
                ("epsilon-of-ln_1", "every ln_1", "ln_1"),
                ("epsilon-of-ln_2", "every ln_2", "ln_2"),
                ("epsilon-of-blocks", "ln_1, ln_2", "ln_1", "ln_2"),
                ("epsilon", "every LayerNorm", ""),
            )
        ),
        Constant("wte-factor", "The factor of the token embedding", 1.0, _factor("embed_tokens")),
        Constant(
            "wpe-factor", "The factor of the position embedding", 1.0, _factor("embed_positions")
        ),
        Constant("logits-factor", "The factor of the logits", 1.0, _factor("head")),
        Constant("attention-scale", "The scale of all scores", 0.125, _scale),
        Constant(
            "attention-scale-factor",
            "The factor of the attention scores, beside 1/sqrt(head width),",
            1.0,
            _factor("attention_scale"),
        ),
        Constant(
            "attention-factor", "The factor of what attention adds", 1.0, _factor("attention")
        ),
        Constant("mlp-factor", "The factor of what the MLP adds", 1.0, _factor("mlp")),
        Constant("gelu-cubic", "GELU's cubic constant", _CUBIC, lambda c: _gelu(_INNER, c)),
        Constant("gelu-inner", "The factor inside GELU's tanh", _INNER, lambda c: _gelu(c, _CUBIC)),
    )
}
