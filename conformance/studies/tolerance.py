"""Measures the figures behind the allowed error (see `oracle`).

    python -m conformance.studies.tolerance --seeds 40

For random small checkpoints and each dtype: gpt2ref's largest error as a multiple of the allowed
error, and the smallest one of the two defects that change logits the least.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from ..adapters.gpt2ref import load
from ..checkpoints.tensors import SMALL, random_token_ids, trained_like, write_checkpoint
from ..defects import DEFECTS
from ..judging.oracle import FACTOR, expected

SMALLEST = ("gelu-erf", "ln-eps-wrong")


def measure(seed: int, dtype: torch.dtype) -> dict[str, float]:
    """Return gpt2ref's error, and each defect's, as multiples of the allowed error."""
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), SMALL, trained_like(SMALL, seed))
        token_ids = random_token_ids(SMALL, batch=4, time=SMALL.n_positions, seed=seed)
        truth, allowed = expected(folder, token_ids, dtype)
        models = {"gpt2ref": load(folder, dtype=dtype)} | {
            name: DEFECTS[name].kind.load(folder, dtype=dtype) for name in SMALLEST
        }
        return {
            name: float((model.logits(token_ids).double() - truth).abs().max()) / allowed
            for name, model in models.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=100)
    seeds = range(parser.parse_args().seeds)
    print(
        f"multiples of the allowed error ({FACTOR} times Hugging Face's own), "
        f"over {len(seeds)} checkpoints"
    )
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        found = [measure(seed, dtype) for seed in seeds]
        largest = max(figures["gpt2ref"] for figures in found)
        smallest = {name: min(figures[name] for figures in found) for name in SMALLEST}
        defects = ", ".join(f"{name} at least {value:.3g}" for name, value in smallest.items())
        print(f"{dtype!s:15} gpt2ref at most {largest:.2f}; {defects}", flush=True)


if __name__ == "__main__":
    main()
