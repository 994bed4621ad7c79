"""Devices: the one that is chosen by default, and whether torch has a given one."""

from __future__ import annotations

import torch


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
