"""Temperature, top-k and the draw, on checkpoints whose next-token logits are known exactly (`scripts.dice`).

What is exact (support, greedy, seeds) is checked exactly, what is a frequency with a stated chance of a false alarm (see
`statistics`); 1536 draws see a frequency of 0.3 that should be 0.4.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2ref import PUBLISHED_CONFIGS

from .adapters.adapter import Adapter
from .adapters.protocol import Judged, ProtocolError
from .adapters.refusal import TEMPERATURE, TOP_K, accepted, names, variant
from .checkpoints.scripts import FACES, dice
from .checkpoints.tensors import DICE, SMALL, random_token_ids, write_checkpoint
from .conftest import WriteCheckpoint
from .judging import textbook
from .judging.frequencies import check_frequency
from .requirements import requirement
from .test_generation import check_tokens

FACE_LOGITS = [FACES[token] for token in FACES]
ROWS, STEPS = (
    16,
    96,
)  # few rows: arrays of [rows, 50257] that fit no cache take four times as long a draw


@pytest.fixture(scope="module")
def judged(adapter: Adapter, write: WriteCheckpoint) -> Judged:
    return adapter.load(write("dice", DICE, lambda: dice(FACES)))


def throw(
    judged: Judged, *, rows: int = ROWS, steps: int = STEPS, **options: Any
) -> list[list[int]]:
    new = judged.generate(torch.full((rows, 1), 5), max_new_tokens=steps, **options)
    if lengths := {len(row) for row in new} - {steps}:
        pytest.fail(
            f"rows of {sorted(lengths)} new tokens, should be {steps}: no token of this checkpoint is EOS"
        )
    return new


@pytest.fixture(scope="module")
def thrown(judged: Judged) -> Callable[..., list[list[int]]]:
    """`throw`, with the same options once."""
    return cache(partial(throw, judged))


def face_probabilities(temperature: float, top_k: int | None) -> dict[int, float]:
    weights = textbook.distribution(FACE_LOGITS, temperature=temperature, top_k=top_k)
    return {token: weight / sum(weights) for token, weight in zip(FACES, weights, strict=True)}


@requirement("sampling.temperature-zero")
@pytest.mark.parametrize("top_k", [None, 1, 3])
def test_temperature_zero(judged: Judged, top_k: int | None) -> None:
    for seed in range(5):
        try:
            found = throw(
                judged, rows=3, steps=8, temperature=0.0, top_k=top_k, seed=seed, as_told=True
            )
        except ProtocolError:  # a program that fell over has refused nothing
            raise
        except Exception as error:
            throw(judged, rows=1, steps=1, temperature=1.0)  # or else it is not the temperature
            if names(error, *TEMPERATURE):
                variant(
                    f"temperature 0 is refused by name, as transformers does; OpenAI's sample.py divides by it. ({error})"
                )
            pytest.fail(
                f"temperature 0 is neither greedy nor refused by name: {type(error).__name__}: {error}"
            )
        assert found == [[50255] * 8] * 3, (
            f"seed {seed}: {found}, should be the largest logit's token, 50255, each time"
        )


@requirement("sampling.top-k-one")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_top_k_one(judged: Judged, temperature: float) -> None:
    assert throw(judged, rows=8, steps=16, temperature=temperature, top_k=1) == [[50255] * 16] * 8


@requirement("sampling.top-k-one")
def test_top_k_one_of_each_row(adapter: Adapter, small: Path) -> None:
    """Rows whose largest logits differ: each has a threshold of its own."""
    prompts = random_token_ids(SMALL, batch=3, time=5, seed=8)
    adapter.load(small).generate(prompts[:1], max_new_tokens=1, top_k=1, seed=1)
    with accepted("top_k=1 for a batch"):
        new = adapter.load(small).generate(
            prompts, max_new_tokens=4, temperature=1.0, top_k=1, seed=1
        )
    check_tokens(adapter, small, prompts.tolist(), new, 4)


@requirement("sampling.top-k")
def test_top_k_support(judged: Judged) -> None:
    throw(judged, rows=1, steps=1, temperature=5.0, top_k=2)
    with accepted(f"top_k=2 for {ROWS} rows"):
        new = throw(judged, temperature=5.0, top_k=2)
    # At temperature 5 each of the two has a chance of over 0.4 a draw.
    assert {token for row in new for token in row} == {50255, 17}


@requirement("sampling.top-k-ties")
@pytest.mark.parametrize("top_k", [3, 4])
def test_top_k_ties(judged: Judged, top_k: int) -> None:
    # Each of five faces has a chance of over 0.15 a draw: that 256 draws leave one out has a chance of 1e-18.
    found = {
        token for row in throw(judged, steps=16, temperature=5.0, top_k=top_k) for token in row
    }
    if top_k == 3 and found in ({50255, 17, 0}, {50255, 17, 31000}):
        variant(
            f"exactly {top_k} tokens stay, and of the two tied for the last place one goes, as in litgpt and nanochat"
        )
    assert found == {50255, 17, 0, 31000}, (
        f"top_k={top_k} leaves {sorted(found)}, should leave [0, 17, 31000, 50255]"
    )


@requirement("sampling.top-k-above-vocabulary")
@pytest.mark.parametrize("top_k", [50256, 50257, 50258, 10**6])
def test_top_k_above_vocabulary(judged: Judged, top_k: int) -> None:
    assert PUBLISHED_CONFIGS["gpt2"].vocab_size == 50257
    throw(judged, rows=1, steps=1, temperature=5.0, top_k=40)
    with accepted(f"top_k={top_k} of a vocabulary of 50257"):
        new = throw(judged, rows=16, steps=8, temperature=5.0, top_k=top_k)
    assert {token for row in new for token in row} == set(FACES)


@requirement("sampling.top-k-none")
def test_top_k_none(judged: Judged) -> None:
    throw(judged, rows=1, steps=1, temperature=5.0, top_k=40)
    with accepted("top_k=None"):
        new = throw(judged, rows=16, steps=8, temperature=5.0, top_k=None)
    assert {token for row in new for token in row} == set(FACES)


@requirement("sampling.top-k-zero")
def test_top_k_zero(judged: Judged) -> None:
    throw(judged, rows=1, steps=1, temperature=5.0, top_k=40)
    try:
        new = throw(judged, rows=16, steps=8, temperature=5.0, top_k=0)
    except ProtocolError:  # a program that fell over has refused nothing
        raise
    except Exception as error:
        if not names(error, *TOP_K):
            pytest.fail(
                f"top_k=0 is neither refused by name nor no restriction: {type(error).__name__}: {error}"
            )
        return
    found = {token for row in new for token in row}
    assert found == set(FACES), (
        f"top_k=0 is no restriction, where it is not refused, and gave {sorted(found)}"
    )


@requirement("sampling.nan")
def test_nan(adapter: Adapter, judged: Judged, tmp_path: Path) -> None:
    throw(judged, rows=1, steps=1, temperature=1.0)
    broken = adapter.load(write_checkpoint(tmp_path, DICE, dice(FACES | {300: float("nan")})))
    try:
        new = throw(broken, rows=2, steps=4, temperature=1.0)
    except ProtocolError:  # a program that fell over has refused nothing
        raise
    except Exception:
        return
    pytest.fail(f"the logit of token 300 is NaN, and tokens {new} came of it")


@requirement("sampling.distribution")
def test_distribution_far_below_zero(adapter: Adapter, write: WriteCheckpoint) -> None:
    """Logits around -120, as the published weights': e^-120 is zero in float32, and the distribution is what it was."""
    judged = adapter.load(write("dice-below", DICE, lambda: dice(FACES, offset=-120.0)))
    tokens = [token for row in throw(judged, temperature=1.0, seed=3) for token in row]
    assert set(tokens) <= set(FACES), "a token of probability 0"
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
    assert set(tokens) <= {token for token, probability in expected.items() if probability}, (
        "a token of probability 0"
    )
    for token, probability in expected.items():
        what = f"temperature {temperature}, top_k {top_k}: token {token}"
        check_frequency(tokens.count(token), len(tokens), probability, what)


@requirement("sampling.independent-draws")
def test_independent_draws(thrown: Callable[..., list[list[int]]]) -> None:
    rows = thrown(temperature=1.0, top_k=None, seed=3)
    equal = sum(probability**2 for probability in face_probabilities(1.0, None).values())
    # Pairs that share no draw with another pair, so that the pairs are independent too.
    steps = [(row[i], row[i + 1]) for row in rows for i in range(0, STEPS, 2)]
    neighbours = [
        (rows[i][step], rows[i + 1][step]) for i in range(0, ROWS, 2) for step in range(STEPS)
    ]
    diagonal = [
        (rows[i][step], rows[i + 1][step + 1])
        for i in range(0, ROWS, 2)
        for step in range(0, STEPS - 1, 2)
    ]
    for pairs, what in [
        (steps, "one step and the next"),
        (neighbours, "a row and the next"),
        (diagonal, "both"),
    ]:
        check_frequency(sum(a == b for a, b in pairs), len(pairs), equal, f"equal tokens of {what}")


@requirement("sampling.seed")
def test_seed(judged: Judged) -> None:
    first = throw(judged, rows=4, steps=32, seed=11)
    torch.rand(
        3
    )  # a seed that went to the global generator would not be disturbed by this, one left out would
    assert throw(judged, rows=4, steps=32, seed=11) == first, "the same seed gave other tokens"
    # 128 tokens agree by chance with probability (sum of p squared) ** 128 < 1e-55.
    assert throw(judged, rows=4, steps=32, seed=12) != first, "another seed gave the same tokens"
    assert throw(judged, rows=4, steps=32, seed=0) != first, "seed 0 gave the tokens of seed 11"


@requirement("sampling.seed")
def test_global_generator_is_left_alone(judged: Judged) -> None:
    before = torch.get_rng_state()
    throw(judged, rows=1, steps=4, seed=11)
    assert torch.equal(torch.get_rng_state(), before), (
        "sampling with a seed moved torch's global generator"
    )
