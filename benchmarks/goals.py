"""The goals of the loop on a GPU, and what a prepared run (`gpu_run.py`) has found of each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .limits import bytes_per_step
from .plan import DTYPES, SIZES

Fields = dict[str, Any]  # result_fields.ResultFields

OURS, DEFAULT, STATIC = "gpt2ref", "huggingface", "huggingface-static"


@dataclass(frozen=True)
class Goal:
    """A figure, the least that it should be, and what was found: None if the run has no figure."""

    words: str
    least: float
    found: float | None

    @property
    def met(self) -> bool:
        return self.found is not None and self.found >= self.least

    @property
    def row(self) -> list[str]:
        verdict = "no figure" if self.found is None else "met" if self.met else "missed"
        found = "-" if self.found is None else f"{self.found:,.2f}"
        return [self.words, f"{self.least:,.2f}", found, verdict]


def goals(folder: Path) -> list[Goal]:
    """Return all goals with the figures of a run, as far as its files have them."""
    grid, peers, compiled = (_results(folder / f"{name}.json") for name in NAMES)
    return [
        Goal(
            "decode tokens/s, 124M in bfloat16, one row",
            4000.0,
            max(_rates([*grid, *peers, *compiled], OURS, f"{OURS}-compiled"), default=None),
        ),
        Goal("the slowest temperature and top-k, as a part of greedy", 0.97, _evenness(grid)),
        Goal("times Hugging Face's default", 10.0, _least_ratio(peers, DEFAULT)),
        Goal("times Hugging Face's static cache, compiled", 1.2, _least_ratio(peers, STATIC)),
        Goal("XL in bfloat16, as a part of the bandwidth", 0.7, _part_of_bandwidth(folder)),
    ]


NAMES = ("grid", "peers", "compiled")  # parts that measure the 124M shape in bfloat16


def _results(path: Path) -> list[Fields]:
    """Return the valid results of a part. There are none if it has not come to its end."""
    written = _read(path) or {"benchmarks": []}
    results = [each["extra_info"] for each in written["benchmarks"]]
    return [each for each in results if each["valid"]]


def _rates(results: Iterable[Fields], *names: str) -> list[float]:
    return [each["decode_tokens_per_second"] for each in results if each["implementation"] in names]


def _evenness(results: list[Fields]) -> float | None:
    """Return the slowest rate over that of greedy, without top-k: any top-k is then the same."""
    plain = [each for each in results if each["temperature"] == 0 and each["top_k"] is None]
    return min(_rates(results, OURS)) / max(_rates(plain, OURS)) if _rates(plain, OURS) else None


def _least_ratio(results: list[Fields], peer: str) -> float | None:
    """Return how many times as fast the loop is as a peer, where that is least."""
    rates: dict[tuple[Any, ...], dict[str, float]] = {}
    for each in results:
        cell = rates.setdefault((each["temperature"], each["top_k"]), {})
        cell[each["implementation"]] = each["decode_tokens_per_second"]
    both = [cell for cell in rates.values() if {OURS, peer} <= cell.keys()]
    return min((cell[OURS] / cell[peer] for cell in both), default=None)


def _part_of_bandwidth(folder: Path) -> float | None:
    """Return the bytes that the steps read a second, over those that the memory gives."""
    about, found = _read(folder / "environment.json"), _read(folder / "xl.json")
    if about is None or found is None:
        return None
    step = bytes_per_step(
        SIZES[found["size"]],
        itemsize=DTYPES[found["dtype"]].itemsize,
        **{name: found[name] for name in ("batch", "prompt_length", "new_tokens")},
    )
    read = found["alone_tokens_per_second"] / found["batch"] * step
    return float(read / about["bandwidth"])


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the part has failed, perhaps while it wrote
        return None
