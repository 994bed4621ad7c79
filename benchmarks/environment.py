"""Record what the figures depend on beside the options: machine, libraries, commit.

    python -m benchmarks.environment --device cuda --json out.json

This also measures the bandwidth of the memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import transformers

import gpt2ref

from .limits import measure_bandwidth
from .measurement import synchronise_on
from .memory import free_memory

PROJECT = Path(__file__).parents[1]
NO_COMMIT = {"commit": None, "dirty": None}
# A result can be repeated if the commit has all changes to these.
MEASURED = ("gpt2ref", "benchmarks", "conformance", "pyproject.toml")


def environment(device: torch.device) -> dict[str, Any]:
    """Return what JSON can hold. A missing CUDA, driver, peer or git checkout is None."""
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "ctranslate2": _version("ctranslate2"),
        "onnxruntime_genai": _version("onnxruntime-genai"),
        "openvino_genai": _version("openvino-genai"),
        "gpt2ref": gpt2ref.__version__,
        "cuda": torch.version.cuda,
        "driver": _driver(device),
        # An installed package has no commit, though it may lie in somebody else's repository.
        **(commit(PROJECT) if (PROJECT / "pyproject.toml").is_file() else NO_COMMIT),
    }


def commit(project: Path) -> dict[str, Any]:
    """Return the commit, and whether what is measured differs from it (new files included)."""
    identifier = _output("git", "-C", str(project), "rev-parse", "HEAD")
    changes = _output("git", "-C", str(project), "status", "--porcelain", "--", *MEASURED)
    return {
        "commit": identifier,
        "dirty": None if identifier is None or changes is None else bool(changes),
    }


def _driver(device: torch.device) -> str | None:
    if device.type != "cuda":
        return None
    versions = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return versions.splitlines()[0] if versions else None  # one driver for all GPUs


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """Return what the command prints, stripped. None if it does not exist or fails."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a JSON file: `environment`, the bytes/s of the memory, and its free bytes."""
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}.environment")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(arguments)
    bandwidth = measure_bandwidth(options.device, synchronise_on(options.device))
    measured = {
        "bandwidth": bandwidth.bytes_per_second,
        "bandwidth_method": bandwidth.how,
        "free_bytes": free_memory(options.device),
    }
    written = json.dumps(environment(options.device) | measured, indent=2)
    options.json.write_text(written + "\n", encoding="utf-8")
    print(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
