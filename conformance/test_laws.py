"""Laws that hold for any weights and any input, on inputs that hypothesis generates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from .adapters.adapter import Adapter
from .adapters.own_answers import own_answer
from .adapters.protocol import Judged
from .checkpoints.tensors import SMALL, random_token_ids, trained_like
from .conftest import LAWS, WriteCheckpoint
from .judging.oracle import check_logits, expected
from .requirements import requirement

law = settings.get_profile(LAWS)


@st.composite
def batches(draw: st.DrawFn, min_rows: int = 1, max_rows: int = 4) -> Tensor:
    rows, time = draw(st.integers(min_rows, max_rows)), draw(st.integers(1, SMALL.n_positions))
    token = st.integers(0, SMALL.vocab_size - 1)
    return torch.tensor(
        draw(st.lists(st.lists(token, min_size=time, max_size=time), min_size=rows, max_size=rows))
    )


@pytest.fixture(scope="module")
def judged(adapter: Adapter, small: Path) -> Judged:
    return adapter.load(small)


@pytest.fixture(scope="module")
def rounding(adapter: Adapter, small: Path) -> float:
    """The largest difference of two right answers, each with the allowed error."""
    token_ids = random_token_ids(SMALL, batch=4, time=SMALL.n_positions)
    return 2 * expected(str(small), token_ids, adapter.precision, adapter.device).allowed


@requirement("laws.rows-independent")
@law
@given(token_ids=batches(min_rows=2))
def test_rows_independent(judged: Judged, rounding: float, token_ids: Tensor) -> None:
    together = judged.logits(token_ids).split(1)
    # Every row, since the one with the largest numbers may be the only one that is right.
    for row, (logits, ids) in enumerate(zip(together, token_ids.split(1), strict=True)):
        what = f"row {row} of {len(token_ids)} and itself alone"
        check_logits(logits, judged.logits(ids), rounding, what)


@requirement("laws.rows-independent")
@pytest.mark.parametrize("rows", [9, 17])
def test_many_rows(judged: Judged, rounding: float, rows: int) -> None:
    """More rows than a block of 8 or 16 holds."""
    token_ids = random_token_ids(SMALL, batch=rows, time=3, seed=4)
    together = judged.logits(token_ids)
    alone = torch.cat([judged.logits(ids) for ids in token_ids.split(1)])
    check_logits(together, alone, rounding, f"{rows} rows together and each alone")


@requirement("laws.prefix")
@law
@given(token_ids=batches(max_rows=2), data=st.data())
def test_prefix(judged: Judged, rounding: float, token_ids: Tensor, data: st.DataObject) -> None:
    time = data.draw(st.integers(1, token_ids.size(1)), label="length of the prefix")
    whole = judged.logits(token_ids)
    what = f"the first {time} of {token_ids.size(1)} tokens, beside themselves alone"
    check_logits(whole[:, :time], judged.logits(token_ids[:, :time]), rounding, what)


@requirement("laws.repeatable")
def test_repeatable(adapter: Adapter, small: Path, small_with_dropout: Path) -> None:
    judged = adapter.load(small_with_dropout)
    token_ids = random_token_ids(SMALL, batch=2, time=9)
    right = expected(str(small), token_ids, adapter.precision, adapter.device)
    truth, allowed = own_answer(adapter.load(small), token_ids, right)
    first, second = judged.logits(token_ids), judged.logits(token_ids)
    check_logits(second, first, allowed, "the same tokens for a second time")
    check_logits(first, truth, allowed, "a config with dropout, which is for training only")


@pytest.fixture(scope="module")
def reversed_vocabulary(adapter: Adapter, write: WriteCheckpoint) -> Judged:
    """The small checkpoint with token t renumbered to vocab_size - 1 - t."""
    tensors = trained_like(SMALL, seed=0)
    tensors["wte.weight"] = tensors["wte.weight"].flip(0)
    return adapter.load(write("small-reversed", SMALL, lambda: tensors))


@requirement("laws.vocabulary-permutation")
@law
@given(token_ids=batches(max_rows=2))
def test_vocabulary_permutation(
    judged: Judged, reversed_vocabulary: Judged, rounding: float, token_ids: Tensor
) -> None:
    renumbered = reversed_vocabulary.logits(SMALL.vocab_size - 1 - token_ids)
    check_logits(
        renumbered.flip(-1), judged.logits(token_ids), rounding, "the renumbered vocabulary"
    )
