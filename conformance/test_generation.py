"""The tokens of the generation loop, against the implementation's own logits.

Those are the logits that the textbook's loop would take, which has no cache. Whether they are
GPT-2's is another question.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from gpt2ref import EOS

from .adapters.adapter import Adapter
from .adapters.own_answers import check_new_tokens, own_answer
from .adapters.protocol import Judged
from .adapters.refusal import CONTEXT, accepted, may_refuse
from .checkpoints.scripts import INDUCTION, induction
from .checkpoints.tensors import (
    SMALL,
    Tensors,
    random_token_ids,
    trained_like,
    write_checkpoint,
)
from .conftest import WriteCheckpoint
from .judging.oracle import check_logits, expected
from .outcomes import Variant, check
from .requirements import requirement


def check_tokens(
    adapter: Adapter,
    checkpoint: Path,
    prompts: Sequence[Sequence[int]],
    new: Sequence[Sequence[int]],
    n: int,
    what: str = "",
    *,
    may_end: bool = False,
) -> None:
    """Check n greedy tokens of each row: each must have the largest logit after those before it.

    The logits are those of the implementation, loaded anew. A near tie, which rounding may decide
    either way, is no mistake, and the tokens that follow it are judged too. The prompts have the
    same length. `what` begins each message. With `may_end`, a row of fewer tokens has said EOS.
    """
    lengths = [len(row) for row in new]
    right_lengths = all(length == n or (may_end and length < n) for length in lengths)
    check(right_lengths, f"{what}{lengths} new tokens in the rows, not {n}")
    said = [[*row, EOS][:n] for row in new]
    # No token sees what follows it, so any will do after the end of a row.
    filled = [row + [EOS] * (n - len(row)) for row in said]
    sequences = torch.cat([torch.tensor(prompts), torch.tensor(filled)], dim=1)
    time, judged = len(prompts[0]), adapter.load(checkpoint)
    for step in range(n):
        # Up to the last position, one pass gives the logits of all steps. Past it, each step sees
        # a window of its own.
        end = time + step if time + n - 1 > SMALL.n_positions else time + n - 1
        token_ids = sequences[:, :end][:, -SMALL.n_positions :]
        right = expected(str(checkpoint), token_ids, adapter.precision, adapter.device)
        truth, allowed = own_answer(judged, token_ids, right)
        for row, scores in enumerate(truth[:, time + step - 1 - end]):
            if step >= len(said[row]):
                continue
            token_id = said[row][step]
            check(
                bool(scores[token_id] >= scores.max() - allowed),
                f"{what}row {row}, step {step}: token {token_id} has logit "
                f"{float(scores[token_id]):.6g}, "
                f"token {int(scores.argmax())} has {float(scores.max()):.6g}",
            )


def check_greedy(
    adapter: Adapter, checkpoint: Path, prompts: torch.Tensor, max_new_tokens: int
) -> None:
    new = adapter.load(checkpoint).generate(prompts, max_new_tokens=max_new_tokens, temperature=0.0)
    check_tokens(adapter, checkpoint, prompts.tolist(), new, max_new_tokens)


@requirement("generation.greedy")
def test_greedy(adapter: Adapter, small: Path) -> None:
    check_greedy(
        adapter, small, random_token_ids(SMALL, batch=3, time=5, seed=8), max_new_tokens=12
    )


def often_ending() -> Tensors:
    """Return random weights under which EOS, with larger logits, ends some rows of a batch."""
    tensors = trained_like(SMALL, seed=0)
    tensors["wte.weight"][EOS] *= 5
    return tensors


@requirement("eos.per-row")
def test_rows_go_on_beside_those_that_ended(adapter: Adapter, write: WriteCheckpoint) -> None:
    """Attention shows whether a row keeps its own keys and values when others have ended.

    Of 12 tokens, a right GPT-2 in float32 says 2, 4, 12, 1, 10 and 2 in these rows.
    """
    folder = write("small-often-ending", SMALL, often_ending)
    judged, prompts = adapter.load(folder), random_token_ids(SMALL, batch=6, time=5, seed=2)
    judged.generate(prompts[:1], max_new_tokens=2, temperature=0.0)
    with accepted(f"a batch of {len(prompts)} rows"):
        new = judged.generate(prompts, max_new_tokens=12, temperature=0.0)
    what = f"rows of {[len(row) for row in new]} new tokens: "
    check_tokens(adapter, folder, prompts.tolist(), new, 12, what, may_end=True)


@requirement("generation.exact-fit")
@pytest.mark.parametrize("time", [SMALL.n_positions - 3, SMALL.n_positions - 1])
def test_up_to_the_last_position(adapter: Adapter, small: Path, time: int) -> None:
    prompts, room = random_token_ids(SMALL, batch=2, time=time, seed=9), SMALL.n_positions - time
    judged = adapter.load(small)
    judged.generate(prompts[:, :4], max_new_tokens=room + 1, temperature=0.0)
    with accepted(
        f"{time} tokens and {room} new ones, where there are {SMALL.n_positions} positions,"
    ):
        new = judged.generate(prompts, max_new_tokens=room, temperature=0.0)
    check_tokens(adapter, small, prompts.tolist(), new, room)


def check_window(adapter: Adapter, small: Path, prompts: torch.Tensor, max_new_tokens: int) -> None:
    """Past the context, the textbook's loop crops to the last n_positions; transformers refuses."""
    judged = adapter.load(small)
    judged.generate(prompts[:, :4], max_new_tokens=2, temperature=0.0)
    with may_refuse() as refusal:
        new = judged.generate(prompts, max_new_tokens=max_new_tokens, temperature=0.0)
    if refusal.mentions(CONTEXT):
        raise Variant(
            "generation past n_positions is refused by name; "
            f"the textbook's loop goes on with the last tokens. ({refusal.error})"
        )
    check(not refusal, f"past n_positions it neither goes on nor refuses by name: {refusal}")
    check_tokens(adapter, small, prompts.tolist(), new, max_new_tokens)


@requirement("generation.window")
def test_past_the_last_position(adapter: Adapter, small: Path) -> None:
    check_window(
        adapter,
        small,
        random_token_ids(SMALL, batch=2, time=SMALL.n_positions - 2, seed=10),
        max_new_tokens=8,
    )


@requirement("generation.window")
def test_prompt_longer_than_the_context(adapter: Adapter, small: Path) -> None:
    check_window(
        adapter,
        small,
        random_token_ids(SMALL, batch=2, time=SMALL.n_positions + 4, seed=11),
        max_new_tokens=3,
    )


@requirement("generation.empty-prompt")
def test_empty_prompt(adapter: Adapter, small: Path) -> None:
    judged = adapter.load(small)
    judged.generate(torch.tensor([[EOS]]), max_new_tokens=2, temperature=0.0)
    with may_refuse() as refusal:
        empty = torch.zeros(1, 0, dtype=torch.int64)
        new = judged.generate(empty, max_new_tokens=3, temperature=0.0)
    if not refusal:
        what = "a prompt without tokens, as if it were <|endoftext|>: "
        check_tokens(adapter, small, [[EOS]], new, 3, what)


def check_no_trace(
    adapter: Adapter, small: Path, small_with_dropout: Path, generate: Callable[[Judged], object]
) -> None:
    token_ids = random_token_ids(SMALL, batch=3, time=5, seed=8)
    judged = adapter.load(small_with_dropout)
    right = expected(str(small), token_ids, adapter.precision, adapter.device)
    truth, allowed = own_answer(judged, token_ids, right)
    generate(judged)
    check_logits(judged.logits(token_ids), truth, allowed, "after a call of generate")


@requirement("generation.leaves-no-trace")
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
def test_leaves_no_trace(
    adapter: Adapter, small: Path, small_with_dropout: Path, temperature: float
) -> None:
    prompts = random_token_ids(SMALL, batch=3, time=5, seed=8)

    def generate(judged: Judged) -> None:
        judged.generate(prompts, max_new_tokens=3, temperature=temperature, seed=1)

    check_no_trace(adapter, small, small_with_dropout, generate)


@requirement("generation.leaves-no-trace")
def test_ragged_leaves_no_trace(adapter: Adapter, small: Path, small_with_dropout: Path) -> None:
    first, second, third = random_token_ids(SMALL, batch=3, time=6).tolist()
    prompts = [first[:2], second, third[:3]]

    def generate(judged: Judged) -> None:
        judged.generate_ragged(prompts, max_new_tokens=3, temperature=0.0)

    check_no_trace(adapter, small, small_with_dropout, generate)


@requirement("generation.dropout")
def test_dropout(adapter: Adapter, small: Path, small_with_dropout: Path) -> None:
    prompts, n = random_token_ids(SMALL, batch=3, time=5, seed=8), 6
    new = adapter.load(small_with_dropout).generate(prompts, max_new_tokens=n, temperature=0.0)
    what = "a config with dropout, which is for training only: "
    check_tokens(adapter, small, prompts.tolist(), new, n, what)


WORDS = dict(zip("ABCDEFGH", (11, 262, 1135, 50255, 0, 13, 198, 31000), strict=True))
# The beginning of each text, and the words that it then repeats. In the second, A has two
# followers.
TEXTS = [("", "ABC"), ("", "ABAC"), ("GH", "DABCE"), ("", "BADCEFG")]
PROMPT = 9  # words; the last two occur before too
MANY_ROWS = 17  # more than one in blocks of 8 or 16


@pytest.fixture
def inducing(adapter: Adapter, tmp_path: Path) -> Judged:
    return adapter.load(write_checkpoint(tmp_path, INDUCTION, induction(list(WORDS.values()))))


def check_induction(inducing: Judged, texts: Sequence[str], temperature: float) -> None:
    """Check the words after the first nine of each text."""
    rows = [[WORDS[word] for word in text] for text in texts]
    n = len(texts[0]) - PROMPT
    prompts = torch.tensor(rows)[:, :PROMPT]
    with accepted(f"a batch of {len(prompts)} rows"):
        new = inducing.generate(prompts, max_new_tokens=n, temperature=temperature, seed=7)
    for row, (prompt, found) in enumerate(zip(prompts.tolist(), new, strict=True)):
        should = rows[row][PROMPT:]
        pairs = zip(found, should, strict=False)
        right_ones = len([*itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)])
        check_new_tokens(
            inducing,
            prompt,
            found,
            should,
            max_new_tokens=n,
            temperature=temperature,
            where=f" in row {row} at temperature {temperature}, the first {right_ones} of them "
            "right",
        )


@requirement("generation.induction")
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
def test_induction(inducing: Judged, temperature: float) -> None:
    length = INDUCTION.n_positions + 1  # the last position has a token and a follower
    texts = [(begin + cycle * length)[:length] for begin, cycle in TEXTS]
    first = torch.tensor([[WORDS[word] for word in texts[0][:PROMPT]]])
    inducing.generate(first, max_new_tokens=length - PROMPT, temperature=temperature, seed=7)
    check_induction(inducing, texts, temperature)


@requirement("generation.induction")
def test_induction_of_many_rows(inducing: Judged) -> None:
    """Each row has a text of its own, so another row's keys and values mislead it."""
    cycles = [a + b + c for a, b, c in itertools.permutations("ABCDEFGH", 3)][::19][:MANY_ROWS]
    inducing.generate(torch.tensor([[WORDS["A"]] * PROMPT]), max_new_tokens=2, temperature=0.0)
    check_induction(inducing, [(cycle * PROMPT)[: PROMPT + 5] for cycle in cycles], 0.0)


@requirement("generation.second-prompt")
def test_second_prompt(adapter: Adapter, inducing: Judged, tmp_path: Path) -> None:
    """The second prompt begins as the first does, all three end alike, and each goes on anew."""
    for number, text in enumerate(["ABCDEABCD", "ABCDFABCD", "EFCDGEFCD"], 1):
        prompt = torch.tensor([[WORDS[word] for word in text]])
        options = {"max_new_tokens": 4, "temperature": 0.0}
        wanted = adapter.load(tmp_path).generate(prompt, **options)
        found = inducing.generate(prompt, **options)
        check(
            found == wanted,
            f"new tokens {found[0]} for prompt {number} of one model",
            expected=f"{wanted[0]}, which a model gives that had no other prompt",
        )
