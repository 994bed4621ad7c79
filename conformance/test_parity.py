"""Whole logits against Hugging Face's, on trained-like weights and on real ones.

test_published_sizes.py compares those of the published shapes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpt2ref import encode, load_checkpoint

from .adapters.adapter import Adapter
from .adapters.protocol import PRECISIONS
from .checkpoints.tensors import SMALL, far_below_zero, random_token_ids, trained_like
from .conftest import WriteCheckpoint
from .judging import published
from .judging.oracle import check_logits, expected
from .options import DTYPES
from .outcomes import NotApplicable, check
from .requirements import requirement

LENGTHS = (1, 2, SMALL.n_positions - 1, SMALL.n_positions)


def has_dtype(device: str, dtype: torch.dtype) -> bool:
    """Return whether torch can compute what a GPT-2 needs, in this dtype on this device."""
    try:
        x = torch.ones(1, 2, 2, 2, device=device, dtype=dtype)
        torch.nn.functional.gelu(
            torch.nn.functional.scaled_dot_product_attention(x, x, x), approximate="tanh"
        )
    except (RuntimeError, TypeError):
        return False
    return True


def check_parity(
    adapter: Adapter,
    checkpoint: Path | str,
    token_ids: torch.Tensor,
    dtype: torch.dtype,
    what: str,
    every: int = 1,
) -> None:
    if not has_dtype(adapter.device, dtype):
        raise NotApplicable(f"no {dtype} on {adapter.device}")
    judged = adapter.load(checkpoint, dtype=dtype)
    precision = PRECISIONS[judged.precision] if judged.precision else dtype
    logits = judged.logits(token_ids)[:, every - 1 :: every]
    del judged  # the truth may need its memory
    truth, allowed = expected(str(checkpoint), token_ids, precision, adapter.device, every)
    check_logits(logits, truth, allowed, what)


@pytest.mark.parametrize("time", LENGTHS)
def test_small(adapter: Adapter, each_dtype: str, time: int, small: Path) -> None:
    token_ids = random_token_ids(SMALL, batch=2, time=time)
    check_parity(adapter, small, token_ids, DTYPES[each_dtype], f"2 rows of {time} tokens")


def test_far_below_zero(adapter: Adapter, each_dtype: str, write: WriteCheckpoint) -> None:
    folder = write("far-below-zero", SMALL, lambda: far_below_zero(trained_like(SMALL, seed=0)))
    token_ids = random_token_ids(SMALL, batch=2, time=LENGTHS[-1])
    check_parity(adapter, folder, token_ids, DTYPES[each_dtype], "logits far below zero")


@requirement("parity.given-checkpoint")
def test_given_checkpoint(adapter: Adapter, request: pytest.FixtureRequest) -> None:
    text = (
        "The GPT-2 model was trained on WebText, 8 million pages that Reddit users had linked to. "
        "In 2019"
    )
    checkpoint = request.config.option.checkpoint
    check_parity(adapter, checkpoint, torch.tensor([encode(text)]), adapter.dtype, checkpoint)


@requirement("parity.given-checkpoint")
def test_published_outputs(adapter: Adapter, request: pytest.FixtureRequest) -> None:
    """Compare with numbers that others have published, so that there is a second truth."""
    checkpoint = request.config.option.checkpoint
    if not published.is_gpt2_124m(load_checkpoint(checkpoint)):
        raise NotApplicable("not the published 124M weights")
    judged = adapter.load(checkpoint)
    for text, logits in published.last_logits().items():
        token_ids = torch.tensor([encode(text)])
        # The judged logits may have the error of their dtype, the published ones that of float32.
        allowed = sum(
            expected(checkpoint, token_ids, dtype, adapter.device)[1]
            for dtype in (adapter.precision, torch.float32)
        )
        found = judged.logits(token_ids)[:, -1:, list(logits)].double()
        truth = torch.tensor([[[*logits.values()]]]).double()
        check_logits(found, truth, allowed, f"{len(logits)} published logits after {text!r}")


@requirement("parity.given-checkpoint")
def test_published_continuation(adapter: Adapter, request: pytest.FixtureRequest) -> None:
    checkpoint = request.config.option.checkpoint
    if not published.is_gpt2_124m(load_checkpoint(checkpoint)):
        raise NotApplicable("not the published 124M weights")
    if adapter.precision not in (torch.float32, torch.float64):
        raise NotApplicable("the continuation is published for float32")
    prompt, continuation = published.THE_DOG
    (new,) = adapter.load(checkpoint).generate(
        torch.tensor([prompt]), max_new_tokens=len(continuation), temperature=0.0
    )
    check(new == continuation, f"new tokens {new}", expected=f"{continuation}")
