"""Probes: small checkpoints, each made so that one fact of the architecture decides its logits.

What a probe sees is looked up among the known mistakes (`facts`): first those of its own fact, then all others. So a
failure says what is wrong, and one cause that spoils many probes is told as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import Tensors, blank, random_token_ids, trained_like
from ..judging.oracle import allowed_error, error
from .forward import FACTS, forward

# 12 layers, as h.10 sorts before h.2; 4 heads of width 6.
PROBE = GPT2Config(n_positions=16, n_embd=24, n_layer=12, n_head=4)
SEED = 20
COARSE = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Design:
    """A kind of checkpoint: what is in it beside the embeddings and LayerNorms, which always are."""

    name: str
    attention: bool = True
    mlp: bool = True
    n_layer: int | None = 2  # that it is in, the first ones; None: all of the shape's
    embedding_std: float | None = None  # of wte, with wpe zero; None: trained-like
    n_inner: int | None = None
    alike: float | None = (
        None  # every channel of each key and query; negative in the second layer's queries
    )

    def own(self, shape: GPT2Config) -> GPT2Config:
        """The shape, cut to the layers that the design is in."""
        return replace(
            shape, n_layer=min(self.n_layer or shape.n_layer, shape.n_layer), n_inner=self.n_inner
        )

    def make(self, config: GPT2Config, seed: int = SEED) -> Tensors:
        """Tensors of a config of its `own`."""
        tensors = trained_like(config, seed)
        for key, tensor in tensors.items():
            if (".attn." in key and not self.attention) or (".mlp." in key and not self.mlp):
                tensor.zero_()
            if self.alike is not None and ".attn.c_attn." in key:
                tensor[..., : 2 * config.n_embd] = self.alike if key.endswith("bias") else 0.0
                tensor[..., : config.n_embd] *= -1.0 if key.startswith("h.1.") else 1.0
        if self.embedding_std is not None:
            tensors["wte.weight"] *= self.embedding_std / tensors["wte.weight"][1:].std()
            tensors["wpe.weight"].zero_()
        return tensors


EMBEDDING = Design("embedding alone", attention=False, mlp=False, n_layer=1)
ATTENTION = Design("attention alone", mlp=False)
MLP = Design("MLP alone", attention=False)
# Scores of 24^2 sqrt(head width), 1411 and more: float16 holds the sum that they are, and no dtype their exponential.
LARGE_SCORES = Design("attention with large scores, all alike", mlp=False, alike=24.0)
ALL = Design("two whole blocks")
DEEP = Design("all layers", n_layer=None)
NARROW = Design("MLP of a width of its own", attention=False, n_inner=40)
SQUARE = Design("MLP as wide as the model", n_inner=PROBE.n_embd)
# A standard deviation at which LayerNorm's epsilon of 1e-5 is as large as the variance.
FAINT = math.sqrt(1e-5)
FAINT_LN_1 = Design("faint embedding, attention alone", mlp=False, n_layer=1, embedding_std=FAINT)
FAINT_LN_2 = Design("faint embedding, MLP alone", attention=False, n_layer=1, embedding_std=FAINT)
FAINT_LN_F = Design("faint embedding", attention=False, mlp=False, n_layer=1, embedding_std=FAINT)

# Requirement -> the fact that it is about, and the checkpoint that shows it.
FACT_PROBES: dict[str, tuple[str, Design]] = {
    "activation.curve": ("activation", MLP),
    "layer-norm.variance": ("variance", EMBEDDING),
    "layer-norm.mean": ("mean", EMBEDDING),
    "layer-norm.epsilon-place": ("epsilon", FAINT_LN_F),
    "blocks.norms": ("norms", ALL),
    "blocks.residual": ("residual", ALL),
    "blocks.order": ("blocks", ALL),
    "blocks.branches": ("branches", ALL),
    "blocks.layers": ("layers", DEEP),
    "final-norm.count": ("final norm", EMBEDDING),
    "attention.scale": ("scale", ATTENTION),
    "attention.heads": ("heads", ATTENTION),
    "attention.qkv-order": ("qkv order", ATTENTION),
    "attention.qkv-layout": ("qkv layout", ATTENTION),
    "attention.head-split": ("head split", ATTENTION),
    "attention.head-merge": ("head merge", ATTENTION),
    "attention.mask": ("mask", ATTENTION),
    "attention.softmax": ("softmax", ATTENTION),
    "embedding.positions": ("positions", EMBEDDING),
    "embedding.tokens": ("tokens", EMBEDDING),
}

# Requirement -> the vectors of the checkpoint that must be in use, and the checkpoint that shows it. The key's part of
# c_attn.bias is not among them: it adds the same number to all scores of a query, which the softmax takes away again.
VECTOR_PROBES: dict[str, tuple[tuple[str, ...], Design]] = {
    "vectors.c_attn-bias": (
        ("the query's part of h.attn.c_attn.bias", "the value's part of h.attn.c_attn.bias"),
        ATTENTION,
    ),
    "vectors.attn-c_proj-bias": (("h.attn.c_proj.bias",), ATTENTION),
    "vectors.c_fc-bias": (("h.mlp.c_fc.bias",), MLP),
    "vectors.mlp-c_proj-bias": (("h.mlp.c_proj.bias",), MLP),
    "vectors.ln_1": (("h.ln_1.weight", "h.ln_1.bias"), ATTENTION),
    "vectors.ln_2": (("h.ln_2.weight", "h.ln_2.bias"), MLP),
    "vectors.ln_f": (("ln_f.weight", "ln_f.bias"), EMBEDDING),
}

# Requirement -> the constant that it reads, and the checkpoint that shows it.
CONSTANT_PROBES: dict[str, tuple[str, Design]] = {
    "layer-norm.epsilon-ln_1": ("epsilon of ln_1", FAINT_LN_1),
    "layer-norm.epsilon-ln_2": ("epsilon of ln_2", FAINT_LN_2),
    "layer-norm.epsilon-ln_f": ("epsilon of ln_f", FAINT_LN_F),
    "attention.scale": ("attention scale", ATTENTION),
}

MATRICES = (
    "h.attn.c_attn.weight",
    "h.attn.c_proj.weight",
    "h.mlp.c_fc.weight",
    "h.mlp.c_proj.weight",
)
SQUARES = ("h.attn.c_proj.weight", "h.mlp.c_fc.weight", "h.mlp.c_proj.weight")  # in SQUARE
VECTORS = tuple(vector for vectors, _ in VECTOR_PROBES.values() for vector in vectors)


def known_mistakes() -> Iterator[dict[str, str]]:
    for fact, choices in FACTS.items():
        for choice in choices[1:]:
            yield {fact: choice}
    yield from (
        {f"epsilon of {norm}": value}
        for norm in ("ln_1", "ln_2", "ln_f")
        for value in ("1e-06", "0.001")
    )
    yield from ({"lost": vector} for vector in VECTORS)
    yield from ({"transposed": matrix} for matrix in MATRICES)


def told(mistake: Mapping[str, str]) -> str:
    ((fact, choice),) = mistake.items()
    return {"lost": f"{choice} unused", "transposed": f"{choice} not transposed"}.get(
        fact, f"{fact}: {choice}"
    )


# Facts whose mistakes alter what a blank layer passes on, or count it; under all others it adds zero to it.
PASSED_ON = frozenset({"norms", "residual", "layers", "branches"})


def _in_float64(design: Design, config: GPT2Config, seed: int) -> Tensors:
    tensors = design.make(config, seed)
    return {key: tensors.pop(key).double() for key in list(tensors)}


_small = lru_cache(maxsize=16)(_in_float64)  # 20 MB each
_large = lru_cache(maxsize=1)(_in_float64)  # 1 GB for all layers of the 124M shape


class Experiment:
    """A design's checkpoint in a shape, its input, and what logits must be and may be.

    PROBE is cut to the layers of the design. Any other shape is built into somebody's program, and stays as it is: the
    layers beyond those of the design are blank.
    """

    def __init__(
        self, design: Design, shape: GPT2Config, dtype: torch.dtype, seed: int = SEED
    ) -> None:
        self.design, self.dtype, self.seed = design, dtype, seed
        self.own = design.own(shape)
        self.config = self.own if shape == PROBE else replace(self.own, n_layer=shape.n_layer)
        self.token_ids = random_token_ids(
            self.config, batch=2, time=min(9, self.config.n_positions), seed=seed
        )
        # Few enough of the logits that all known mistakes can be tried; what is found is then checked on all of them.
        self.shown = torch.arange(0, self.config.vocab_size, 523)
        self._known: dict[str, Tensor] = {}
        self._effects: dict[str, float] = {}

    @property
    def tensors(self) -> Tensors:
        """Made anew each time, not kept: in a published shape they are large."""
        return blank(self.config) | self.design.make(self.own, self.seed)

    def forward(
        self,
        *,
        dtype: torch.dtype = torch.float64,
        mistakes: Mapping[str, str] | None = None,
        constants: Mapping[str, float] | None = None,
        shown: Tensor | None = None,
    ) -> Tensor:
        """As `facts.forward`; blank layers are left out where they add nothing."""
        if self.own == self.config or PASSED_ON.isdisjoint(mistakes or ()):
            tensors = (_small if self.own.n_embd == PROBE.n_embd else _large)(
                self.design, self.own, self.seed
            )
            config = self.own
        else:
            tensors, config = self.tensors, self.config
        return forward(
            tensors,
            config,
            self.token_ids,
            dtype=dtype,
            mistakes=mistakes,
            constants=constants,
            shown=shown,
        )

    @cached_property
    def truth(self) -> Tensor:
        return self.forward()

    @cached_property
    def allowed(self) -> float:
        return self.allowed_in(self.dtype)

    def allowed_in(self, dtype: torch.dtype, constants: Mapping[str, float] | None = None) -> float:
        """As for parity (see `oracle`), with the plain forward pass of `facts` as the sound implementation.

        Of other `constants` than GPT-2's it is another: scores that are eight times as large are rounded more coarsely.
        """
        truth = self.forward(constants=constants) if constants else self.truth
        return allowed_error(
            lambda run_in: float(
                error(self.forward(dtype=run_in, constants=constants).double(), truth).max()
            ),
            float(truth.abs().max()),
            dtype,
        )

    def coarser_precision(self, logits: Tensor) -> torch.dtype | None:
        """The precision, below the one that is judged, whose rounding would excuse these logits."""
        coarser = (
            dtype for dtype in COARSE if torch.finfo(dtype).eps > torch.finfo(self.dtype).eps
        )
        return next(
            (dtype for dtype in coarser if self.distance(logits) <= self.allowed_in(dtype)), None
        )

    def distance(
        self,
        logits: Tensor,
        mistakes: Mapping[str, str] | None = None,
        constants: Mapping[str, float] | None = None,
    ) -> float:
        """Largest difference from the logits of some mistakes; infinite where they can't be made in this shape."""
        try:
            expected = (
                self.forward(mistakes=mistakes, constants=constants)
                if mistakes or constants
                else self.truth
            )
        except RuntimeError:  # heads that do not divide the width
            return math.inf
        return float(error(logits, expected).max())

    def effect(
        self,
        mistakes: Mapping[str, str] | None = None,
        constants: Mapping[str, float] | None = None,
    ) -> float:
        """The `distance` of GPT-2's own logits from those of some mistakes: what there is to be seen of them."""
        name = f"{mistakes} {constants}"
        if name not in self._effects:
            self._effects[name] = self.distance(self.truth, mistakes, constants)
        return self._effects[name]

    def near(
        self,
        logits: Tensor,
        mistakes: Mapping[str, str] | None = None,
        constants: Mapping[str, float] | None = None,
    ) -> float:
        """As `distance`, on the logits that are shown alone: never more than twice that."""
        name = f"{mistakes}" if constants is None else ""
        try:
            expected = (
                self._known[name]
                if name in self._known
                else self.forward(mistakes=mistakes, constants=constants, shown=self.shown)
            )
        except RuntimeError:
            return math.inf
        if name:
            self._known[name] = expected
        return float(error(logits[..., self.shown], expected).max())

    def constant(self, name: str) -> float:
        """What GPT-2 has."""
        return (
            self.config.head_width**-0.5
            if name == "attention scale"
            else self.config.layer_norm_epsilon
        )

    def read(self, name: str, logits: Tensor) -> float:
        """The constant that explains these logits best, between a ten-thousandth and ten thousand times GPT-2's.

        Its distance is looked at on a grid, then by golden section, down to float32's rounding: the logits of the
        constant that is read must be within what is allowed with it.
        """
        known = self.constant(name)

        def distance(log_factor: float) -> float:
            return self.near(logits, constants={name: known * math.exp(log_factor)})

        width = math.log(10) / 4
        low = min((step * width for step in range(-16, 17)), key=distance) - width
        # Not centred on a grid point, one of which is GPT-2's value: it shall be found, not started from.
        high, ratio = low + 2.3 * width, (math.sqrt(5) - 1) / 2
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        at_left, at_right = distance(left), distance(right)
        while high - low > 1e-7:
            if at_left < at_right:
                high, right, at_right = right, left, at_left
                left = high - ratio * (high - low)
                at_left = distance(left)
            else:
                low, left, at_left = left, right, at_right
                right = low + ratio * (high - low)
                at_right = distance(right)
        return known * math.exp((low + high) / 2)

    def explained_by(self, logits: Tensor, mistakes: Iterable[Mapping[str, str]]) -> list[str]:
        """The mistakes that give just these logits."""
        near = (mistake for mistake in mistakes if self.near(logits, mistake) <= 2 * self.allowed)
        visible = (mistake for mistake in near if self.effect(mistake) > 2 * self.allowed)
        return [
            told(mistake) for mistake in visible if self.distance(logits, mistake) <= self.allowed
        ]
