"""The right logits of a checkpoint, and the allowed error.

**The truth** is Hugging Face's GPT-2 in float64 with eager attention. (`gpt2ref` in float64 agrees
with it to 1e-12: that is the requirement parity.float64.)

**The allowed error** in a dtype is measured, not guessed. Hugging Face runs in that dtype on the
same input, with eager attention and with sdpa, and its largest error against the truth is taken. A
sound implementation sums in another order, so its error differs but has the same size. Over 50
random checkpoints the error of gpt2ref, CTranslate2 and TransformerLens in float32, and of gpt2ref
in bfloat16, was at most 1.8 times Hugging Face's (`python -m conformance.studies.false_alarms
--seeds 50`). FACTOR = 4 leaves room for other orders of summation. In float32 the smallest known
defects are far outside: erf-GELU is at least 68 times the allowed error off, an epsilon of 1e-6
more than 10,000 times. In half precision erf-GELU is inside, because its deviation is smaller than
the noise of the dtype. The measurement is `python -m conformance.studies.tolerance --seeds 40`; the
test of this policy is tests/conformance/test_tolerance.py.

**The floor** keeps the allowed error above zero where the oracle happens to be exact. It is
FLOOR_ULPS units in the last place of the largest logit, because each logit is the rounded result of
at least the final LayerNorm and the head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..outcomes import Failure

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

FACTOR = 4
FLOOR_ULPS = 4


class Expected(NamedTuple):
    logits: Tensor  # float64 [batch, time, vocab]
    allowed: float  # largest absolute error


def expected(
    checkpoint: str,
    token_ids: Tensor,
    dtype: torch.dtype,
    device: str = "cpu",
    every: int = 1,
) -> Expected:
    """Return the right logits after token ids [batch, time], and the allowed error in a dtype.

    With `every`, only those of each n-th position: a long context has many logits.
    """
    return _expected(str(checkpoint), tuple(map(tuple, token_ids.tolist())), dtype, device, every)


@lru_cache(maxsize=64)  # the tests of an implementation need about fifty
def _expected(
    checkpoint: str,
    token_ids: tuple[tuple[int, ...], ...],
    dtype: torch.dtype,
    device: str,
    every: int,
) -> Expected:
    ids, truth = torch.tensor(token_ids), _truth(checkpoint, token_ids, every)

    def error_in(run_in: torch.dtype) -> float:
        """Return the largest error of Hugging Face's GPT-2."""
        each = (
            hugging_face_logits(checkpoint, ids, run_in, attention, device, every)
            for attention in ("eager", "sdpa")
        )
        return max(float(error(logits, truth).max()) for logits in each)

    return Expected(truth, allowed_error(error_in, float(truth.abs().max()), dtype))


@lru_cache(maxsize=64)
def _truth(checkpoint: str, token_ids: tuple[tuple[int, ...], ...], every: int) -> Tensor:
    ids = torch.tensor(token_ids)
    return hugging_face_logits(checkpoint, ids, torch.float64, "eager", every=every)


def allowed_error(
    error_in: Callable[[torch.dtype], float], largest_logit: float, dtype: torch.dtype
) -> float:
    """Return the allowed error, from the error of a sound implementation against the truth.

    `error_in` gives that error in a dtype. In float64 the oracle would be compared with itself, so
    the error in float32 is taken, in proportion to the rounding.
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
    every: int = 1,
) -> Tensor:
    """Return logits float64 [batch, time // every, vocab], computed in `dtype`."""
    file = Path(checkpoint) / "model.safetensors"
    model = (_small if file.exists() and file.stat().st_size < 1e8 else _large)(
        checkpoint, dtype, attention, device
    )
    if model.num_parameters() > 200e6:  # XL takes 12 GB in float64: keep one model at a time
        _large.cache_clear()
    hidden = model.transformer(token_ids.to(device)).last_hidden_state
    return model.lm_head(hidden[:, every - 1 :: every]).cpu().double()


def _model(checkpoint: str, dtype: torch.dtype, attention: str, device: str) -> GPT2LMHeadModel:
    from transformers import GPT2LMHeadModel  # takes seconds, and not every process needs it
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for each small checkpoint would hide the findings
    return (
        GPT2LMHeadModel.from_pretrained(checkpoint, attn_implementation=attention)
        .to(device, dtype)
        .eval()
    )


_small = lru_cache(maxsize=16)(_model)
# The truth, and the two kinds of attention in float32 and in bfloat16: 2.5 GB of the 124M shape.
_large = lru_cache(maxsize=5)(_model)


def error(judged: Tensor, truth: Tensor) -> Tensor:
    """Return the absolute error of each logit, [batch, time, vocab], infinite for NaN.

    A constant that is added to all logits of a position changes no probability, so it is left out.
    The requirement head.raw is about it. So an implementation that centres its logits can be judged
    by all other requirements.
    """
    difference = judged - truth
    shift = difference.mean(-1, keepdim=True)
    if not shift.isfinite().all():  # a NaN must count for its own token alone
        shift = difference.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).mean(-1, keepdim=True)
    difference -= shift
    return difference.abs_().nan_to_num_(nan=torch.inf)


def check_logits(judged: Tensor, truth: Tensor, allowed: float, what: str) -> None:
    """Raise a Failure with the largest error and its place, unless all errors are allowed."""
    __tracebackhide__ = True
    if judged.shape != truth.shape:
        shapes = f"shape {list(judged.shape)}, expected {list(truth.shape)}"
        raise Failure(f"{what}: logits of {shapes}")
    errors = error(judged, truth)
    worst = float(errors.max())
    if worst > allowed:
        at = torch.unravel_index(errors.argmax(), errors.shape)
        row, position, token = map(int, at)
        n_wrong, n_positions = int((errors > allowed).any(-1).sum()), errors[..., 0].numel()
        raise Failure(
            f"{what}: token {token} at row {row}, position {position} "
            f"has logit {float(judged[at]):.7g}, should be {float(truth[at]):.7g}: "
            f"{worst:.1e} off, {worst / allowed:.3g} times the allowed {allowed:.1e}. "
            f"{n_wrong} of {n_positions} positions are off."
        )
