"""Bytes of memory: free on a device, needed by a cell, held by one implementation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from .limits import parameters
from .plan import DTYPES, Cell, Plan

Result = TypeVar("Result")


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that can still be allocated. None if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text(encoding="utf-8").splitlines() if meminfo.is_file() else []
    available = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * available[0] if available else None


def process_peak() -> int | None:
    """Return the peak of this process's resident set in bytes, memory-mapped files included."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def needed_memory(plan: Plan, cell: Cell) -> int:
    """Return the bytes of all copies of the weights and of a full cache. Everything else is small.

    One copy belongs to the judge of the tokens.
    """
    config, itemsize = cell.config, DTYPES[cell.dtype].itemsize
    copies = 1 + len(plan.implementations)
    cache = 2 * config.n_layer * config.n_embd * (cell.prompt_length + plan.new_tokens) * cell.batch
    return itemsize * (copies * parameters(config) + cache)


class DeviceMemory:
    """Count what one implementation holds on a CUDA device that others use as well.

    One that takes nothing of torch's memory, such as CTranslate2, has taken what the device has
    less than before its calls. On the CPU that can't be counted. `cuda` has the functions of
    torch.cuda that are used.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self.device = device
        self.cuda = cuda
        self.held = self.outside = 0  # bytes, of torch's memory and beside it

    def run(self, work: Callable[[], Result]) -> tuple[Result, int | None]:
        """Run `work`. Return its result, and the most bytes held meanwhile."""
        if self.device.type != "cuda":
            return work(), None
        before = self.cuda.memory_allocated(self.device)
        free = self.cuda.mem_get_info(self.device)[0]
        self.cuda.reset_peak_memory_stats(self.device)
        result = work()
        peak = self.held + self.cuda.max_memory_allocated(self.device) - before
        self.held += self.cuda.memory_allocated(self.device) - before
        self.outside += free - self.cuda.mem_get_info(self.device)[0]
        return result, peak or max(0, self.outside)
