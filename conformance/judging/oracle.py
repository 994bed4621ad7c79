"""What the logits of a checkpoint should be, and how far off they may be.

**The truth** is Hugging Face's GPT-2 in float64, eager attention. (That `gpt2ref` in float64 agrees with it to 1e-12 is
the requirement parity.float64.)

**The allowed error** in a dtype is measured, not guessed. Hugging Face itself is run in that dtype on the same input,
with eager attention and with sdpa, and its largest error against the truth is taken. A sound implementation sums in
another order and so makes another error of the same size: over 50 random checkpoints the error of gpt2ref, CTranslate2
and TransformerLens in float32, and gpt2ref's in bfloat16, was at most 1.8 times Hugging Face's
(`python -m conformance.studies.false_alarms --seeds 50`).
FACTOR = 4 leaves room for orders of summation that none of them uses. In float32 the smallest known defects are far
outside: erf-GELU at least 68 times the allowed error, an epsilon of 1e-6 more than 10,000 times. In half precision
erf-GELU is within it, as it must be: its deviation is smaller than the dtype's own noise. The measurement:
`python -m conformance.studies.tolerance --seeds 40`. The test of this policy: tests/conformance/test_tolerance.py.

**The floor** keeps the allowed error from vanishing where the oracle happens to be exact: FLOOR_ULPS units in the last
place of the largest logit, as each logit is the rounded result of at least the final LayerNorm and the head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel
from transformers.utils import logging

logging.disable_progress_bar()  # a bar for each of our small checkpoints would hide what is found

FACTOR = 4
FLOOR_ULPS = 4
EVERY_POSITION = slice(None)


class Expected(NamedTuple):
    logits: Tensor  # float64 [batch, time, vocab]
    allowed: float  # largest absolute error


def expected(
    checkpoint: str,
    token_ids: Tensor,
    dtype: torch.dtype,
    device: str = "cpu",
    positions: slice = EVERY_POSITION,
) -> Expected:
    """The truth and the allowed error, of the logits at these positions."""
    ids, chosen = tuple(map(tuple, token_ids.tolist())), (positions.start, positions.step)
    return _expected(str(checkpoint), ids, dtype, device, chosen)


@lru_cache(maxsize=64)  # an implementation is asked for about fifty
def _expected(
    checkpoint: str,
    token_ids: tuple[tuple[int, ...], ...],
    dtype: torch.dtype,
    device: str,
    positions: tuple[int | None, int | None],
) -> Expected:
    ids, chosen = torch.tensor(token_ids), slice(positions[0], None, positions[1])
    truth = _truth(checkpoint, token_ids, positions)

    def error_in(run_in: torch.dtype) -> float:
        """Hugging Face's own."""
        each = (
            hugging_face_logits(checkpoint, ids, run_in, attention, device, chosen)
            for attention in ("eager", "sdpa")
        )
        return max(float(error(logits, truth).max()) for logits in each)

    return Expected(truth, allowed_error(error_in, float(truth.abs().max()), dtype))


@lru_cache(maxsize=64)
def _truth(
    checkpoint: str,
    token_ids: tuple[tuple[int, ...], ...],
    positions: tuple[int | None, int | None],
) -> Tensor:
    ids, chosen = torch.tensor(token_ids), slice(positions[0], None, positions[1])
    return hugging_face_logits(checkpoint, ids, torch.float64, "eager", positions=chosen)


def allowed_error(
    error_in: Callable[[torch.dtype], float], largest_logit: float, dtype: torch.dtype
) -> float:
    """From the error that a sound implementation makes in a dtype, against the float64 truth.

    In float64 it would be compared with itself: its error there is taken from float32's, in proportion to the rounding.
    """
    eps = torch.finfo(dtype).eps
    run_in = torch.float32 if dtype == torch.float64 else dtype
    error = error_in(run_in) * eps / torch.finfo(run_in).eps
    return max(FACTOR * error, FLOOR_ULPS * eps * largest_logit)


@torch.inference_mode()
def hugging_face_logits(
    checkpoint: str,
    token_ids: Tensor,
    dtype: torch.dtype,
    attention: str,
    device: str = "cpu",
    positions: slice = EVERY_POSITION,
) -> Tensor:
    """The logits at these positions, float64 [batch, positions, vocab], computed in `dtype`."""
    file = Path(checkpoint) / "model.safetensors"
    model = (_small if file.exists() and file.stat().st_size < 1e8 else _large)(
        checkpoint, dtype, attention, device
    )
    if model.num_parameters() > 200e6:  # XL takes 12 GB in float64: not two models at once
        _large.cache_clear()
    hidden = model.transformer(token_ids.to(device)).last_hidden_state
    return model.lm_head(hidden[:, positions]).to("cpu", torch.float64)


def _model(checkpoint: str, dtype: torch.dtype, attention: str, device: str) -> GPT2LMHeadModel:
    return (
        GPT2LMHeadModel.from_pretrained(checkpoint, attn_implementation=attention)
        .to(device, dtype)
        .eval()
    )


_small = lru_cache(maxsize=16)(_model)
# The truth, and the two kinds of attention in float32 and in bfloat16: 2.5 GB of the 124M shape.
_large = lru_cache(maxsize=5)(_model)


def error(judged: Tensor, truth: Tensor) -> Tensor:
    """The size of the error of each logit, [batch, time, vocab], infinite for NaN.

    What is added to all logits of a position alike changes no probability. It is left out here, and asked for by itself
    (head.raw), so that an implementation that centres its logits can be judged in everything else.
    """
    difference = judged - truth
    shift = difference.mean(-1, keepdim=True)
    if not shift.isfinite().all():  # a NaN is that of its own token alone
        shift = difference.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).mean(-1, keepdim=True)
    difference -= shift
    return difference.abs_().nan_to_num_(nan=torch.inf)


def check_logits(judged: Tensor, truth: Tensor, allowed: float, what: str) -> None:
    """Fails with the place and the size of the largest error, and how it compares with what is allowed."""
    __tracebackhide__ = True
    assert judged.shape == truth.shape, (
        f"{what}: logits of shape {list(judged.shape)}, expected {list(truth.shape)}"
    )
    errors = error(judged, truth)
    worst = float(errors.max())
    if worst > allowed:
        row, position, token = (int(i) for i in torch.unravel_index(errors.argmax(), errors.shape))
        raise AssertionError(
            f"{what}: token {token} at row {row}, position {position} has logit {float(judged[row, position, token]):.7g}, "
            f"should be {float(truth[row, position, token]):.7g}: {worst:.1e} off, {worst / allowed:.3g} times the allowed "
            f"{allowed:.1e}. {int((errors > allowed).any(-1).sum())} of {errors[..., 0].numel()} positions are off."
        )
