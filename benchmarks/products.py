"""`python -m benchmarks.products`: how fast GPT-2's matrices are read by the products of a decode step, on the CPU.

The matrices of the 124M shape, as checkpoints store them, by F.linear, which is MKL's product in float32, by oneDNN's, and by
gpt2ref.linear, which takes one of them, for batches of 1, 8 and 64 rows: GB/s of weights, interleaved, the best of five. Beside
them what plain reading gives, the sum of a large tensor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2ref.fast.products import linear

from .plan import DTYPES

# Name -> [in, out]. The blocks' are stored so, in a checkpoint; the head, which is wte, as [out, in].
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
    """Enough different ones, [out, in], that none is still in a cache when its turn comes again."""
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


def onednn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def read_bandwidth(buffer: Tensor) -> float:
    """GB/s of summing a large float32 tensor up."""
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
    print(
        f"reading: {max(read_bandwidth(buffer) for _ in range(5)):.1f} GB/s, {torch.get_num_threads()} threads, {dtype}"
    )
    for name, (fan_in, fan_out) in MATRICES.items():
        matrices, bias = weights(name, dtype), torch.randn(fan_out).to(dtype)
        for rows in (1, 8, 64):
            products: dict[str, Product] = {
                "F.linear": F.linear,
                "oneDNN": onednn,
                "gpt2ref": linear,
            }
            x = torch.randn(rows, fan_in).to(dtype)
            turns = [
                [gigabytes_per_second(each, x, bias, matrices) for each in products.values()]
                for _ in range(6)
            ]
            best = [
                max(rates[1:]) for rates in zip(*turns, strict=True)
            ]  # the first turn packs weights
            told = (f"{each} {rate:5.1f}" for each, rate in zip(products, best, strict=True))
            print(f"{name:12} {rows:3} rows, GB/s: {', '.join(told)}")


if __name__ == "__main__":
    main()
