"""Long texts: all positions differ, and a token can depend on any before it, however it is fed.

Each new token of an echo (see `checkpoints.harmonics`) is the one a given distance before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from .adapters.adapter import Adapter
from .adapters.own_answers import own_answer
from .adapters.protocol import Judged
from .checkpoints.harmonics import COUNTING, ECHO, SUCCESSOR, WORDS, counting, echo, successor
from .checkpoints.tensors import SMALL, random_token_ids, trained_like, write_checkpoint
from .conftest import WriteCheckpoint
from .judging.oracle import check_logits, expected
from .naming import Named, id_with_number, naming
from .naming.ends import end_id, most_new_tokens
from .naming.windows import cache_view, view
from .outcomes import Failure, check
from .requirements import requirement

CONTEXT = ECHO.n_positions
STEPS = 24
DISTANCE = CONTEXT - STEPS
SOON = 64  # the distance at which all but the last positions are read, one after the other
PIECES = [(DISTANCE,), (512, 256, DISTANCE - 768)]  # of the prompt
LONG = replace(SMALL, n_positions=530, n_layer=1)
# Steps over the ends of blocks of 64, 128, 256 and 512; and a prompt that is longer than a block.
STEP_BY_STEP = (1, 1, 1, 1)
LONG_PIECES = [
    (62, *STEP_BY_STEP, 60, *STEP_BY_STEP, 124, *STEP_BY_STEP, 252, *STEP_BY_STEP, 16),
    (526, *STEP_BY_STEP),
]


@pytest.fixture
def echoing(adapter: Adapter, tmp_path: Path) -> Judged:
    return adapter.load(write_checkpoint(tmp_path, ECHO, echo(DISTANCE)))


Naming = Callable[[], Named | None]


@pytest.fixture(scope="module")
def name_view(adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Naming:
    """Read how far back a new token sees, once for all tests that fail."""
    return cache(lambda: view(adapter, tmp_path_factory.mktemp("view")))


@pytest.fixture(scope="module")
def name_cache_view(adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Naming:
    return cache(lambda: cache_view(adapter, tmp_path_factory.mktemp("cache-view")))


def words(rows: int, time: int) -> Tensor:
    """Return a text of WORDS in any order, int64 [rows, time]."""
    drawn = torch.randint(len(WORDS), (rows, time), generator=torch.Generator().manual_seed(1))
    return torch.tensor(WORDS)[drawn]


def check_echo(new: list[list[int]], prompts: Tensor, what: str, name: Naming) -> None:
    """Check that each row repeats its prompt from the first token on.

    A position that is lost is named. If all are, the window or the cache is too short: `name` reads
    by how much.
    """
    for row, (found, prompt) in enumerate(zip(new, prompts.tolist(), strict=True)):
        should = prompt[: len(found)]
        lost = [i for i, pair in enumerate(zip(found, should, strict=True)) if pair[0] != pair[1]]
        # Of WORDS some are right by chance.
        if len(lost) > len(found) / 2:
            failure = Failure(
                f"{what}, row {row}: tokens {found}, whatever stands that far back: a window or a "
                "cache is shorter than the context",
                expected=f"{should}",
            )
            raise naming(failure, name)
        check_kept(lost, f"{what}, row {row}")


def check_kept(lost: list[int], what: str) -> None:
    if lost:
        some = f"{lost[:3]} and {len(lost) - 3} more" if len(lost) > 3 else f"{lost}"
        mistakes = (id_with_number("lost-slot", lost[0]),) if len(lost) == 1 else ()
        raise Failure(f"{what}: positions {some} are lost", mistakes=mistakes, own=True)


@requirement("generation.far-past")
def test_new_tokens_see_the_first_ones(echoing: Judged, name_view: Naming) -> None:
    prompts = words(rows=2, time=DISTANCE - 1)
    new = echoing.generate(prompts, max_new_tokens=STEPS + 1, temperature=0.0)
    check_lengths(new, STEPS + 1)
    # The first new token has nothing to repeat.
    check_echo(
        [row[1:] for row in new],
        prompts,
        f"new tokens, each repeating the one {DISTANCE} before",
        name_view,
    )


@requirement("generation.far-past")
@pytest.mark.parametrize("steps", [1, 2], ids=["by-the-prompt", "by-a-step"])
def test_the_last_position_sees_the_first(
    adapter: Adapter, name_view: Naming, tmp_path: Path, steps: int
) -> None:
    judged = adapter.load(write_checkpoint(tmp_path, ECHO, echo(CONTEXT)))
    prompts = words(rows=8, time=CONTEXT + 1 - steps)
    new = judged.generate(prompts, max_new_tokens=steps, temperature=0.0)
    check_lengths(new, steps)
    check_first([row[-1] for row in new], prompts, name_view)


@requirement("cache.far-past")
@pytest.mark.parametrize("sizes", PIECES, ids=["whole", "pieces"])
def test_pieces_see_the_first_tokens(
    echoing: Judged, name_cache_view: Naming, sizes: tuple[int, ...]
) -> None:
    prompts = words(rows=1, time=CONTEXT - 1)
    # The right tokens are fed: a wrong one does not spoil the steps after it.
    fed = torch.cat([prompts[:, :DISTANCE], prompts[:, : STEPS - 1]], dim=1)
    first, *rest = fed.split([*sizes, *[1] * (STEPS - 1)], dim=1)
    logits, cache = echoing.prefill(first)
    said = [logits[:, -1]]
    for piece in rest:
        logits, cache = echoing.step(piece, cache)
        said.append(logits[:, -1])
    new = torch.stack(said[len(sizes) - 1 :], dim=1).argmax(-1).tolist()
    what = (
        f"a prompt in {len(sizes)} piece(s), then steps, each repeating the one {DISTANCE} before"
    )
    check_echo(new, prompts, what, name_cache_view)


@pytest.fixture(scope="module")
def echoing_soon(adapter: Adapter, write: WriteCheckpoint) -> Judged:
    return adapter.load(write("echo-soon", ECHO, lambda: echo(SOON)))


@requirement("generation.far-past")
def test_new_tokens_see_each_position(echoing_soon: Judged) -> None:
    """A position that is lost is named by the first step that should repeat its token."""
    prompt = words(rows=1, time=SOON)
    steps = CONTEXT - SOON
    (new,) = echoing_soon.generate(prompt, max_new_tokens=steps, temperature=0.0)
    check_lengths([new], steps)
    should = prompt[0].tolist() * (CONTEXT // SOON)
    wrong = [step for step, token in enumerate(new) if token != should[step]]
    # A lost token is wrong at each repetition.
    lost = wrong[:1] if all((step - wrong[0]) % SOON == 0 for step in wrong) else wrong
    check_kept(lost, f"{steps} new tokens, each repeating the one {SOON} before")


@requirement("cache.far-past")
def test_steps_see_each_position(echoing_soon: Judged) -> None:
    text = words(rows=1, time=CONTEXT)
    logits, cache = echoing_soon.prefill(text[:, :SOON])
    said = [int(logits[0, -1].argmax())]
    for token in text[:, SOON:-1].split(1, dim=1):
        logits, cache = echoing_soon.step(token, cache)
        said.append(int(logits[0, -1].argmax()))
    pairs = enumerate(zip(said, text[0].tolist(), strict=False))
    lost = [position for position, (found, wanted) in pairs if found != wanted]
    check_kept(lost, f"steps, each repeating the token {SOON} before")


@requirement("cache.far-past")
def test_a_last_step_sees_the_first_token(
    adapter: Adapter, name_cache_view: Naming, tmp_path: Path
) -> None:
    judged = adapter.load(write_checkpoint(tmp_path, ECHO, echo(CONTEXT)))
    prompts = words(rows=2, time=CONTEXT)
    _, cache = judged.prefill(prompts[:, :-1])
    logits, _ = judged.step(prompts[:, -1:], cache)
    said = logits[:, -1].argmax(-1).tolist()
    check_first(said, prompts, name_cache_view)


@requirement("eos.no-other")
def test_no_other_number_of_tokens_ends_a_text(adapter: Adapter, tmp_path: Path) -> None:
    judged = adapter.load(write_checkpoint(tmp_path, SUCCESSOR, successor()))
    n = SUCCESSOR.n_positions - 1
    (new,) = judged.generate(torch.tensor([[50000]]), max_new_tokens=n, temperature=0.0)
    should = [(50000 + step) % 50256 for step in range(1, n + 1)]
    if len(new) != n:
        failure = Failure(f"{len(new)} new tokens", expected=f"max_new_tokens={n}, without EOS")
        right = new == should[: len(new)]
        raise naming(failure, lambda: early_end(judged, len(new), n) if right else None)
    wrong = [step for step, pair in enumerate(zip(new, should, strict=True)) if pair[0] != pair[1]]
    check(not wrong, f"other tokens than the script's from step {wrong[:1]} of {n} on")


def early_end(judged: Judged, most: int, steps: int) -> Named | None:
    return most_new_tokens(judged, most, steps) or end_id(judged, 50001 + most)


def check_first(said: list[int], prompts: Tensor, name: Naming) -> None:
    wrong = [row for row, token in enumerate(said) if token != prompts[row, 0]]
    if wrong:
        what = f"the token after {CONTEXT} others does not depend on the first of them"
        failure = Failure(f"in rows {wrong} of {len(said)}, {what}")
        raise naming(failure, name)


def check_lengths(new: list[list[int]], n: int) -> None:
    lengths = [len(row) for row in new]
    check(set(lengths) == {n}, f"{lengths} new tokens in the rows", expected=f"{n} in each")


@requirement("cache.long")
def test_long_pieces(adapter: Adapter, write: WriteCheckpoint) -> None:
    folder = write("small-long", LONG, lambda: trained_like(LONG, seed=3))
    token_ids = random_token_ids(LONG, batch=1, time=LONG.n_positions)
    judged = adapter.load(folder)
    judged.prefill(token_ids[:, :1])  # raises NotApplicable if there is no cache
    # Rounding is largest where the variance is low, which is at the first token, and does not grow
    # with the number of keys: their weights add up to one.
    right = expected(str(folder), token_ids[:, :64], adapter.precision, adapter.device)
    truth, allowed = own_answer(adapter.load(folder), token_ids, right)
    truth = truth[..., ::8]  # a key that is lost changes them all
    for sizes in LONG_PIECES:
        first, *rest = token_ids.split(list(sizes), dim=1)
        logits, cache = judged.prefill(first)
        end = first.size(1)
        check_logits(logits[..., ::8], truth[:, :end], allowed, f"the first {end} tokens")
        for piece in rest:
            logits, cache = judged.step(piece, cache)
            start, end = end, end + piece.size(1)
            what = f"tokens {start} to {end - 1}, fed after the others"
            check_logits(logits[..., ::8], truth[:, start:end], allowed, what)


@requirement("context.positions")
def test_each_position_has_its_row(adapter: Adapter, tmp_path: Path) -> None:
    judged = adapter.load(write_checkpoint(tmp_path, COUNTING, counting()))
    rows = judged.logits(torch.full((1, CONTEXT), 50000))[0].argmax(-1).tolist()
    wrong = [position for position, row in enumerate(rows) if position != row]
    some = ", ".join(f"token {position} has row {rows[position]}" for position in wrong[:3])
    check(not wrong, f"{len(wrong)} of {CONTEXT} tokens have another row of wpe: {some}")
