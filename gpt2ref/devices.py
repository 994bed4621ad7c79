"""Devices: the one chosen by default, whether torch has a given one, and the CPU's threads."""

from __future__ import annotations

import os
import sys

import torch

_limit = os.environ.get("OMP_THREAD_LIMIT", "").strip()
_THREAD_LIMIT = int(_limit) if _limit.isdecimal() and int(_limit) > 0 else sys.maxsize


def limit_threads() -> None:
    """Let torch ask for no more threads than OpenMP grants.

    Otherwise oneDNN's products are wrong, without an error: those of F.linear in bfloat16, on a
    processor with instructions for it, were NaN with OMP_THREAD_LIMIT=1 in torch 2.13.0.
    """
    if torch.get_num_threads() > _THREAD_LIMIT:
        torch.set_num_threads(_THREAD_LIMIT)


def default_device() -> str:
    """Return "cuda" if there is a CUDA device, else "mps" (a Mac's) if there is one, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: torch.device | str) -> None:
    """Raise ValueError, in one line, for a device on which this torch can't make a tensor."""
    try:
        torch.empty(0, device=device)
    except Exception as error:  # a different one for each kind of device
        # torch's longest messages list all that it knows, in up to 7,000 characters.
        reason = str(error).partition("\n")[0]
        reason = f" ({reason})" if len(reason) < 160 else ""
        raise ValueError(f"device={str(device)!r}: this torch has no such device{reason}") from None
