"""The benchmarks on a CUDA device, which is emulated: that they run, not how fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.options import OPTIONS, read_plan
from gpt2ref.fast import captured_step
from tests.shared.cuda_emulation import emulated_cuda
from tests.shared.judging import judge

CELL = ("--bench-size", "tiny", "--bench-temperature", "0.7", "--bench-top-k", "40")
SHORT = ("--bench-new-tokens", "3", "--bench-rounds", "1", "--bench-prompt-length", "4")


def test_the_loop_and_the_textbooks_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)  # beside them pytest-benchmark measures nothing
    monkeypatch.setattr("benchmarks.limits.BUFFER_BYTES", {"cpu": 2**20, "cuda": 2**20})
    compiled: list[object] = []

    def take_as_it_is(function: Any, **_: object) -> Any:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", take_as_it_is)
    out, which = tmp_path / "out.json", "gpt2ref,gpt2ref-compiled,gpt2ref-textbook"
    arguments = ("--bench-device", "cuda", "--bench-implementation", which)
    with emulated_cuda():
        run = judge("benchmarks/", *CELL, *SHORT, *arguments, "--benchmark-json", str(out))
        captured_step._idle.clear()
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [benchmark["extra_info"] for benchmark in json.loads(out.read_text())["benchmarks"]]
    assert [row["implementation"] for row in rows] == which.split(",")
    for row in rows:
        assert (row["valid"], row["device"], row["device_name"]) == (True, "cuda", "emulated")
        assert row["peak_memory_bytes"] > 0
        assert row["sampling_seconds"] > 0
    assert len(compiled) == 1


def test_the_smallest_size_takes_its_defaults() -> None:
    with emulated_cuda():
        plan = read_plan(
            {name.replace("-", "_"): None for name in OPTIONS}
            | {"size": ["tiny"], "device": "cuda"}
        )
    assert plan.new_tokens == 128
