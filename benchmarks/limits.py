"""How fast a decode step could be at most: the bytes that it has to read, over the bandwidth that they are read with.

A decode step multiplies each weight with one vector a row. At small batches that is far less arithmetic than a processor
does in the time that it takes to read the weight, so memory sets the pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch

from gpt2ref import GPT2Config

BUFFER_BYTES = {
    "cpu": 512 * 2**20,
    "cuda": 4 * 2**30,
}  # many times any cache, and milliseconds at the least
REPEATS = 10  # passes over it, of which the best counts


class Bandwidth(NamedTuple):
    bytes_per_second: float
    how: str  # "sum" and "dot": bytes read by torch's functions; "copy": bytes read and written by Tensor.copy_


def parameters(config: GPT2Config) -> int:
    """How many numbers a GPT-2 has, the tied head counted once.

    With width C, MLP width I, L layers, V tokens and P positions: wte V C, wpe P C, ln_f 2 C, and in each layer
    ln_1 and ln_2 4 C, c_attn 3 C^2 + 3 C, attn.c_proj C^2 + C, c_fc C I + I, mlp.c_proj I C + C.
    """
    width, inner = config.n_embd, config.mlp_width
    layer = (
        4 * width
        + (3 * width**2 + 3 * width)
        + (width**2 + width)
        + (width * inner + inner)
        + (inner * width + width)
    )
    return (config.vocab_size + config.n_positions) * width + 2 * width + config.n_layer * layer


def bytes_per_step(
    config: GPT2Config, *, itemsize: int, batch: int, prompt_length: int, new_tokens: int
) -> int:
    """What a decode step with a cache can't help reading, in bytes, at the mean depth of the steps that are timed.

    Weights: every one, once for all rows. All parameters but wpe: of wpe a step looks up one row, which is nothing. wte
    counts once, since the head multiplies with all of it; its lookup, a row of it again, is nothing too.

    Cache: for each row, layer and position in view one key and one value of n_embd numbers each, 2 L C a position. Of n
    new tokens, the first comes from prefill. Step j of 1 .. n-1 feeds new token j, which then has p + j positions in view
    (prompt and itself included): p + n/2 in the mean of the steps. So 2 L C (p + n/2) = L C (2 p + n) numbers a row.

    Left out, as they stay in a processor's caches: activations, and logits. Whoever reads more than this (no cache, a
    cache of fixed size, weights stored wider) is measured against the same figure: the work is the same.
    """
    weights = parameters(config) - config.n_positions * config.n_embd
    cache = batch * config.n_layer * config.n_embd * (2 * prompt_length + new_tokens)
    return itemsize * (weights + cache)


def ceiling(step_bytes: int, batch: int, bandwidth: float) -> float:
    """Tokens per second, of all rows together, if reading were all there is to a step."""
    return batch * bandwidth / step_bytes


def against_limit(
    row: dict[str, Any], rates: Sequence[float], bandwidths: Sequence[Bandwidth]
) -> dict[str, Any]:
    """The figures of a row that depend on the bandwidth: that before each round, and the round's decode tokens/s."""
    measured = [bandwidth.bytes_per_second for bandwidth in bandwidths]
    ceilings = [ceiling(row["bytes_per_step"], row["batch"], each) for each in measured]
    return {
        "bandwidth_limit": median(measured),
        "bandwidth_rounds": measured,
        "bandwidth_method": max(bandwidths).how,
        "ceiling_tokens_per_second": median(ceilings),
        "bandwidth_percent": 100
        * median(rate / limit for rate, limit in zip(rates, ceilings, strict=True)),
    }


def measure_bandwidth(
    device: torch.device,
    synchronise: Callable[[], None],
    *,
    repeats: int = REPEATS,
    buffer_bytes: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Bandwidth:
    """The best of several passes over one large buffer, with torch's number of threads.

    Its sum, and the product of its halves, which reads in two places at once; on CUDA a copy as well, whose bytes count
    twice, as they are read and written. The largest of the rates is the limit. The buffer is smaller than BUFFER_BYTES
    where a quarter of a GPU's free memory is less.
    """
    size = buffer_bytes or BUFFER_BYTES[device.type]
    if device.type == "cuda":
        size = min(size, torch.cuda.mem_get_info(device)[0] // 4)
    buffer = torch.ones(
        size // 4, dtype=torch.float32, device=device
    )  # written, or it might not be there
    read = buffer.numel() * buffer.element_size()

    def best(run: Callable[[], object]) -> float:
        seconds = []
        for _ in range(repeats):
            synchronise()
            start = clock()
            run()
            synchronise()
            seconds.append(clock() - start)
        return min(seconds)

    half = len(buffer) // 2
    found = [
        Bandwidth(read / best(buffer.sum), "sum"),
        Bandwidth(read / best(lambda: torch.dot(buffer[:half], buffer[-half:])), "dot"),
    ]
    if device.type == "cuda":
        target = torch.empty_like(buffer)
        found.append(Bandwidth(2 * read / best(lambda: target.copy_(buffer)), "copy"))
    return max(found)
