"""Measures how near a right implementation comes to being called wrong.

    python -m conformance.studies.false_alarms --seeds 50 --dtype float32 --implementation X

The suite draws its checkpoints from a fixed seed, so a right implementation passes always or never.
Here each seed draws new checkpoints of the probes and of small parity, and X's largest error is
divided by the allowed one. A ratio above 1 is a false alarm. The output has for each design the
largest ratio, its seed, and the number of false alarms.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..adapters.adapter import Adapter
from ..checkpoints.tensors import SMALL, random_token_ids, trained_like, write_checkpoint
from ..judging.oracle import error, expected
from ..options import DTYPES
from ..probes.designs import DESIGNS, PROBE
from ..probes.experiment import Experiment


class Trial(NamedTuple):
    name: str
    checkpoint: Path
    token_ids: torch.Tensor
    truth: torch.Tensor
    allowed: float


def trials(seed: int, dtype: torch.dtype, folder: Path) -> Iterator[Trial]:
    """Yield each probe design, and the parity checkpoint with its whole context and one token."""
    for design in DESIGNS:
        experiment = Experiment(design, PROBE, dtype, seed)
        checkpoint = write_checkpoint(folder / design.name, experiment.config, experiment.tensors)
        yield Trial(
            f"probe: {design.name}",
            checkpoint,
            experiment.token_ids,
            experiment.truth,
            experiment.allowed,
        )
    checkpoint = write_checkpoint(folder / "parity", SMALL, trained_like(SMALL, seed))
    for length in (SMALL.n_positions, 1):
        token_ids = random_token_ids(SMALL, batch=4, time=length, seed=seed)
        yield Trial(
            f"parity: {length} tokens",
            checkpoint,
            token_ids,
            *expected(str(checkpoint), token_ids, dtype),
        )


def ratios(adapters: Sequence[Adapter], seed: int) -> dict[tuple[str, str], float]:
    """Return, by adapter and trial, the error in multiples of the allowed one."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for trial in trials(seed, adapters[0].dtype, Path(folder)):
            for adapter in adapters:
                off = error(adapter.load(trial.checkpoint).logits(trial.token_ids), trial.truth)
                found[str(adapter), trial.name] = float(off.max()) / trial.allowed
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=50, help="seeds 0, 1, 2, ... (default: 50)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument(
        "--implementation",
        action="append",
        help="as for pytest conformance/; may be given several times",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no other seed after this time"
    )
    options = parser.parse_args()

    adapters = [
        Adapter(name, options.device, DTYPES[options.dtype])
        for name in options.implementation or ["gpt2ref"]
    ]
    found: list[dict[tuple[str, str], float]] = []
    started = time.monotonic()
    for seed in range(options.seeds):
        if time.monotonic() - started > options.seconds:
            break
        found.append(ratios(adapters, seed))
    for adapter in adapters:
        print(
            f"{adapter} in {options.dtype} on {options.device}, {len(found)} seeds: "
            "the error over the allowed one"
        )
        total = 0
        for name in [name for judged, name in found[0] if judged == str(adapter)]:
            figures = [ratio[str(adapter), name] for ratio in found]
            largest, alarms = max(figures), sum(figure > 1 for figure in figures)
            total += alarms
            print(
                f"  {name:42} at most {largest:.3f} (seed {figures.index(largest)}), "
                f"{alarms} false alarms"
            )
        print(f"  {total} false alarms of {len(found) * len(found[0]) // len(adapters)}")


if __name__ == "__main__":
    main()
