"""Measure how fast matrix products read GPT-2's weights on the CPU:

    python -m benchmarks.matrix_products [--dtype bfloat16]

It multiplies the matrices of the 124M shape with 1, 8 and 64 rows, in both orders in which a weight
may be stored, and in each way that `gpt2ref.fast.products` knows. It prints GB/s of weights, the
best of five interleaved rounds, what plain reading gives (the sum of a large tensor), and the way
that gpt2ref chooses on this machine, marked by a star.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from gpt2ref.fast.products import WAYS, Product, choice, possible

from .plan import DTYPES

# Name -> [in, out]
MATRICES = {
    "c_attn": (768, 2304),
    "attn.c_proj": (768, 768),
    "c_fc": (768, 3072),
    "mlp.c_proj": (3072, 768),
    "head": (768, 50257),
}
BEYOND_CACHES = 300e6  # bytes of different matrices that are used in turn


def weights(name: str, dtype: torch.dtype, order: str) -> list[Tensor]:
    """Return matrices [out, in], so many that no cache holds one until its next turn."""
    fan_in, fan_out = MATRICES[name]
    count = 1 + int(BEYOND_CACHES / (fan_in * fan_out * dtype.itemsize))
    stored = (fan_in, fan_out) if order == "in_out" else (fan_out, fan_in)
    numbers = [torch.randn(stored).to(dtype) for _ in range(count)]
    return [weight.t() for weight in numbers] if order == "in_out" else numbers


def gigabytes_per_second(
    product: Product, x: Tensor, bias: Tensor, weights: Sequence[Tensor]
) -> float:
    start = time.perf_counter()
    for weight in weights:
        product(x, weight, bias)
    return sum(weight.nbytes for weight in weights) / (time.perf_counter() - start) / 1e9


def read_bandwidth(buffer: Tensor) -> float:
    """Return the GB/s at which torch sums a large float32 tensor."""
    start = time.perf_counter()
    buffer.sum()
    return buffer.nbytes / (time.perf_counter() - start) / 1e9


def rates(name: str, dtype: torch.dtype, n_rows: int, matrices: list[Tensor]) -> str:
    """Return the GB/s of each way, the chosen one with a star."""
    fan_in, fan_out = MATRICES[name]
    x, bias = torch.randn(n_rows, fan_in).to(dtype), torch.randn(fan_out).to(dtype)
    ways = possible(dtype)
    rounds = [
        [gigabytes_per_second(WAYS[way], x, bias, matrices) for way in ways] for _ in range(6)
    ]
    best = [max(each[1:]) for each in zip(*rounds, strict=True)]  # the first warms up
    chosen = choice(n_rows, matrices[0]).way
    return ", ".join(
        f"{way}{'*' * (way == chosen)} {rate:.1f}" for way, rate in zip(ways, best, strict=True)
    )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    dtype = DTYPES[parser.parse_args().dtype]
    buffer = torch.ones(128 << 20)
    reading = max(read_bandwidth(buffer) for _ in range(5))
    print(f"reading: {reading:.1f} GB/s, {torch.get_num_threads()} threads, {dtype}")
    for name in MATRICES:
        for order in ("out_in",) if name == "head" else ("in_out", "out_in"):
            matrices = weights(name, dtype, order)
            for n_rows in (1, 8, 64):
                found = rates(name, dtype, n_rows, matrices)
                print(f"{name:12} {order:6} {n_rows:3} rows, GB/s: {found}", flush=True)


if __name__ == "__main__":
    main()
