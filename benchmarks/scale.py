"""How decoding scales over processes and devices: one replica of the model in each rank, all of them generating at once.

    torchrun --nproc-per-node 8 -m benchmarks.scale --json out.json     (python -m benchmarks.scale: one rank, no launcher)

All ranks have the same weights (random, with the statistics of trained ones), each its own prompts and draws. Rank 0 is
timed alone while the others wait, then all are timed together. Nothing passes between them but barriers and figures, so
an efficiency below 1 is what the replicas take from each other: memory bandwidth, power, cores.

On CUDA each rank has the device of its local rank. On the CPU the ranks of a machine divide its cores among themselves,
and rank 0 has no more than its share when it is alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from conformance.checkpoints.tensors import trained_like
from gpt2ref import from_tensors
from gpt2ref.generation import sample_steps
from gpt2ref.sampling import check_sampling

from .environment import environment
from .implementations import TokenIds
from .measurement import synchronise_on
from .plan import DTYPES, SEED, SIZES
from .sampling import Sampling
from .timing import time_generation
from .validity import judge


@dataclass(frozen=True)
class Place:
    """Where a process stands among the others, as torchrun tells it; without torchrun, alone."""

    rank: int
    world_size: int
    local_rank: int  # on its machine
    local_world_size: int

    @classmethod
    def from_environment(cls) -> Place:
        names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        return cls(*(int(os.environ.get(name, alone)) for name, alone in names.items()))

    def device(self, kind: str) -> torch.device:
        """Raises ValueError if the machine has too few CUDA devices."""
        if kind == "cuda" and self.local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"local rank {self.local_rank}: torch finds {torch.cuda.device_count()} CUDA devices here"
            )
        return torch.device(kind, self.local_rank) if kind == "cuda" else torch.device(kind)


@dataclass(frozen=True)
class Work:
    """What every rank does in a round."""

    size: str
    dtype: str
    batch: int
    prompt_length: int  # tokens
    new_tokens: int  # in every row
    rounds: int
    sampling: Sampling


class Replica:
    """The model in one rank, with that rank's prompts and draws."""

    def __init__(self, work: Work, rank: int, device: torch.device) -> None:
        config = SIZES[work.size]
        self.work = work
        self.model = from_tensors(
            trained_like(config, SEED), config, device=device, dtype=DTYPES[work.dtype]
        )
        generator = random.Random(rank)
        self.prompts = [
            [generator.randrange(config.vocab_size) for _ in range(work.prompt_length)]
            for _ in range(work.batch)
        ]
        self.seed = (
            rank * work.batch
        )  # row r draws from a generator seeded with seed + r: no two rows of any rank draw alike
        self.synchronise = synchronise_on(device)
        self.outputs: list[TokenIds] = []  # those that differ

    def generate(self) -> float:
        """Decode tokens/s of one generation."""
        batch, new_tokens = self.work.batch, self.work.new_tokens
        timing, new = time_generation(
            self._run, batch=batch, new_tokens=new_tokens, synchronise=self.synchronise
        )
        if new not in self.outputs:
            self.outputs.append(new)
        return timing.decode_tokens_per_second(batch)

    def _run(self, on_step: Callable[[], None]) -> TokenIds:
        new: TokenIds = [[] for _ in self.prompts]
        temperature, top_k = self.work.sampling.temperature, self.work.sampling.top_k
        for step in sample_steps(
            self.model, self.prompts, self.work.new_tokens, temperature, top_k, self.seed, None
        ):
            for row, token_id in step.items():
                new[row].append(token_id)
            on_step()
        return new

    def mistake(self) -> str | None:
        """What is wrong with the first of its tokens that is wrong; None if all that it ever generated are right."""
        verdicts = (
            judge(self.model, self.prompts, new, self.work.sampling, self.seed)
            for new in self.outputs
        )
        return next((verdict.reason for verdict in verdicts if not verdict.valid), None)


def measure(replica: Replica, rank: int) -> dict[str, Any]:
    """What this rank has to say: decode tokens/s of each round, alone (rank 0 only) and together, and whether they count."""
    _barrier()
    alone = [replica.generate() for _ in range(replica.work.rounds)] if rank == 0 else []
    together = []
    for _ in range(replica.work.rounds):
        _barrier()  # the others wait here while rank 0 is alone, and all of them for the slowest of the round before
        together.append(replica.generate())
    conditions = environment(replica.model.device)
    return {
        "rank": rank,
        "host": socket.gethostname(),
        **{name: conditions[name] for name in ("device", "device_name", "threads")},
        "mistake": replica.mistake(),
        "alone": alone,
        "together": together,
    }


def figures(ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Decode tokens/s, as medians over rounds, and the efficiency: aggregate / (ranks x alone).

    All ranks do equal work, and a round takes as long as its slowest rank: the aggregate is that rank's rate, times
    their number. (The sum of the rates would count as shared what a slow rank does once the others are done.)
    """
    rounds = zip(*(rank["together"] for rank in ranks), strict=True)
    aggregate = median(len(ranks) * min(rates) for rates in rounds)
    alone = median(ranks[0]["alone"])
    return {
        "tokens_per_second": [median(rank["together"]) for rank in ranks],
        "alone_tokens_per_second": alone,
        "aggregate_tokens_per_second": aggregate,
        "efficiency": aggregate / (len(ranks) * alone),
    }


def report(work: Work, ranks: Sequence[dict[str, Any]], found: dict[str, Any]) -> str:
    sampling = f"temperature {work.sampling.temperature:g}, top-k {work.sampling.top_k or 'none'}"
    shape = f"batch {work.batch}, prompt {work.prompt_length}, {work.new_tokens} new tokens"
    lines = [
        f"{work.size}, {work.dtype}, {shape}, {sampling}; decode tokens/s, medians of {work.rounds} rounds",
        f"rank 0 alone: {found['alone_tokens_per_second']:.1f}",
    ]
    for rank, rate in zip(ranks, found["tokens_per_second"], strict=True):
        threads = f", {rank['threads']} threads" if rank["device"] == "cpu" else ""
        lines.append(
            f"rank {rank['rank']} of {len(ranks)}: {rate:.1f} ({rank['host']}, {rank['device_name']}{threads})"
        )
    lines.append(
        f"aggregate: {found['aggregate_tokens_per_second']:.1f}, efficiency {found['efficiency']:.1%}"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 if a rank's tokens are wrong, or 2 for bad arguments. In every rank alike."""
    place = Place.from_environment()
    work, options, device = _read(arguments, place)
    if device.type == "cpu":
        torch.set_num_threads(
            max(1, _cores() // place.local_world_size)
        )  # torchrun would give each rank one
    else:
        torch.cuda.set_device(device)
    replica = Replica(work, place.rank, device)
    # Warms up, and has torch import what it imports late. Done while there is a group, that may keep the group alive to
    # the end, and one of gloo's threads that is still there when Python ends aborts the process.
    replica.generate()
    if place.world_size > 1:
        # A rank that does not come makes the others fail, rather than wait, once the time is out.
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=options.timeout)
        )
    ranks = _gather(measure(replica, place.rank), place)
    if place.world_size > 1:
        dist.destroy_process_group()
    wrong = [rank for rank in ranks if rank["mistake"]]
    if place.rank == 0:
        for rank in wrong:
            print(
                f"rank {rank['rank']}: wrong tokens, so no figures: {rank['mistake']}",
                file=sys.stderr,
            )
        if not wrong:
            _publish(work, ranks, environment(device), options.json)
    return 1 if wrong else 0


def _publish(
    work: Work, ranks: Sequence[dict[str, Any]], conditions: dict[str, Any], path: Path | None
) -> None:
    found = figures(ranks)
    print(report(work, ranks, found))
    if path is not None:
        sampling = {"temperature": work.sampling.temperature, "top_k": work.sampling.top_k}
        written = {**vars(work), **sampling, **found, "ranks": ranks, **conditions}
        del written["sampling"]
        path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def _gather(own: dict[str, Any], place: Place) -> list[dict[str, Any]]:
    """Of all ranks, in their order; every rank gets them, to end alike."""
    if not dist.is_initialized():
        return [own]
    gathered: list[Any] = [None] * place.world_size
    dist.all_gather_object(gathered, own)
    return gathered


def _cores() -> int:
    """Those that this process may use, where the system can tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(
    arguments: Sequence[str] | None, place: Place
) -> tuple[Work, argparse.Namespace, torch.device]:
    on_cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description="One replica in each rank, all at once."
    )
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument(
        "--batch", type=int, default=1, help="rows that each rank generates at once"
    )
    parser.add_argument("--prompt-length", type=int, default=32, help="tokens")
    parser.add_argument(
        "--new-tokens", type=int, default=128 if on_cuda else 32, help="in each row, at least 2"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=10 if on_cuda else 3,
        help="timed generations, alone and together",
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0, the default, is greedy")
    parser.add_argument("--top-k", type=int, help="default: no restriction")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if on_cuda else "cpu")
    parser.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        help="seconds to wait for another rank (default: 600)",
    )
    parser.add_argument("--json", type=Path, metavar="out.json")
    options = parser.parse_args(arguments)
    for name, least in {
        "batch": 1,
        "prompt_length": 1,
        "new_tokens": 2,
        "rounds": 1,
        "timeout": 1,
    }.items():
        if not getattr(options, name) >= least:
            parser.error(
                f"--{name.replace('_', '-')}={getattr(options, name)}: expected at least {least}"
            )
    room = SIZES[options.size].n_positions
    if options.prompt_length + options.new_tokens > room:
        parser.error(
            f"--prompt-length and --new-tokens: expected at most n_positions={room} together"
        )
    if options.json is not None and not options.json.absolute().parent.is_dir():
        parser.error(f"--json={options.json}: no such folder")
    try:
        check_sampling(options.temperature, options.top_k)
        device = place.device(options.device)
    except ValueError as error:
        parser.error(str(error))
    sampling = Sampling(options.temperature, options.top_k)
    shape = (options.size, options.dtype, options.batch, options.prompt_length, options.new_tokens)
    return Work(*shape, options.rounds, sampling), options, device


if __name__ == "__main__":
    sys.exit(main())
