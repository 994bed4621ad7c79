"""Generation stops at EOS and nowhere else.

The checkpoints give EOS at a chosen step (see `scripts`), or every other token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2ref import EOS

from .adapters.adapter import Adapter
from .adapters.own_answers import check_die, check_new_tokens
from .adapters.protocol import Judged
from .adapters.refusal import accepted
from .checkpoints.harmonics import SUCCESSOR, successor
from .checkpoints.scripts import SCRIPT, by_position, chain, dice
from .checkpoints.tensors import DICE, Tensors, write_checkpoint
from .conftest import WriteCheckpoint
from .judging.frequencies import check_frequency
from .naming import Named, named_by, naming
from .naming.ends import end_id, passed_over, passed_over_id
from .outcomes import Failure, check
from .requirements import requirement

# Words, among them the first token and EOS's neighbour.
A, B, C, D, E, F, G = (11, 262, 1135, 50255, 0, 13, 198)

CheckSays = Callable[[Tensors, Sequence[Sequence[int]], Sequence[Sequence[int]], int], None]


@pytest.fixture(scope="module")
def generating(adapter: Adapter, write: WriteCheckpoint) -> Adapter:
    """The adapter, after it generated a few tokens: what fails then fails for its own prompt."""
    script = by_position([A] * SCRIPT.n_positions)
    judged = adapter.load(write("script-of-one-word", SCRIPT, lambda: script))
    for temperature in (0.0, 1.0):
        judged.generate(torch.tensor([[G, B]]), max_new_tokens=3, temperature=temperature, seed=7)
    return adapter


@pytest.fixture(scope="module")
def eos_passed_over(
    generating: Adapter, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Named | None]:
    """Read for how long EOS is passed over, once for all tests that fail."""
    return cache(lambda: passed_over(generating, tmp_path_factory.mktemp("passed-over")))


@pytest.fixture
def check_says(
    generating: Adapter, eos_passed_over: Callable[[], Named | None], tmp_path: Path
) -> CheckSays:
    """Check the new ids of each prompt under a script, which leaves a sampler no choice."""

    def check_or_name(*arguments: Any) -> None:
        with named_by(eos_passed_over):
            check_tokens(*arguments)

    def check_tokens(
        script: Tensors,
        prompts: Sequence[Sequence[int]],
        expected: Sequence[Sequence[int]],
        max_new_tokens: int,
    ) -> None:
        judged = generating.load(write_checkpoint(tmp_path, SCRIPT, script))
        batch = torch.tensor(prompts)
        rows = f"a batch of {len(batch)} rows" if len(batch) > 1 else f"a prompt {prompts[0]}"
        for temperature in (0.0, 1.0):
            with accepted(f"{rows} with max_new_tokens={max_new_tokens}"):
                new = judged.generate(
                    batch, max_new_tokens=max_new_tokens, temperature=temperature, seed=7
                )
            for row, (found, wanted) in enumerate(zip(new, expected, strict=True)):
                check_new_tokens(
                    judged,
                    prompts[row],
                    found,
                    wanted,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    where=f" in row {row} at temperature {temperature}",
                )

    return check_or_name


def after(prompt_length: int, tokens: Sequence[int]) -> Tensors:
    """Make a script that gives `tokens` after a prompt of this length, and then A for ever."""
    rest = SCRIPT.n_positions - (prompt_length - 1) - len(tokens)
    return by_position([G] * (prompt_length - 1) + list(tokens) + [A] * rest)


@requirement("eos.first-step")
@pytest.mark.parametrize("prompt", [[B], [B, C, A]], ids=["one-token-prompt", "three-token-prompt"])
def test_first_step(check_says: CheckSays, prompt: list[int]) -> None:
    check_says(after(len(prompt), [EOS]), [prompt], [[]], 4)


@requirement("eos.middle")
def test_middle(check_says: CheckSays) -> None:
    check_says(after(2, [A, B, C, B, D, E, EOS, F]), [[F, G]], [[A, B, C, B, D, E]], 12)


@requirement("eos.last-step")
def test_last_step(check_says: CheckSays) -> None:
    check_says(after(2, [A, B, C, EOS]), [[F, G]], [[A, B, C]], 4)


@requirement("eos.never")
@pytest.mark.parametrize("max_new_tokens", [0, 1, 2, 9])
def test_never(check_says: CheckSays, max_new_tokens: int) -> None:
    tokens = [A, B, C, D, E, F, G, B, A]
    check_says(after(3, tokens), [[F, G, B]], [tokens[:max_new_tokens]], max_new_tokens)


@requirement("eos.never")
def test_up_to_the_last_position(check_says: CheckSays) -> None:
    prompt = [F, G]
    room = SCRIPT.n_positions - len(prompt)
    tokens = ([A, B, C] * room)[:room]
    check_says(after(len(prompt), tokens), [prompt], [tokens], room)


@requirement("eos.no-other")
@pytest.mark.parametrize("half", [range(EOS // 2), range(EOS // 2, EOS)], ids=["low", "high"])
def test_no_other_token_ends_a_text(adapter: Adapter, half: range, tmp_path: Path) -> None:
    """Every id but EOS is said, and followed by another. Two processes can share the halves."""
    judged = adapter.load(write_checkpoint(tmp_path, SUCCESSOR, successor()))
    steps, rows = 8, 16  # few rows, whose logits fit a cache
    starts = half[:: steps - 1]  # so that no id is only a row's last
    for batch in torch.tensor(list(starts)).split(rows):
        prompts = batch[:, None]
        new = judged.generate(prompts, max_new_tokens=steps, temperature=0.0)
        for start, row in zip(batch.tolist(), new, strict=True):
            should = [(start + step) % EOS for step in range(1, steps + 1)]
            if row != should:
                check_text(judged, start, row, should)


def check_text(judged: Judged, start: int, row: list[int], should: list[int]) -> None:
    """Raise a Failure that names the id at which a text of successors ends or goes wrong."""
    pairs = enumerate(zip(row, should, strict=False))
    wrong = next((i for i, (found, wanted) in pairs if found != wanted), None)
    if wrong is None and len(row) < len(should):
        at = should[len(row)]
        failure = Failure(
            f"a text ends after {[start, *row]}, before or at id {at}", expected="no end but EOS"
        )
        raise naming(failure, lambda: end_id(judged, at))
    with named_by(lambda: None if wrong is None else passed_over_id(judged, should[wrong])):
        check_new_tokens(
            judged,
            [start],
            row,
            should,
            max_new_tokens=len(should),
            temperature=0.0,
            where=f" after {start}",
        )


def followed(followers: Mapping[int, int], token: int, steps: int) -> list[int]:
    """Return the tokens that a chain gives after a token, up to EOS."""
    new: list[int] = []
    while len(new) < steps and (token := followers[token]) != EOS:
        new.append(token)
    return new


@requirement("eos.per-row")
@pytest.mark.parametrize("order", [1, -1], ids=["first-row-ends-first", "last-row-ends-first"])
def test_per_row(check_says: CheckSays, order: int) -> None:
    followers = {A: EOS, B: C, C: D, D: EOS, E: F, F: G, G: E, EOS: B}
    prompts = [[B, A], [C, C], [A, B], [A, E]][::order]
    expected = [followed(followers, prompt[-1], 9) for prompt in prompts]  # of 0, 1, 2, 9 tokens
    check_says(chain(followers), prompts, expected, 9)


@requirement("eos.in-prompt")
@pytest.mark.parametrize(
    "prompt", [[EOS, B], [B, EOS, B], [A, EOS]], ids=["first", "inside", "last"]
)
def test_in_prompt(check_says: CheckSays, prompt: list[int]) -> None:
    followers = {A: EOS, B: C, C: D, D: EOS, EOS: C}
    check_says(chain(followers), [prompt], [followed(followers, prompt[-1], 5)], 5)


@requirement("eos.probability")
@pytest.mark.parametrize("probability", [0.5, 0.05])
def test_probability(
    adapter: Adapter,
    eos_passed_over: Callable[[], Named | None],
    probability: float,
    tmp_path: Path,
) -> None:
    """Lengths are geometric, where each step gives EOS with the same probability."""
    faces = {
        A: math.log((1 - probability) / 2),
        EOS: math.log(probability),
        C: math.log((1 - probability) / 2),
    }
    judged = adapter.load(write_checkpoint(tmp_path, DICE, dice(faces)))
    check_die(judged, faces, B)
    steps, rows = 32, []
    for seed in range(100, 900, 100):  # 16 rows each (see test_sampling.ROWS)
        rows += judged.generate(
            torch.full((16, 1), B), max_new_tokens=steps, temperature=1.0, seed=seed
        )
    impossible = {token for row in rows for token in row} - {A, C}
    check(not impossible, f"tokens of probability 0: {sorted(impossible)}")
    ended = sum(len(row) < steps for row in rows)
    with named_by(eos_passed_over):
        check_frequency(ended, sum(map(len, rows)) + ended, probability, "rows that end at a step")
