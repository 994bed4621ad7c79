"""The sampler on CUDA in a few kernels of Triton, for a decode step that is captured.

`sampling.choose` defines what is chosen. Its operators take a large part of a small model's step:
top-k sorts, and a float64 sum over a vocabulary is one long chain. Here each row is cut into
blocks, which are computed at once:

1. `_count` finds each block's largest logit, and counts the logits by their leading digit. Another
   pass for each further digit leads to the k-th largest logit, digit by digit.
2. `_sum` adds up exp((logit - largest) / temperature) in each block, of the logits that top-k
   keeps.
3. `_draw` finds the block in which the sum over the blocks passes the uniform number, and the token
   within it. A greedy choice needs the first pass and this.

So a choice takes 2 kernels if it is greedy, 3 without top-k, and with top-k 4 in bfloat16, 5 in
float16 and 6 in float32. Nothing waits for the device, allocates, or depends on which block is
first.

This module imports Triton, so it is imported only where that is installed. With TRITON_INTERPRET=1,
set before Triton is imported, the same kernels run on the CPU.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..sampling import choose

BLOCK = 1024  # logits of a block: GPT-2's vocabulary has 50 of them
DIGITS = {torch.bfloat16: 2, torch.float16: 3, torch.float32: 4}  # that tell all numbers apart
EXACT = {"enable_fp_fusion": False}  # each operation is rounded, as torch's are

BITS = tl.constexpr(8)  # of a digit
BINS = tl.constexpr(256)  # the values of a digit
NONE = tl.constexpr(2**31 - 1)  # a place beyond all others


@triton.jit
def _read(logits, stride, row, block, vocab_size, size: tl.constexpr):
    """Read a block as float32: NaN as infinity, -0 as 0, and -infinity beyond the row."""
    places = block * size + tl.arange(0, size)
    inside = places < vocab_size
    x = tl.load(logits + row.to(tl.int64) * stride + places, mask=inside, other=float("-inf"))
    x = x.to(tl.float32)
    return tl.where(x == x, tl.where(x == 0, 0.0, x), float("inf"))


@triton.jit
def _leading(x, digits: tl.constexpr):
    """Return the first digits of each number, as integers that are in the order of the numbers."""
    bits = x.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) | -(2**31))  # all bits of a negative number, the sign of others
    return ordered.to(tl.uint32, bitcast=True) >> (32 - digits * BITS)


@triton.jit
def _kth_largest(counts, k, digits: tl.constexpr):
    """Return the first digits of the k-th largest logit of a row, from the counts of those digits.

    A pass counts only the logits that share the digits before, and adds all others to the lowest
    value, of which no count is needed.
    """
    values = tl.arange(0, BINS)
    found = k * 0
    for digit in tl.static_range(digits):
        count = tl.load(counts + digit * BINS + values)
        at_least = tl.cumsum(count, 0, reverse=True)
        value = tl.sum((at_least >= k).to(tl.int32)) - 1
        k -= tl.sum(tl.where(values > value, count, 0))
        found = found * BINS + value
    return found.to(tl.uint32)


@triton.jit(do_not_specialize=["stride", "k"])
def _count(
    logits,
    stride,
    vocab_size,
    k,
    maxima,
    counts,
    digit: tl.constexpr,
    digits: tl.constexpr,
    size: tl.constexpr,
):
    """Count the values of a digit in a block, and in the first pass find the largest logit."""
    row, block = tl.program_id(0), tl.program_id(1)
    x = _read(logits, stride, row, block, vocab_size, size)
    if digit == 0:
        tl.store(maxima + row * tl.num_programs(1) + block, tl.max(x))
    if digits > 0:
        counts += row * digits * BINS
        values = _leading(x, digit + 1).to(tl.int32) & (BINS - 1)
        if digit > 0:
            values = tl.where(_leading(x, digit) == _kth_largest(counts, k, digit), values, 0)
        found = tl.histogram(values, BINS)
        places = counts + digit * BINS + tl.arange(0, BINS)
        tl.atomic_add(places, found, mask=found > 0, sem="relaxed")


@triton.jit
def _weights(x, largest, temperature, counts, k, digits: tl.constexpr):
    """Return exp((x - largest) / temperature) in float64, and 0 for what top-k leaves out."""
    weights = tl.exp((x.to(tl.float64) - largest.to(tl.float64)) / temperature)
    if digits > 0:
        weights = tl.where(_leading(x, digits) >= _kth_largest(counts, k, digits), weights, 0.0)
    return weights


@triton.jit
def _largest(maxima, row, n_blocks: tl.constexpr, padded: tl.constexpr):
    """Return each block's largest logit, and the row's."""
    blocks = tl.arange(0, padded)
    inside = blocks < n_blocks
    found = tl.load(maxima + row * n_blocks + blocks, mask=inside, other=float("-inf"))
    return found, tl.max(found)


@triton.jit(do_not_specialize=["stride", "k"])
def _sum(
    logits,
    stride,
    vocab_size,
    k,
    temperature,
    maxima,
    counts,
    sums,
    digits: tl.constexpr,
    size: tl.constexpr,
    n_blocks: tl.constexpr,
    padded: tl.constexpr,
):
    """Add up the weights of a block."""
    row, block = tl.program_id(0), tl.program_id(1)
    x = _read(logits, stride, row, block, vocab_size, size)
    _, largest = _largest(maxima, row, n_blocks, padded)
    counts += row * digits * BINS
    weights = _weights(x, largest, tl.load(temperature), counts, k, digits)
    tl.store(sums + row * n_blocks + block, tl.sum(weights))


@triton.jit
def _first_beyond(cumulative, weights, target, size: tl.constexpr):
    """Return the first place with a weight whose cumulative sum exceeds the target.

    Parallel sums round differently from place to place. If none exceeds it, the last one is meant.
    """
    places = tl.arange(0, size)
    first = tl.min(tl.where((cumulative > target) & (weights > 0), places, NONE))
    return tl.minimum(first, tl.max(tl.where(weights > 0, places, 0)))


@triton.jit(do_not_specialize=["stride", "k"])
def _draw(
    logits,
    stride,
    vocab_size,
    k,
    temperature,
    uniform,
    maxima,
    counts,
    sums,
    chosen,
    greedy: tl.constexpr,
    digits: tl.constexpr,
    size: tl.constexpr,
    n_blocks: tl.constexpr,
    padded: tl.constexpr,
):
    """Choose a row's token, and set the counts back to 0 for the next choice."""
    row = tl.program_id(0)
    found, largest = _largest(maxima, row, n_blocks, padded)
    if greedy:
        block = tl.argmax(found, 0)
        place = tl.argmax(_read(logits, stride, row, block, vocab_size, size), 0)
    else:
        blocks = tl.arange(0, padded)
        weights = tl.load(sums + row * n_blocks + blocks, mask=blocks < n_blocks, other=0.0)
        cumulative = tl.cumsum(weights, 0)
        target = tl.load(uniform + row) * tl.max(cumulative)
        block = _first_beyond(cumulative, weights, target, padded)
        before = tl.max(tl.where(blocks < block, cumulative, 0.0))
        x = _read(logits, stride, row, block, vocab_size, size)
        counts += row * digits * BINS
        weights = _weights(x, largest, tl.load(temperature), counts, k, digits)
        place = _first_beyond(before + tl.cumsum(weights, 0), weights, target, size)
        if digits > 0:
            tl.debug_barrier()  # all threads have read them
            for digit in tl.static_range(digits):
                tl.store(counts + digit * BINS + tl.arange(0, BINS), 0)
    possible = (largest > float("-inf")) & (largest < float("inf"))
    tl.store(chosen + row, tl.where(possible, block * size + place, -1))


class TritonSampler:
    """Chooses tokens on one device, in memory that is allocated once."""

    def __init__(
        self,
        batch: int,
        vocab_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        greedy: bool,
        top_k: int | None,
        block: int = BLOCK,
    ) -> None:
        """`dtype`: one of DIGITS; `block`: logits of a block, a power of two."""
        restricted = not greedy and top_k is not None and top_k < vocab_size
        self.digits, self.k = (DIGITS[dtype], top_k) if restricted else (0, 0)
        self.batch, self.vocab_size, self.dtype = batch, vocab_size, dtype
        self.greedy, self.block = greedy, block
        self.n_blocks = triton.cdiv(vocab_size, block)
        shape = batch, self.n_blocks
        self.maxima = torch.zeros(shape, dtype=torch.float32, device=device)
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        # One for each row, digit and value of the digit. Between two choices they are 0.
        counts = batch, self.digits, BINS.value
        self.counts = torch.zeros(counts, dtype=torch.int32, device=device)

    def __call__(
        self, logits: Tensor, uniform: Tensor, temperature: Tensor, chosen: Tensor
    ) -> None:
        """Choose one token a row, or -1 if its largest logit is not a finite number.

        Takes logits [batch, vocab_size], in which a row's numbers lie side by side; `uniform`,
        float64 [batch]; `temperature`, float64 [], above 0. Writes to `chosen`, int64 [batch].

        The token is that of `sampling.choose`, with one exception: sums are rounded in another
        order, so a boundary between two tokens may lie elsewhere by vocab_size * 2**-52 of the sum.
        """
        row = logits, logits.stride(0), self.vocab_size, self.k
        sizes = self.digits, self.block, self.n_blocks, triton.next_power_of_2(self.n_blocks)
        found = self.maxima, self.counts
        every_block = self.batch, self.n_blocks
        for digit in range(max(1, self.digits)):
            _count[every_block](*row, *found, digit, self.digits, self.block, **EXACT)
        if not self.greedy:
            _sum[every_block](*row, temperature, *found, self.sums, *sizes, **EXACT)
        given = *row, temperature, uniform
        _draw[self.batch,](*given, *found, self.sums, chosen, self.greedy, *sizes, **EXACT)

    def check(self) -> None:
        """Compile the kernels. Raise RuntimeError if they choose otherwise than `choose`."""
        device = self.maxima.device
        places = torch.arange(self.vocab_size, dtype=torch.float32, device=device)
        logits = (9 * (0.618 * places).frac()).to(self.dtype).repeat(self.batch, 1)
        uniform = torch.linspace(0.1, 0.9, self.batch, dtype=torch.float64, device=device)
        temperature = torch.ones((), dtype=torch.float64, device=device)
        chosen = torch.empty(self.batch, dtype=torch.int64, device=device)
        self(logits, uniform, temperature, chosen)
        plain = 0 if self.greedy else temperature
        expected = choose(logits, uniform, temperature=plain, top_k=self.k or None)
        if not torch.equal(chosen, expected):
            raise RuntimeError(f"they choose {chosen.tolist()}, expected {expected.tolist()}")
