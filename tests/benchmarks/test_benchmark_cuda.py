"""The benchmarks on a CUDA device, which is emulated: that they run, not how fast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
    out, which = tmp_path / "out.json", "gpt2ref,gpt2ref-textbook"
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


def test_the_step_in_c_is_refused() -> None:
    arguments = ("--bench-device", "cuda", "--bench-implementation", "gpt2ref-compiled")
    with emulated_cuda():
        run = judge("benchmarks/", *CELL, *SHORT, *arguments)
    assert run.returncode != 0
    assert "its step in C needs the CPU, not cuda" in run.stdout + run.stderr
