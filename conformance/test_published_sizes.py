"""Logits and cached steps in the shapes of the published models, on trained-like weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2ref import PUBLISHED_CONFIGS

from .adapters.adapter import Adapter
from .adapters.own_answers import own_answer
from .checkpoints.tensors import random_token_ids, trained_like
from .conftest import WriteCheckpoint
from .judging.oracle import check_logits, expected
from .options import DTYPES
from .outcomes import NotApplicable
from .requirements import requirement
from .test_cache import in_pieces
from .test_parity import check_parity

GPT2 = PUBLISHED_CONFIGS["gpt2"]


def test_gpt2_124m(adapter: Adapter, each_dtype: str, gpt2_124m: Path) -> None:
    if each_dtype == "float16" and adapter.device == "cpu":
        raise NotApplicable("float16 is emulated on the CPU, too slowly for this size")
    # A CPU without bfloat16 instructions takes a fifth of a second for each token of this shape.
    time = 2 if DTYPES[each_dtype].itemsize < 4 else 19
    token_ids = random_token_ids(GPT2, batch=2, time=time)
    what = f"the 124M shape, 2 rows of {time} tokens"
    check_parity(adapter, gpt2_124m, token_ids, DTYPES[each_dtype], what)


@requirement("parity.full-context")
def test_full_context(adapter: Adapter, full_context: Path) -> None:
    token_ids = random_token_ids(GPT2, batch=1, time=GPT2.n_positions)
    what = f"every eighth of {GPT2.n_positions} positions"
    check_parity(adapter, full_context, token_ids, adapter.dtype, what, every=8)


@requirement("cache.steps")
def test_steps_of_the_124m_shape(adapter: Adapter, gpt2_124m: Path) -> None:
    token_ids = random_token_ids(GPT2, batch=2, time=19)
    right = expected(str(gpt2_124m), token_ids, adapter.precision, adapter.device)
    judged = adapter.load(gpt2_124m)
    logits = in_pieces(judged, token_ids, (11, *[1] * 8))
    truth, allowed = own_answer(judged, token_ids, right)
    check_logits(logits, truth, allowed, "the 124M shape, 11 tokens and 8 steps")


@pytest.mark.slow
@requirement("parity.published-sizes")
@pytest.mark.parametrize("size", ["gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_published_sizes(adapter: Adapter, size: str, write: WriteCheckpoint) -> None:
    config = PUBLISHED_CONFIGS[size]
    folder = write(size, config, lambda: trained_like(config, seed=0))
    token_ids = random_token_ids(config, batch=2, time=19)
    check_parity(adapter, folder, token_ids, adapter.dtype, f"the {size} shape")
