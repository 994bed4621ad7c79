"""Temperature, top-k and the draw, on checkpoints with known next-token logits (`scripts.dice`).

Support, greedy tokens and seeds are checked exactly. Frequencies are checked with a known chance of
a false alarm (see `frequencies`); 1536 draws show a frequency of 0.3 that should be 0.4.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

from .adapters.adapter import Adapter
from .adapters.own_answers import check_die
from .adapters.protocol import Judged
from .adapters.refusal import TEMPERATURE, TOP_K, accepted, may_refuse
from .checkpoints.scripts import FACES, dice
from .checkpoints.tensors import DICE, SMALL, random_token_ids, write_checkpoint
from .conftest import WriteCheckpoint
from .judging import textbook
from .judging.frequencies import check_frequency
from .options import DTYPES
from .outcomes import Failure, NotApplicable, Variant, check
from .requirements import requirement
from .test_generation import check_tokens
from .test_parity import has_dtype

FACE_LOGITS = [FACES[token] for token in FACES]
LARGEST = 50255  # the token with the largest logit
FED = 5  # the token that each row begins with
# Few rows: a draw from an array [rows, 50257] that does not fit a cache takes four times as long.
ROWS, STEPS = 16, 96


@pytest.fixture(scope="module")
def die(adapter: Adapter, write: WriteCheckpoint) -> Judged:
    return loaded(adapter, write("dice", DICE, lambda: dice(FACES)), FACES)


@pytest.fixture(scope="module")
def judged(die: Judged) -> Judged:
    throw_once(die)
    return die


def loaded(
    adapter: Adapter, folder: Path, faces: Mapping[int, float], dtype: torch.dtype | None = None
) -> Judged:
    """Load a die. Raises NotApplicable for an implementation that has other logits for it."""
    judged = adapter.load(folder, dtype=dtype)
    check_die(judged, faces, FED)
    return judged


def throw_once(judged: Judged) -> None:
    """Throw a die with common options, to know that another throw fails for its own."""
    throw_or_refuse(judged, rows=1, steps=2, temperature=1.0, top_k=40)


def throw(
    judged: Judged, *, rows: int = ROWS, steps: int = STEPS, **options: Any
) -> list[list[int]]:
    """Generate rows of `steps` tokens, with options that no implementation may refuse."""
    given = ", ".join(f"{name}={value}" for name, value in options.items())
    with accepted(f"a batch of {rows} rows with {given}"):
        return throw_or_refuse(judged, rows=rows, steps=steps, **options)


def throw_or_refuse(judged: Judged, *, rows: int, steps: int, **options: Any) -> list[list[int]]:
    """Generate rows of `steps` tokens: no token of this checkpoint is EOS."""
    options = {"seed": 7} | options  # another than 0, which is often mistaken for none
    new = judged.generate(torch.full((rows, 1), FED), max_new_tokens=steps, **options)
    lengths = {len(row) for row in new} - {steps}
    check(not lengths, f"rows of {sorted(lengths)} new tokens", expected=f"{steps} in each row")
    return new


def check_tokens_drawn(rows: list[list[int]], expected: set[int], what: str) -> None:
    """Check that these tokens are drawn, and no others."""
    found = {token for row in rows for token in row}
    check(found == expected, f"tokens {sorted(found)} with {what}", expected=f"{sorted(expected)}")


def check_possible(tokens: list[int], possible: set[int]) -> None:
    impossible = set(tokens) - possible
    check(not impossible, f"tokens of probability 0: {sorted(impossible)}")


@pytest.fixture(scope="module")
def thrown(judged: Judged) -> Callable[..., list[list[int]]]:
    """`throw`, called once for the same options."""
    return cache(partial(throw, judged))


def face_probabilities(temperature: float, top_k: int | None) -> dict[int, float]:
    weights = textbook.distribution(FACE_LOGITS, temperature=temperature, top_k=top_k)
    return {token: weight / sum(weights) for token, weight in zip(FACES, weights, strict=True)}


@requirement("sampling.temperature-zero")
@pytest.mark.parametrize("top_k", [None, 1, 3])
def test_temperature_zero(die: Judged, top_k: int | None) -> None:
    for seed in range(5):
        options = {"temperature": 0.0, "top_k": top_k, "seed": seed, "greedy_by_top_k": False}
        with may_refuse() as refusal:
            found = throw_or_refuse(die, rows=3, steps=8, **options)
        if refusal:
            throw_once(die)  # to know that the temperature matters
        if refusal.mentions(TEMPERATURE):
            raise Variant(
                "temperature 0 is refused by name, as transformers does; "
                f"OpenAI's sample.py divides by it. ({refusal.error})"
            )
        check(not refusal, f"temperature 0 is neither greedy nor refused by name: {refusal}")
        what = f"temperature 0, top_k {top_k} and seed {seed}"
        check_tokens_drawn(found, {LARGEST}, what)


@requirement("sampling.top-k-one")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_top_k_one(judged: Judged, temperature: float) -> None:
    new = throw(judged, rows=8, steps=16, temperature=temperature, top_k=1)
    check_tokens_drawn(new, {LARGEST}, f"top_k 1 and temperature {temperature}")


@requirement("sampling.top-k-one")
def test_top_k_one_of_each_row(adapter: Adapter, small: Path) -> None:
    """Rows with different largest logits: each row has its own threshold."""
    prompts = random_token_ids(SMALL, batch=3, time=5, seed=8)
    adapter.load(small).generate(prompts[:1], max_new_tokens=1, top_k=1, seed=1)
    with accepted("top_k=1 for a batch"):
        new = adapter.load(small).generate(
            prompts, max_new_tokens=4, temperature=1.0, top_k=1, seed=1
        )
    check_tokens(adapter, small, prompts.tolist(), new, 4)


@requirement("sampling.top-k")
def test_top_k_support(judged: Judged) -> None:
    new = throw(judged, temperature=5.0, top_k=2)
    # At temperature 5 each of the two has a chance of more than 0.4 in each draw.
    check_tokens_drawn(new, {LARGEST, 17}, "top_k 2")


@requirement("sampling.top-k-ties")
@pytest.mark.parametrize("top_k", [3, 4])
def test_top_k_ties(judged: Judged, top_k: int) -> None:
    # Each face has a chance of more than 0.15 in each draw, so 256 draws miss one with a chance of
    # 1e-18.
    new = throw(judged, steps=16, temperature=5.0, top_k=top_k)
    found = {token for row in new for token in row}
    if top_k == 3 and found in ({LARGEST, 17, 0}, {LARGEST, 17, 31000}):
        raise Variant(
            f"exactly {top_k} tokens stay, and one of the two that are tied for the last place "
            "goes, as in litgpt and nanochat"
        )
    check_tokens_drawn(new, {LARGEST, 17, 0, 31000}, f"top_k {top_k} and a tie at the third place")


@requirement("sampling.top-k-above-vocabulary")
@pytest.mark.parametrize("top_k", [50256, 50257, 50258, 10**6])
def test_top_k_above_vocabulary(judged: Judged, top_k: int) -> None:
    new = throw(judged, steps=8, temperature=5.0, top_k=top_k)
    check_tokens_drawn(new, set(FACES), f"top_k {top_k} of a vocabulary of 50257")


@requirement("sampling.top-k-none")
def test_top_k_none(judged: Judged) -> None:
    throw(judged, rows=1, steps=1, temperature=5.0, top_k=2)  # which must not stay
    new = throw(judged, steps=8, temperature=5.0, top_k=None)
    check_tokens_drawn(new, set(FACES), "top_k None")


@requirement("sampling.top-k-zero")
def test_top_k_zero(judged: Judged) -> None:
    with may_refuse() as refusal:
        new = throw_or_refuse(judged, rows=16, steps=8, temperature=5.0, top_k=0)
    if refusal:
        named = refusal.mentions(TOP_K)
        check(named, f"top_k=0 is neither refused by name nor no restriction: {refusal}")
        return
    check_tokens_drawn(new, set(FACES), "top_k 0, which is not refused,")


@requirement("sampling.nan")
@pytest.mark.usefixtures("judged")  # another die was thrown
def test_nan(adapter: Adapter, tmp_path: Path) -> None:
    broken = adapter.load(write_checkpoint(tmp_path, DICE, dice(FACES | {300: float("nan")})))
    with may_refuse() as refusal:
        new = throw_or_refuse(broken, rows=2, steps=4, temperature=1.0)
    if not refusal:
        raise Failure(f"tokens {new}, where the logit of token 300 is NaN", expected="an error")


@requirement("sampling.distribution")
def test_distribution_far_below_zero(adapter: Adapter, write: WriteCheckpoint) -> None:
    """Logits around -120, like those of the published weights, give the same distribution.

    e^-120 is zero in float32.
    """
    throw_once(loaded(adapter, write("dice", DICE, lambda: dice(FACES)), FACES))
    faces = {token: logit - 120.0 for token, logit in FACES.items()}
    judged = loaded(adapter, write("dice-below", DICE, lambda: dice(FACES, offset=-120.0)), faces)
    tokens = [token for row in throw(judged, temperature=1.0, seed=3) for token in row]
    check_possible(tokens, set(FACES))
    for token, probability in face_probabilities(1.0, None).items():
        check_frequency(
            tokens.count(token), len(tokens), probability, f"logits 120 lower: token {token}"
        )


@requirement("sampling.distribution")
@pytest.mark.parametrize(
    ("temperature", "top_k"), [(0.5, None), (1.0, None), (2.0, None), (0.5, 2), (2.0, 2), (2.0, 40)]
)
def test_distribution(
    thrown: Callable[..., list[list[int]]], temperature: float, top_k: int | None
) -> None:
    tokens = [
        token for row in thrown(temperature=temperature, top_k=top_k, seed=3) for token in row
    ]
    expected = face_probabilities(temperature, top_k)
    check_possible(tokens, {token for token, probability in expected.items() if probability})
    for token, probability in expected.items():
        what = f"temperature {temperature}, top_k {top_k}: token {token}"
        check_frequency(tokens.count(token), len(tokens), probability, what)


@requirement("sampling.temperature-range")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_temperature_range(adapter: Adapter, write: WriteCheckpoint, dtype: str) -> None:
    if not has_dtype(adapter.device, DTYPES[dtype]):
        raise NotApplicable(f"no {dtype} on {adapter.device}")
    folder = write("dice", DICE, lambda: dice(FACES))
    judged = loaded(adapter, folder, FACES, DTYPES[dtype])
    throw_once(judged)
    for temperature in (1e-8, 1e-5, 1e-2):
        new = throw(judged, rows=4, steps=4, temperature=temperature)
        check_tokens_drawn(new, {LARGEST}, f"temperature {temperature} in {dtype}")
    new = throw(judged, steps=80, temperature=100.0, top_k=len(FACES))
    tokens = [token for row in new for token in row]
    check_possible(tokens, set(FACES))
    for token, probability in face_probabilities(100.0, None).items():
        what = f"temperature 100 in {dtype}: token {token}"
        check_frequency(tokens.count(token), len(tokens), probability, what)


@requirement("sampling.independent-draws")
@pytest.mark.parametrize("seed", [3, 0])
def test_independent_draws(thrown: Callable[..., list[list[int]]], seed: int) -> None:
    rows = thrown(temperature=1.0, top_k=None, seed=seed)
    equal = sum(probability**2 for probability in face_probabilities(1.0, None).values())
    # No two pairs share a draw, so that the pairs are independent too.
    steps = [(row[i], row[i + 1]) for row in rows for i in range(0, STEPS, 2)]
    neighbours = [
        (rows[i][step], rows[i + 1][step]) for i in range(0, ROWS, 2) for step in range(STEPS)
    ]
    diagonal = [
        (rows[i][step], rows[i + 1][step + 1])
        for i in range(0, ROWS, 2)
        for step in range(0, STEPS - 1, 2)
    ]
    antidiagonal = [
        (rows[i][step + 1], rows[i + 1][step])
        for i in range(0, ROWS, 2)
        for step in range(0, STEPS - 1, 2)
    ]
    eighth = [(rows[i][step], rows[i + 8][step]) for i in range(8) for step in range(STEPS)]
    for pairs, what in [
        (steps, "one step and the next"),
        (neighbours, "a row and the next"),
        (diagonal, "both"),
        (antidiagonal, "a row and the next, one step before"),
        (eighth, "a row and the eighth after it"),
    ]:
        check_frequency(sum(a == b for a, b in pairs), len(pairs), equal, f"equal tokens of {what}")


@requirement("sampling.seed")
@pytest.mark.parametrize("seed", [11, 0])
def test_same_seed(judged: Judged, seed: int) -> None:
    first = throw(judged, rows=4, steps=32, seed=seed)
    torch.rand(3)  # changes the tokens of an implementation that ignores the seed
    throw(judged, rows=2, steps=1, seed=5)
    again = throw(judged, rows=4, steps=32, seed=seed)
    check(again == first, f"seed {seed} gave other tokens when it was given again")


@requirement("sampling.seed")
def test_another_seed(judged: Judged) -> None:
    """Among the seeds are defaults that may replace 0, and two whose last 16 bits are equal."""
    rows, steps, seeds = 8, 6, (0, 1, 11, 12, 42, 1234, 1337, 11 + 2**16)
    thrown = {seed: throw(judged, rows=rows, steps=steps, seed=seed) for seed in seeds}
    # Two seeds agree by chance in 48 tokens with a probability of (sum of p ** 2) ** 48 < 1e-22,
    # and all eight in the first tokens of 8 rows with (sum of p ** 8) ** 8 < 1e-19.
    for one, other in itertools.combinations(seeds, 2):
        check(thrown[one] != thrown[other], f"seed {other} gave the tokens of seed {one}")
    first = {tuple(row[0] for row in new) for new in thrown.values()}
    check(len(first) > 1, f"seeds {seeds} all gave the first tokens {first}")


@requirement("sampling.seed")
def test_global_generator_is_left_alone(judged: Judged) -> None:
    before = torch.get_rng_state()
    throw(judged, rows=1, steps=4, seed=11)
    same = torch.equal(torch.get_rng_state(), before)
    check(same, "sampling with a seed changed the state of torch's global generator")
