"""`python -m benchmarks.products`: how fast torch's products read GPT-2's matrices, on the CPU.

It times three public ways to write one product, for batches of 1, 8 and 64 rows, and prints GB/s of
weights: the best of five turns, in which the ways alternate. The matrices are those of the 124M
shape, stored as in checkpoints. The first line is the rate at which torch sums up a large tensor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .plan import DTYPES

# Name -> [in, out]. Checkpoints store the blocks' so, and the head, which is wte, as [out, in].
MATRICES = {
    "c_attn": (768, 2304),
    "attn.c_proj": (768, 768),
    "c_fc": (768, 3072),
    "mlp.c_proj": (3072, 768),
    "head": (768, 50257),
}
BEYOND_CACHES = 300e6  # bytes of different matrices, taken in turn
Product = Callable[[Tensor, Tensor, Tensor], Tensor]


def weights(name: str, dtype: torch.dtype) -> list[Tensor]:
    """Make enough matrices [out, in] that none is still in a cache when its turn comes again."""
    fan_in, fan_out = MATRICES[name]
    count = 1 + int(BEYOND_CACHES / (fan_in * fan_out * dtype.itemsize))
    stored = [torch.randn(fan_in, fan_out).to(dtype) for _ in range(count)]
    return [weight.t().contiguous() if name == "head" else weight.t() for weight in stored]


def gigabytes_per_second(
    product: Product, x: Tensor, bias: Tensor, weights: Sequence[Tensor]
) -> float:
    start = time.perf_counter()
    for weight in weights:
        product(x, weight, bias)
    return sum(weight.nbytes for weight in weights) / (time.perf_counter() - start) / 1e9


def weight_first(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The transposed product, in which the weight is the left factor."""
    return torch.addmm(bias[:, None], weight, x.t()).t()


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution of width 1, which torch leaves to oneDNN in float32 too."""
    return F.conv1d(x[..., None], weight[..., None], bias)[..., 0]


def read_bandwidth(buffer: Tensor) -> float:
    """Return the GB/s at which torch sums up a large float32 tensor."""
    start = time.perf_counter()
    buffer.sum()
    return buffer.nbytes / (time.perf_counter() - start) / 1e9


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    dtype = DTYPES[parser.parse_args().dtype]
    buffer = torch.ones(128 << 20)
    reading = max(read_bandwidth(buffer) for _ in range(5))
    print(f"reading: {reading:.1f} GB/s, {torch.get_num_threads()} threads, {dtype}")
    for name, (fan_in, fan_out) in MATRICES.items():
        matrices, bias = weights(name, dtype), torch.randn(fan_out).to(dtype)
        for rows in (1, 8, 64):
            products: dict[str, Product] = {
                "F.linear": F.linear,
                "weight first": weight_first,
                "convolution": convolution,
            }
            x = torch.randn(rows, fan_in).to(dtype)
            turns = [
                [gigabytes_per_second(each, x, bias, matrices) for each in products.values()]
                for _ in range(6)
            ]
            best = [max(rates[1:]) for rates in zip(*turns, strict=True)]  # the first is a warm-up
            rates = (f"{each} {rate:5.1f}" for each, rate in zip(products, best, strict=True))
            print(f"{name:12} {rows:3} rows, GB/s: {', '.join(rates)}")


if __name__ == "__main__":
    main()
