"""The cases of the draw: temperature, top-k, given random numbers, and frequencies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..adapters.refusal import TEMPERATURE, TOP_K
from ..diagnosis.question import BLOCKS, NORM
from .case import Call, Case, generate
from .checkpoints import ENDING
from .generator import integers

SAMPLER = NORM | {"sampler"}
FED = 5  # the prompt of a die, whose logits are the same after any token
_WARM: list[tuple[str, dict[str, Any], str]] = [
    ("0.5-40", {"temperature": 0.5, "top_k": 40}, "distribution"),
    ("2-2", {"temperature": 2.0, "top_k": 2}, "top-k"),
    ("5-3", {"temperature": 5.0, "top_k": 3}, "top-k-ties"),
    ("5-4", {"temperature": 5.0, "top_k": 4}, "top-k-ties"),
    ("1-none", {"temperature": 1.0, "top_k": None}, "top-k-none"),
    ("1-97", {"temperature": 1.0, "top_k": 97}, "top-k-above-vocabulary"),
    ("1-98", {"temperature": 1.0, "top_k": 98}, "top-k-above-vocabulary"),
]


def _uniforms(rows: int, steps: int, seed: int) -> list[list[float]]:
    """Return uniform numbers [row][step], each a multiple of 2^-24."""
    numbers = integers(seed, 0, rows * steps).double() / 2**24
    return numbers.view(rows, steps).tolist()


def _case(name: str, checkpoint: str, requirement: str, sentence: str, *calls: Call) -> Case:
    return Case(name, (f"sampling.{requirement}",), sentence, checkpoint, calls, SAMPLER)


def _die(steps: int = 4, rows: int = 2, **options: Any) -> Call:
    return generate([[FED]] * rows, steps, **options)


def _given(**options: Any) -> Call:
    """Return a call whose draws use given numbers."""
    uniforms = _uniforms(4, 16, seed=int(1000 * options["temperature"]))
    return _die(16, 4, uniforms=uniforms, **options)


def _often(rows: int = 32, steps: int = 31, **options: Any) -> Call:
    """Return a call whose frequencies are compared."""
    return _die(steps, rows, frequencies=True, **options)


def of_draws() -> Iterator[Case]:
    for name, options, requirement in _WARM:
        yield _case(f"draws-{name}", "die", requirement,
                   f"Given numbers draw these tokens with {_said(options)}.",
                   _given(**options))  # fmt: skip
        yield _case(f"frequencies-{name}", "die", requirement,
                   f"Tokens are drawn this often with {_said(options)}.",
                   _often(**options))  # fmt: skip
    yield _case("draws-hot", "hot-die", "temperature-range",
               "Given numbers draw these tokens at temperature 20.",
               _given(temperature=20.0, top_k=2))  # fmt: skip
    yield _case("draws-low", "low-die", "distribution",
               "Logits that are all far below zero draw as others do.",
               _given(temperature=1.0))  # fmt: skip
    rare = {"uniforms": [[0.995, 0.998, 0.99903, 0.9996, 0.5]] * 4, "max_new_tokens": 5}
    yield _case("draws-rare", "rare-die", "rare-tokens",
               "Given numbers draw tokens with chances from 1 in 400 to 1 in 8000.",
               _given(temperature=1.0) | rare)  # fmt: skip
    yield _case("frequencies-rare", "rare-die", "rare-tokens",
               "Unlikely tokens are drawn as often as others let them.",
               _often(64, 31, temperature=1.0))  # fmt: skip
    yield _case("draws-even", "even-die", "many-tokens",
               "Given numbers draw these of 97 tokens that are nearly alike.",
               _given(temperature=1.0))  # fmt: skip
    yield _case("draws-after-top-k", "die", "top-k-none",
               "The top_k of one call is not that of the next.",
               _die(2, temperature=1.0, top_k=1), _given(temperature=1.0))  # fmt: skip
    yield Case("draws-of-50257", ("sampling.top-k-none",),
               "Given numbers draw these of 50257 tokens.", "whole-vocabulary",
               (generate(ENDING + ENDING, 1, temperature=1.0,
                         uniforms=_uniforms(6, 1, seed=219)),), BLOCKS | {"loop"})  # fmt: skip


def of_choices() -> Iterator[Case]:
    for top_k in (None, 3):
        yield Case(f"temperature-0-{top_k}".lower(), ("sampling.temperature-zero",),
                   "Temperature 0 takes the largest logit, whatever the seed.", "die",
                   (_die(top_k=top_k), _die(top_k=top_k, seed=8)), SAMPLER,
                   words=TEMPERATURE)  # fmt: skip
    yield _case("temperature-1e-6", "die", "temperature-range",
               "Temperature 1e-6 takes the largest logit.", _die(2, temperature=1e-6))  # fmt: skip
    yield _case("top-k-1", "die", "top-k-one", "top_k=1 takes the largest logit.",
               _die(8, 4, temperature=5.0, top_k=1))  # fmt: skip
    yield Case("top-k-0", ("sampling.top-k-zero",), "top_k=0 is refused by name.", "die",
               (_die(2, temperature=5.0, top_k=0, frequencies=True),), SAMPLER, refused=True,
               words=TOP_K)  # fmt: skip
    for name, below in (("12", "2^-12"), ("9", "2^-9")):
        yield _case(f"close-{name}", f"close-die-{name}", "close-logits",
                   f"Of two logits that are {below} apart, the larger is taken.",
                   _die(1, 1), _die(4, 12, temperature=5.0, top_k=1))  # fmt: skip
    once, often_said = [9] * 11 + [17], [17] * 12
    yield _case("said-before", "repeating-die", "repetition",
               "A token that was said is as likely as before.",
               generate([once, often_said], 1))  # fmt: skip
    yield Case("nan", ("sampling.nan",), "A NaN among the logits is an error.", "nan-die",
               (_die(2, temperature=1.0, frequencies=True),), SAMPLER, refused=True)  # fmt: skip


def _said(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
