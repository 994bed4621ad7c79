"""Bytes: what a device has free, what a cell needs, what one implementation held at most."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from .implementations import implementation_class
from .limits import parameters
from .plan import DTYPES, Cell, Plan

Result = TypeVar("Result")


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text(encoding="utf-8").splitlines() if meminfo.is_file() else []
    available = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * available[0] if available else None


def process_peak() -> int | None:
    """The peak of this process's resident set, in bytes: everything it ever did, memory-mapped files included."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def needed_memory(plan: Plan, cell: Cell) -> int:
    """Bytes of the weights, as often as they are there at once, and of a full cache; everything else is small.

    One copy is the judge's. On the CPU that is the checkpoint's file, mapped, which is also the copy of whoever maps it.
    """
    config, itemsize = cell.config, DTYPES[cell.dtype].itemsize
    on_cpu = plan.device.type == "cpu"
    copies = 1 + sum(
        not (on_cpu and implementation_class(name).mapped) for name in plan.implementations
    )
    cache = 2 * config.n_layer * config.n_embd * (cell.prompt_length + plan.new_tokens) * cell.batch
    return itemsize * (copies * parameters(config) + cache)


class Ledger:
    """What one implementation holds on a CUDA device that others use as well. On the CPU no such account can be kept.

    `cuda` has the functions of torch.cuda that are asked.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self.device = device
        self.cuda = cuda
        self.held = 0  # bytes

    def run(self, work: Callable[[], Result]) -> tuple[Result, int | None]:
        """The result, and the most that the implementation held meanwhile: what it held before, and what it took on top."""
        if self.device.type != "cuda":
            return work(), None
        before = self.cuda.memory_allocated(self.device)
        self.cuda.reset_peak_memory_stats(self.device)
        result = work()
        peak = self.held + self.cuda.max_memory_allocated(self.device) - before
        self.held += self.cuda.memory_allocated(self.device) - before
        return result, peak
