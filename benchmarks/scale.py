"""Measure how decoding scales over processes and devices: one replica of the model in each process,
all of them generating at once.

    torchrun --nproc-per-node 8 -m benchmarks.scale --json out.json
    python -m benchmarks.scale     (one process, without a launcher)

All processes have the same weights (random, with the statistics of trained ones), and each
generation has its own prompts and draws. Rank 0 is timed alone while the others wait, then all are
timed together. The processes exchange nothing but barriers and figures, so an efficiency below 1
shows what the replicas take from each other: memory bandwidth, power, cores.

On CUDA each process has the device of its local rank. On the CPU the processes of a machine share
its cores equally, and rank 0 has only its share when it is alone.
"""

from __future__ import annotations

import argparse
import json
import os
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

from gpt2ref import from_tensors
from gpt2ref.arguments import check_sampling
from gpt2ref.generation import sample_steps

from .environment import environment
from .implementations import TokenIds
from .measurement import synchronise_on
from .plan import DTYPES, SEED, SIZES, random_prompts
from .sampling import Sampling
from .seeds import UNSEEN
from .suite import part
from .timing import time_generation
from .validity import judge


@dataclass(frozen=True)
class Process:
    """This process among those that torchrun started. Without torchrun it is the only one."""

    rank: int
    world_size: int
    local_rank: int  # among the processes of this machine
    local_world_size: int

    @classmethod
    def from_environment(cls) -> Process:
        names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        return cls(*(int(os.environ.get(name, alone)) for name, alone in names.items()))

    def device(self, kind: str) -> torch.device:
        """Return the device. Raises ValueError if the machine has too few CUDA devices."""
        count = torch.cuda.device_count()
        if kind == "cuda" and self.local_rank >= count:
            raise ValueError(f"local rank {self.local_rank}: torch finds {count} CUDA devices here")
        return torch.device(kind, self.local_rank) if kind == "cuda" else torch.device(kind)


@dataclass(frozen=True)
class Workload:
    """The work of every process in a round."""

    size: str
    dtype: str
    batch: int
    prompt_length: int  # tokens
    new_tokens: int  # in every row
    rounds: int
    sampling: Sampling


class Replica:
    """The model in one process."""

    def __init__(self, workload: Workload, device: torch.device) -> None:
        config = SIZES[workload.size]
        self.workload = workload
        tensors = part("checkpoints.tensors").trained_like(config, SEED, device)
        self.model = from_tensors(tensors, config, device=device, dtype=DTYPES[workload.dtype])
        self.synchronise = synchronise_on(device)
        self.generated: list[tuple[int, TokenIds, TokenIds]] = []  # seed, prompts, new ids

    def generate(self) -> float:
        """Generate once. Return the decode tokens/s."""
        batch, new_tokens = self.workload.batch, self.workload.new_tokens
        vocab_size = self.model.config.vocab_size
        seed = UNSEEN.draw(vocab_size, batch)
        prompts = random_prompts(vocab_size, batch, self.workload.prompt_length, seed)
        timing, new = time_generation(
            lambda on_step: self._run(prompts, seed, on_step),
            batch=batch,
            new_tokens=new_tokens,
            synchronise=self.synchronise,
        )
        self.generated.append((seed, prompts, new))
        return timing.decode_tokens_per_second(batch)

    def _run(self, prompts: TokenIds, seed: int, on_step: Callable[[], None]) -> TokenIds:
        new: TokenIds = [[] for _ in prompts]
        temperature, top_k = self.workload.sampling.temperature, self.workload.sampling.top_k
        for step in sample_steps(
            self.model, prompts, self.workload.new_tokens, temperature, top_k, seed, None
        ):
            for row, token_id in step.items():
                new[row].append(token_id)
            on_step()
        return new

    def mistake(self) -> str | None:
        """Describe the first wrong token. None if all tokens that it ever generated are right."""
        sampling = self.workload.sampling
        verdicts = (
            judge(self.model, prompts, new, sampling, seed) for seed, prompts, new in self.generated
        )
        return next((verdict.reason for verdict in verdicts if not verdict.valid), None)


def measure(replica: Replica, rank: int) -> dict[str, Any]:
    """Return this process's figures: decode tokens/s of each round, alone (rank 0 only) and
    together, and whether its tokens are right."""
    _barrier()
    rounds = replica.workload.rounds
    alone = [replica.generate() for _ in range(rounds)] if rank == 0 else []
    together = []
    for _ in range(rounds):
        _barrier()  # waits for rank 0 when it is alone, and then for the slowest of the last round
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
    """Return decode tokens/s, as medians over rounds, and the efficiency:
    aggregate / (ranks x alone).

    All ranks do equal work, and a round takes as long as its slowest rank, so the aggregate is that
    rank's rate times the number of ranks. The sum of the rates would include what a slow rank does
    after the others have finished.
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


def report(workload: Workload, ranks: Sequence[dict[str, Any]], found: dict[str, Any]) -> str:
    """Return the figures as lines for the terminal."""
    shape = (
        f"{workload.size}, {workload.dtype}, batch {workload.batch}, "
        f"prompt {workload.prompt_length}, {workload.new_tokens} new tokens"
    )
    rounds = f"decode tokens/s, medians of {workload.rounds} rounds"
    lines = [
        f"{shape}, {workload.sampling.words}; {rounds}",
        f"rank 0 alone: {found['alone_tokens_per_second']:.1f}",
    ]
    for rank, rate in zip(ranks, found["tokens_per_second"], strict=True):
        threads = f", {rank['threads']} threads" if rank["device"] == "cpu" else ""
        where = f"{rank['host']}, {rank['device_name']}{threads}"
        lines.append(f"rank {rank['rank']} of {len(ranks)}: {rate:.1f} ({where})")
    aggregate, efficiency = found["aggregate_tokens_per_second"], found["efficiency"]
    lines.append(f"aggregate: {aggregate:.1f}, efficiency {efficiency:.1%}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status, the same in every process: 0, 1 if a rank's tokens are wrong, 2 for
    bad arguments."""
    process = Process.from_environment()
    workload, options, device = _read(arguments, process)
    if device.type == "cpu":
        # torchrun would give each process one thread.
        torch.set_num_threads(max(1, _cores() // process.local_world_size))
    else:
        torch.cuda.set_device(device)
    replica = Replica(workload, device)
    # The first generation warms up, and lets torch import modules that it imports late. Imported
    # while there is a process group, they may keep the group alive to the end, and a thread of gloo
    # that still runs when Python ends aborts the process.
    replica.generate()
    if process.world_size > 1:
        # If a process does not come, the others fail when the time is out, rather than wait.
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=options.timeout)
        )
    ranks = _gather(measure(replica, process.rank), process)
    if process.world_size > 1:
        dist.destroy_process_group()
    wrong = {rank["rank"]: rank["mistake"] for rank in ranks if rank["mistake"]}
    if process.rank == 0:
        for rank, mistake in wrong.items():
            print(f"rank {rank}: wrong tokens, so no figures: {mistake}", file=sys.stderr)
        if not wrong:
            _publish(workload, ranks, environment(device), options.json)
    return 1 if wrong else 0


def _publish(
    workload: Workload,
    ranks: Sequence[dict[str, Any]],
    conditions: dict[str, Any],
    path: Path | None,
) -> None:
    found = figures(ranks)
    print(report(workload, ranks, found))
    if path is not None:
        sampling = {"temperature": workload.sampling.temperature, "top_k": workload.sampling.top_k}
        written = {**vars(workload), **sampling, **found, "ranks": ranks, **conditions}
        del written["sampling"]
        path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def _gather(own: dict[str, Any], process: Process) -> list[dict[str, Any]]:
    """Return the figures of all ranks, in their order. Every process gets them, to end alike."""
    if not dist.is_initialized():
        return [own]
    gathered: list[Any] = [None] * process.world_size
    dist.all_gather_object(gathered, own)
    return gathered


def _cores() -> int:
    """Return how many cores this process may use, or the machine has if the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


LEAST = {"batch": 1, "prompt_length": 1, "new_tokens": 2, "rounds": 1, "timeout": 1}


def _read(
    arguments: Sequence[str] | None, process: Process
) -> tuple[Workload, argparse.Namespace, torch.device]:
    """Read the arguments. Ends the program with status 2, and a message, if they are wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name, least in LEAST.items():
        value = getattr(options, name)
        if not value >= least:
            parser.error(f"--{name.replace('_', '-')}={value}: expected at least {least}")
    room = SIZES[options.size].n_positions
    if options.prompt_length + options.new_tokens > room:
        parser.error(
            f"--prompt-length and --new-tokens: expected at most n_positions={room} together"
        )
    if options.json is not None and not options.json.absolute().parent.is_dir():
        parser.error(f"--json={options.json}: no such folder")
    try:
        check_sampling(options.temperature, options.top_k)
        device = process.device(options.device)
    except ValueError as error:
        parser.error(str(error))
    sampling = Sampling(options.temperature, options.top_k)
    shape = (options.size, options.dtype, options.batch, options.prompt_length, options.new_tokens)
    return Workload(*shape, options.rounds, sampling), options, device


def _parser() -> argparse.ArgumentParser:
    on_cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.scale",
        description="Run a replica in each process, all at once.",
    )
    add = parser.add_argument
    add("--size", choices=SIZES, default="gpt2")
    add("--dtype", choices=DTYPES, default="float32")
    add("--batch", type=int, default=1, help="rows that each process generates at once")
    add("--prompt-length", type=int, default=32, help="tokens")
    new_tokens, rounds = (128, 10) if on_cuda else (32, 3)
    add("--new-tokens", type=int, default=new_tokens, help="in each row, at least 2")
    add("--rounds", type=int, default=rounds, help="timed generations, alone and together")
    add("--temperature", type=float, default=0.0, help="0, the default, is greedy")
    add("--top-k", type=int, help="default: no restriction")
    add("--device", choices=("cpu", "cuda"), default="cuda" if on_cuda else "cpu")
    waiting = "seconds to wait for another process (default: 600)"
    add("--timeout", type=float, default=600.0, help=waiting)
    add("--json", type=Path, metavar="out.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
