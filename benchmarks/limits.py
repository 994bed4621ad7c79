"""The limit of a decode step: the bytes that it has to read, over the bandwidth of the memory.

A decode step multiplies each weight with one vector a row. At small batches that is far less
arithmetic than a processor does in the time that it takes to read the weight, so the memory limits
the speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import median
from typing import Any, NamedTuple

import torch

from gpt2ref import GPT2Config

# Many times any processor's cache, and milliseconds at least.
BUFFER_BYTES = {"cpu": 512 * 2**20, "cuda": 4 * 2**30}
REPEATS = 10  # passes over the buffer, of which the best counts


class Bandwidth(NamedTuple):
    bytes_per_second: float
    # "sum" and "dot": bytes read by these functions of torch; "copy": bytes that Tensor.copy_ reads
    # and writes
    how: str


def parameters(config: GPT2Config) -> int:
    """Return how many numbers a GPT-2 has, the tied head counted once.

    With width C, MLP width I, L layers, V tokens and P positions: wte V C, wpe P C, ln_f 2 C, and
    in each layer ln_1 and ln_2 4 C, c_attn 3 C^2 + 3 C, attn.c_proj C^2 + C, c_fc C I + I, and
    mlp.c_proj I C + C.
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
    """Return the bytes that a decode step with a cache must read, at the mean depth of the steps.

    Weights: each one, once for all rows. All parameters count but wpe, of which a step reads one
    row. wte counts once, since the head multiplies with all of it; looking up an embedding reads
    one row.

    Cache: for each row, layer and position in view one key and one value of n_embd numbers each, 2
    L C a position. Of n new tokens, the first comes from prefill. Step j of 1 .. n-1 feeds new
    token j, which then has p + j positions in view (prompt and itself included): p + n/2 in the
    mean of the steps. So 2 L C (p + n/2) = L C (2 p + n) numbers a row.

    Activations and logits are left out, as they stay in a processor's caches. An implementation
    that reads more than this (no cache, a cache of fixed size, weights stored wider) is measured
    against the same figure, since the work is the same.
    """
    cache = batch * config.n_layer * config.n_embd * (2 * prompt_length + new_tokens)
    return weight_bytes(config, itemsize) + itemsize * cache


def weight_bytes(config: GPT2Config, itemsize: int) -> int:
    """Return the bytes of the weights that choosing any token has to read: all but wpe."""
    return itemsize * (parameters(config) - config.n_positions * config.n_embd)


def bytes_of_steps(
    config: GPT2Config, *, itemsize: int, batch: int, prompt_length: int, new_tokens: int
) -> list[int]:
    """Return the bytes that each decode step must read. Their mean is `bytes_per_step`."""
    position = 2 * itemsize * batch * config.n_layer * config.n_embd  # a key and a value a layer
    weights = weight_bytes(config, itemsize)
    return [weights + position * (prompt_length + step) for step in range(1, new_tokens)]


def ceiling(step_bytes: int, batch: int, bandwidth: float) -> float:
    """Return the tokens per second, of all rows together, of a step that does nothing but read."""
    return batch * bandwidth / step_bytes


def bandwidth_fields(
    step_bytes: int,
    batch: int,
    rates: Sequence[float],
    bandwidths: Sequence[Bandwidth],
    limit: Bandwidth,
) -> dict[str, Any]:
    """Return the fields of a result that depend on the bandwidth.

    `rates` are the decode tokens/s of each round (none if they mean nothing), `bandwidths` those
    measured before each round, and `limit` the best one.
    """
    most = ceiling(step_bytes, batch, limit.bytes_per_second)
    return {
        "bandwidth_limit": limit.bytes_per_second,
        "bandwidth_rounds": [bandwidth.bytes_per_second for bandwidth in bandwidths],
        "bandwidth_method": limit.how,
        "ceiling_tokens_per_second": most,
        "bandwidth_percent": 100 * median(rates) / most if rates else None,
    }


@lru_cache(maxsize=1)
def read_buffer(count: int, device: torch.device) -> torch.Tensor:
    """Return float32 numbers to read, kept for the next measurement.

    Writing them takes longer than reading them several times.
    """
    return torch.ones(count, device=device)


def measure_bandwidth(
    device: torch.device,
    synchronise: Callable[[], None],
    *,
    repeats: int = REPEATS,
    buffer_bytes: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Bandwidth:
    """Return the best of several passes over one large buffer, with torch's number of threads.

    A pass is the sum of the buffer, or the product of its halves, which reads at two places at
    once, or on CUDA a copy, whose bytes count twice, as they are read and written. The buffer is
    smaller than BUFFER_BYTES if a quarter of a GPU's free memory is less.
    """
    size = buffer_bytes or BUFFER_BYTES[device.type]
    if device.type == "cuda":
        size = min(size, torch.cuda.mem_get_info(device)[0] // 4)
    buffer = read_buffer(size // 4, device)

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
        Bandwidth(buffer.nbytes / best(buffer.sum), "sum"),
        Bandwidth(buffer.nbytes / best(lambda: torch.dot(buffer[:half], buffer[-half:])), "dot"),
    ]
    if device.type == "cuda":
        target = torch.empty_like(buffer)
        found.append(Bandwidth(2 * buffer.nbytes / best(lambda: target.copy_(buffer)), "copy"))
    return max(found)
