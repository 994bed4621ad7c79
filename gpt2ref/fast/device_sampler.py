"""The sampler of a captured step: Triton's kernels, or torch's operators where it has none."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..sampling import choose
from .slower import warn_slower

# Chooses from logits [batch, vocab], with uniform float64 [batch] and the temperature, float64 [],
# and writes the tokens, int64 [batch], or -1 as `sampling.choose` does.
Sampler = Callable[[Tensor, Tensor, Tensor, Tensor], None]


def make_sampler(
    batch: int,
    vocab_size: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    greedy: bool,
    top_k: int | None,
) -> Sampler:
    """Make the fastest sampler for logits of these shapes. It never waits for the device."""

    def plain(logits: Tensor, uniform: Tensor, temperature: Tensor, chosen: Tensor) -> None:
        setting = 0 if greedy else temperature
        chosen.copy_(choose(logits, uniform, temperature=setting, top_k=top_k))

    if device.type != "cuda":
        return plain
    return triton_sampler(batch, vocab_size, dtype, device, greedy=greedy, top_k=top_k) or plain


def triton_sampler(
    batch: int,
    vocab_size: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    greedy: bool,
    top_k: int | None,
) -> Sampler | None:
    """Make a sampler of Triton's kernels, and try it. None if there can't be one."""
    try:
        from .triton_sampler import DIGITS, TritonSampler
    except ImportError:  # torch's builds for CUDA bring Triton on Linux alone
        return None
    if dtype not in DIGITS:
        return None
    try:
        with torch.cuda.device(device):
            sampler = TritonSampler(batch, vocab_size, dtype, device, greedy=greedy, top_k=top_k)
            sampler.check()
    except Exception as error:  # of a compiler, a driver, or because its tokens are wrong
        warn_slower("Triton's kernels can't choose tokens", error)
        return None
    return sampler
