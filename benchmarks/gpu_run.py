"""Do all that needs a GPU, in order of value and in less than eight minutes.

    python -m benchmarks.gpu_run --output FOLDER      (in a clone; `tox -e gpu` calls it)
    python -m benchmarks.gpu_run --device cpu --tiny  (the same on the CPU, in tiny shapes)

Each part is a process with a limit of its time. One that fails, or takes too long, leaves the
others alone. The folder has `run.json`, which is written again after each part: how each ended, how
long it took, and its last lines. A part that measures leaves its figures in PART.json, and all that
a part prints is in PART.txt. The goals follow at the end.

The exit status is 0 if every goal is met, 1 if one is missed or has no figure, 2 if a part failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .goals import goals
from .text_table import text_table

PROJECT = Path(__file__).parents[1]
MOST_SECONDS = 480  # of all parts
LAST_LINES = 15  # of what a part prints, in run.json

OURS = "gpt2ref"


@dataclass(frozen=True)
class Part:
    """A process, and the seconds that it may take."""

    name: str
    limit: float
    command: Sequence[str]


@dataclass(frozen=True)
class Ending:
    """How a part ended."""

    name: str
    status: int | None  # the exit status; None if the time was out
    seconds: float
    last_lines: list[str]


def parts(device: str, folder: Path, *, tiny: bool) -> list[Part]:
    """Return the parts, of which the first have most value."""
    # Some processors compute bfloat16 very slowly.
    small, large, dtype = ("tiny", "tiny", "float32") if tiny else ("gpt2", "gpt2-xl", "bfloat16")
    short = ["--rounds=1", "--new-tokens=3", "--prompt-length=4"] if tiny else ["--rounds=3"]
    here = f"--device={device}"

    def part(name: str, limit: float, *words: str) -> Part:
        return Part(name, 10 * limit if tiny else limit, (sys.executable, "-m", *words))

    def tests(name: str, limit: float, *words: str) -> Part:
        return part(name, limit, "pytest", "-q", "-p", "no:cacheprovider", *words)

    def measured(name: str, limit: float, *options: str) -> Part:
        words = [each.replace("--", "--bench-") for each in (here, f"--size={small}", *short)]
        words += [f"--bench-{each}" for each in options]
        return tests(name, limit, "benchmarks/", *words, f"--benchmark-json={folder / name}.json")

    def figures(name: str, limit: float, module: str, *words: str) -> Part:
        return part(
            name, limit, f"benchmarks.{module}", here, *words, f"--json={folder / name}.json"
        )

    half, ours = f"dtype={dtype}", f"implementation={OURS}"
    few, greedy = ("temperature=0,1", "top-k=none,40"), ("temperature=0", "top-k=none")
    kernels, loop = (
        f"tests/gpt2ref/test_{name}.py" for name in ("triton_sampler", "captured_step")
    )
    others = "dtype=float32" if tiny else "dtype=float32,float16"
    return [
        figures("environment", 20, "environment"),
        tests("tests", 70, kernels, loop),
        measured("grid", 70, half, ours),  # on CUDA it is full
        measured("peers", 100, half, f"{ours},huggingface,huggingface-static", *few),
        figures("xl", 50, "scale", f"--size={large}", f"--dtype={dtype}", *short),
        measured("compiled", 90, half, f"{ours},{OURS}-compiled", *greedy),
        measured("dtypes", 40, others, ours, *greedy),
        tests("conformance", 40, "conformance/", "--quick", here),
    ]


def run(part: Part, folder: Path) -> Ending:
    """Run a part to its end, or until its time is out. What it prints goes to PART.txt."""
    printed, start = folder / f"{part.name}.txt", time.perf_counter()
    with printed.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            part.command, cwd=PROJECT, stdout=file, stderr=file, start_new_session=True
        )
        try:
            status = process.wait(part.limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
    lines = printed.read_text(encoding="utf-8", errors="replace").splitlines()
    return Ending(part.name, status, time.perf_counter() - start, lines[-LAST_LINES:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a part, and the processes that it has started, if it runs still."""
    if process.poll() is None:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, and print the goals. Return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (PROJECT / "tests").is_dir():
        parser.error(f"{PROJECT} has no tests: this needs a clone")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device={options.device}: torch finds no CUDA device here")
    folder = options.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    made = parts(options.device, folder, tiny=options.tiny)
    for part in made:  # the figures of an earlier run would count
        (folder / f"{part.name}.json").unlink(missing_ok=True)
    endings: list[Ending] = []
    for part in made:
        print(f"{part.name}: at most {part.limit:.0f} s", flush=True)
        endings.append(run(part, folder))
        _write(folder / "run.json", {"parts": [asdict(each) for each in endings]})
        print(f"    {_words(endings[-1])}", flush=True)
    found = goals(folder)
    written = {
        "parts": [asdict(each) for each in endings],
        "goals": [asdict(each) for each in found],
    }
    _write(folder / "run.json", written)
    heading = "goal", "at least", "found", "verdict"
    print("\n".join(text_table(heading, [each.row for each in found], {"goal", "verdict"})))
    if any(each.status != 0 for each in endings):
        return 2
    return 0 if all(each.met for each in found) else 1


def _words(ending: Ending) -> str:
    if ending.status is None:
        return f"its time was out after {ending.seconds:.0f} s"
    how = "done" if ending.status == 0 else f"failed with exit status {ending.status}"
    last = f": {ending.last_lines[-1]}" if ending.last_lines else ""
    return f"{how} in {ending.seconds:.0f} s{last}"


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.gpu_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("gpu-run"), metavar="FOLDER", help="default: gpu-run")
    add("--device", default="cuda", help="cpu, cuda or cuda:N (default: cuda)")
    add("--tiny", action="store_true", help="tiny shapes, to see that every part runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
