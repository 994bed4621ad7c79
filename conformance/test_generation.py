"""The tokens of the generation loop, against the textbook's loop, which has no cache."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from gpt2ref import EOS

from .adapters.adapter import Adapter
from .adapters.protocol import Judged
from .adapters.refusal import CONTEXT, accepted, may_refuse
from .checkpoints.scripts import INDUCTION, induction
from .checkpoints.tensors import SMALL, random_token_ids, write_checkpoint
from .judging.oracle import check_logits, expected
from .outcomes import Failure, Variant, check
from .requirements import requirement


def check_tokens(
    adapter: Adapter,
    checkpoint: Path,
    prompts: Sequence[Sequence[int]],
    new: Sequence[Sequence[int]],
    n: int,
    what: str = "",
) -> None:
    """Check n greedy tokens of each row: each must have the largest logit after those before it.

    So a near tie, which rounding may decide either way, is no mistake, and the tokens that follow
    it are judged too. The prompts have the same length. `what` begins each message.
    """
    lengths = [len(row) for row in new]
    check(lengths == [n] * len(prompts), f"{what}{lengths} new tokens in the rows, not {n}")
    sequences = torch.cat([torch.tensor(prompts), torch.tensor(new)], dim=1)
    time = len(prompts[0])
    for step in range(n):
        # Up to the last position, one pass gives the logits of all steps. Past it, each step sees
        # a window of its own.
        end = time + step if time + n - 1 > SMALL.n_positions else time + n - 1
        truth, allowed = expected(
            str(checkpoint),
            sequences[:, :end][:, -SMALL.n_positions :],
            adapter.precision,
            adapter.device,
        )
        for row, scores in enumerate(truth[:, time + step - 1 - end]):
            token_id = new[row][step]
            # Each of the two logits may be off by the allowed error.
            check(
                bool(scores[token_id] >= scores.max() - 2 * allowed),
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


@requirement("generation.exact-fit")
@pytest.mark.parametrize("time", [SMALL.n_positions - 3, SMALL.n_positions - 1])
def test_up_to_the_last_position(adapter: Adapter, small: Path, time: int) -> None:
    prompts, room = random_token_ids(SMALL, batch=2, time=time, seed=9), SMALL.n_positions - time
    judged = adapter.load(small)
    judged.generate(prompts[:, 1:], max_new_tokens=room, temperature=0.0)
    with accepted(
        f"{time} tokens and {room} new ones, where there are {SMALL.n_positions} positions,"
    ):
        new = judged.generate(prompts, max_new_tokens=room, temperature=0.0)
    check_tokens(adapter, small, prompts.tolist(), new, room)


def check_window(adapter: Adapter, small: Path, prompts: torch.Tensor, max_new_tokens: int) -> None:
    """Past the context, the textbook's loop crops to the last n_positions; transformers refuses."""
    judged = adapter.load(small)
    judged.generate(prompts[:, :4], max_new_tokens=1, temperature=0.0)
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
    judged.generate(torch.tensor([[EOS]]), max_new_tokens=1, temperature=0.0)
    with may_refuse() as refusal:
        empty = torch.zeros(1, 0, dtype=torch.int64)
        new = judged.generate(empty, max_new_tokens=3, temperature=0.0)
    if not refusal:
        what = "a prompt without tokens, as if it were <|endoftext|>: "
        check_tokens(adapter, small, [[EOS]], new, 3, what)


@requirement("generation.leaves-no-trace")
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
def test_leaves_no_trace(adapter: Adapter, small: Path, temperature: float) -> None:
    token_ids = random_token_ids(SMALL, batch=3, time=5, seed=8)
    truth, allowed = expected(str(small), token_ids, adapter.precision, adapter.device)
    judged = adapter.load(small)
    check_logits(judged.logits(token_ids), truth, allowed, "before")
    judged.generate(token_ids, max_new_tokens=3, temperature=temperature, seed=1)
    check_logits(judged.logits(token_ids), truth, allowed, "after a call of generate")


WORDS = dict(zip("ABCDEFGH", (11, 262, 1135, 50255, 0, 13, 198, 31000), strict=True))
# The beginning of each text, and the words that it then repeats. In the second, A has two
# followers.
TEXTS = [("", "ABC"), ("", "ABAC"), ("GH", "DABCE"), ("", "BADCEFG")]
PROMPT = 9  # words; the last two occur before too


@pytest.fixture
def inducing(adapter: Adapter, tmp_path: Path) -> Judged:
    return adapter.load(write_checkpoint(tmp_path, INDUCTION, induction(list(WORDS.values()))))


@requirement("generation.induction")
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
def test_induction(inducing: Judged, temperature: float) -> None:
    length = INDUCTION.n_positions + 1  # the last position has a token and a follower
    texts = [[WORDS[word] for word in (begin + cycle * length)[:length]] for begin, cycle in TEXTS]
    prompts, wanted = torch.tensor(texts)[:, :PROMPT], [text[PROMPT:] for text in texts]
    inducing.generate(prompts[:1], max_new_tokens=length - PROMPT, temperature=temperature, seed=7)
    with accepted(f"a batch of {len(prompts)} rows"):
        new = inducing.generate(
            prompts, max_new_tokens=length - PROMPT, temperature=temperature, seed=7
        )
    for row, (found, should) in enumerate(zip(new, wanted, strict=True)):
        if found != should:
            pairs = zip(found, should, strict=False)
            right = len([*itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)])
            where = f"in row {row} at temperature {temperature}, the first {right} of them right"
            raise Failure(f"new tokens {found} {where}", expected=f"{should}")
