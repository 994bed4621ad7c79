"""A design's checkpoint in a shape: what its logits must be, and which mistakes would give others.

A mistake is a subclass of PlainGPT2 that gets a step wrong, under the id of its entry in the
catalogue. What a probe sees is compared with what each of them makes of the same checkpoint.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import Tensors, blank, random_token_ids
from ..judging.oracle import allowed_error, error
from .designs import PROBE, SEED, Design
from .gpt2 import PlainGPT2
from .minimum import golden_section

COARSE = (torch.float16, torch.bfloat16)
Kind = type[PlainGPT2]
# Steps whose override alters what a blank layer passes on, or counts it. Under any other mistake a
# blank layer adds zero.
PASSED_ON = ("block", "layers")


def with_constant(name: str, value: float) -> Kind:
    """Return a GPT-2 whose "attention scale" or "epsilon of ln_1" (ln_2, ln_f) has this value."""
    norm = name.removeprefix("epsilon of ")

    class WithConstant(PlainGPT2):
        def epsilon(self, name: str) -> float:
            return value if name.endswith(norm) else super().epsilon(name)

        def attention_scale(self, layer: int, head_width: int) -> float:
            if norm == "attention scale":
                return value
            return super().attention_scale(layer, head_width)

    return WithConstant


def _in_float64(design: Design, config: GPT2Config, seed: int) -> Tensors:
    tensors = design.make(config, seed)
    return {key: tensors.pop(key).double() for key in list(tensors)}


_small = lru_cache(maxsize=16)(_in_float64)  # 20 MB each
_large = lru_cache(maxsize=1)(_in_float64)  # 1 GB for all layers of the 124M shape


class Experiment:
    """A design's checkpoint in a shape, its input, and what logits must be and may be.

    PROBE is cut to the layers that the design uses. Any other shape is built into somebody's
    program and stays as it is: the layers that the design does not use are blank.
    """

    def __init__(
        self, design: Design, shape: GPT2Config, dtype: torch.dtype, seed: int = SEED
    ) -> None:
        self.design, self.dtype, self.seed = design, dtype, seed
        self.used = design.used(shape)
        self.config = self.used if shape == PROBE else replace(self.used, n_layer=shape.n_layer)
        self.token_ids = random_token_ids(
            self.config, batch=2, time=min(9, self.config.n_positions), seed=seed
        )
        # Few enough logits that all mistakes can be tried; those found are checked on all logits.
        self.shown = torch.arange(0, self.config.vocab_size, 523)
        self._shown_logits: dict[Kind, Tensor] = {}
        self.shift = 0.0  # what an implementation adds to all logits

    @property
    def tensors(self) -> Tensors:
        """The checkpoint, made anew each time: in a published shape it is large."""
        return blank(self.config) | self.design.make(self.used, self.seed)

    def forward(
        self,
        kind: Kind = PlainGPT2,
        *,
        dtype: torch.dtype = torch.float64,
        shown: Tensor | slice = PlainGPT2.shown,
    ) -> Tensor:
        """Return the logits [batch, time, vocab] of a right GPT-2, or of one with a mistake.

        Blank layers are left out where they add nothing. `shown`: the tokens whose logits are
        wanted. Raises RuntimeError for a mistake that cannot be made in this shape.
        """
        whole = any(getattr(kind, step) is not getattr(PlainGPT2, step) for step in PASSED_ON)
        if whole and self.used != self.config:
            model = kind(self.tensors, self.config, dtype=dtype)
        else:
            make = _small if self.used.n_embd == PROBE.n_embd else _large
            tensors = make(self.design, self.used, self.seed)
            model = kind(tensors, self.used, dtype=dtype)
        model.shown = shown
        return model.logits(self.token_ids)

    def of_shifted(self, logits: Tensor) -> Experiment:
        """Return the experiment for an implementation that adds a constant to all logits.

        They are rounded together with it, so a larger error is allowed.
        """
        shift = float((logits - self.truth).mean(-1).abs().max())
        if not self.allowed < shift < math.inf:
            return self
        shifted = copy.copy(self)  # with the logits that are known
        shifted.shift = shift
        del shifted.allowed
        return shifted

    @cached_property
    def truth(self) -> Tensor:
        return self.forward()

    @cached_property
    def allowed(self) -> float:
        return self.allowed_in(self.dtype)

    def allowed_in(self, dtype: torch.dtype, kind: Kind = PlainGPT2) -> float:
        """Return the largest error that is allowed in a dtype.

        It is derived as for parity (see `oracle`), with the plain forward pass as the sound
        implementation. Another `kind` rounds otherwise: scores that are eight times as large are
        rounded more coarsely.
        """
        truth = self.truth if kind is PlainGPT2 else self.forward(kind)
        return allowed_error(
            lambda run_in: float(error(self.forward(kind, dtype=run_in).double(), truth).max()),
            float(truth.abs().max()) + self.shift,
            dtype,
        )

    def coarser_precision(self, logits: Tensor) -> torch.dtype | None:
        """Return the precision, below the one judged, whose rounding would excuse the logits."""
        coarser = (
            dtype for dtype in COARSE if torch.finfo(dtype).eps > torch.finfo(self.dtype).eps
        )
        return next(
            (dtype for dtype in coarser if self.distance(logits) <= self.allowed_in(dtype)), None
        )

    def distance(self, logits: Tensor, kind: Kind = PlainGPT2) -> float:
        """Return the largest difference from the logits of a kind of GPT-2.

        It is infinite for a mistake that cannot be made in this shape.
        """
        try:
            expected = self.truth if kind is PlainGPT2 else self.forward(kind)
        except RuntimeError:  # heads that do not divide the width
            return math.inf
        return float(error(logits, expected).max())

    def near(self, logits: Tensor, kind: Kind) -> float:
        """Return `distance` on the shown logits alone: never more than twice the whole."""
        try:
            expected = self._shown_logits.get(kind)
            if expected is None:
                expected = self._shown_logits[kind] = self.forward(kind, shown=self.shown)
        except RuntimeError:
            return math.inf
        return float(error(logits[..., self.shown], expected).max())

    def effect(self, kind: Kind) -> float:
        """Return by how much a mistake changes the shown logits: what there is to see of it."""
        return self.near(self.truth, kind)

    def constant(self, name: str) -> float:
        """Return the value that GPT-2 has."""
        if name == "attention scale":
            return self.config.head_width**-0.5
        return self.config.layer_norm_epsilon

    def read(self, name: str, logits: Tensor) -> float:
        """Return the value of a constant that explains the logits best.

        It is looked for between a ten-thousandth and ten thousand times GPT-2's value, on a grid,
        then by golden section down to float32's rounding: with the value that is read, the logits
        must be within what is allowed.
        """
        known = self.constant(name)
        shown = logits[..., self.shown]

        def distance(log_factor: float) -> float:
            kind = with_constant(name, known * math.exp(log_factor))
            return float(error(shown, self.forward(kind, shown=self.shown)).max())

        width = math.log(10) / 4
        low = min((step * width for step in range(-16, 17)), key=distance) - width
        # Not centred on a grid point, one of which is GPT-2's value: it must be found.
        return known * math.exp(golden_section(distance, low, low + 2.3 * width, 1e-7))

    def explained_by(self, logits: Tensor, kinds: Mapping[str, Kind]) -> list[str]:
        """Return the ids of the mistakes that give just these logits."""
        return [
            name
            for name, kind in kinds.items()
            if self.near(logits, kind) <= 2 * self.allowed
            and self.effect(kind) > 2 * self.allowed
            and self.distance(logits, kind) <= self.allowed
        ]
