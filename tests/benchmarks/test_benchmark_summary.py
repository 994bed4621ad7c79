"""The summary that is printed, and the record of the machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.environment import commit
from benchmarks.summary import summary

ROW: dict[str, Any] = {
    "implementation": "gpt2ref", "size": "gpt2", "dtype": "float32", "batch": 1,
    "prompt_length": 32, "new_tokens": 8, "rounds": 3, "temperature": 0.7, "top_k": None,
    "valid": True, "reason": None, "device": "cpu", "device_name": "abacus", "threads": 2,
    "decode_tokens_per_second": 31.4, "decode_spread": 0.024, "unstable": False,
    "ratio_to_huggingface": 1.234, "bandwidth_percent": 62.6, "prefill_seconds": 0.25,
    "ms_per_token": {"p50": 31.0, "p95": 40.0},
    "bandwidth_limit": 25e9, "bandwidth_rounds": [25e9, 20e9, 30e9],
    "load_seconds": 0.125, "first_call_seconds": 1.5, "peak_memory_bytes": 1_234_000_000,
}  # fmt: skip


def test_the_summary_is_aligned_and_says_why_a_row_is_invalid() -> None:
    bad = ROW | {
        "top_k": 1000,
        "valid": False,
        "reason": "said goodbye",
        "ratio_to_huggingface": None,
    }
    conditions, limit, _, header, first, second, _, _, start, why = summary([ROW, bad])
    assert (
        conditions == "cpu (abacus), 2 threads, gpt2, float32, batch 1, prompt 32, "
        "8 new tokens, 3 rounds in turns"
    )
    assert (
        limit == "limit: 25.0 GB/s of memory bandwidth, measured before every round: 20.0 to 30.0"
    )
    assert first.split() == [
        "0.7",
        "-",
        "gpt2ref",
        "31.4",
        "2%",
        "1.23",
        "63",
        "250.0",
        "31.00",
        "40.00",
        "yes",
    ]
    assert second.split()[1:] == ["1000", "gpt2ref", *["-"] * 7, "NO"]
    assert first.index("31.4") + 4 == header.index("tok/s") + 5
    assert start.split() == ["gpt2", "float32", "gpt2ref", "0.12", "1.50", "1234"]
    assert (
        why == "invalid: gpt2ref, gpt2, float32, batch 1, prompt 32, "
        "temperature 0.7, top-k 1000: said goodbye"
    )


def test_an_axis_with_several_values_gets_a_column() -> None:
    conditions, _, _, header, first, second, *_ = summary(
        [ROW, ROW | {"batch": 8, "dtype": "bfloat16"}]
    )
    assert conditions == "cpu (abacus), 2 threads, gpt2, prompt 32, 8 new tokens, 3 rounds in turns"
    assert header.split()[:3] == ["dtype", "batch", "temp"]
    assert first.split()[:2] == ["float32", "1"]
    assert second.split()[:2] == ["bfloat16", "8"]


def test_an_unstable_row_is_marked_and_the_mark_explained() -> None:
    unstable = ROW | {"unstable": True, "decode_spread": 0.31}
    lines = summary([ROW, unstable])
    assert [line.split()[4] for line in lines[4:6]] == ["2%", "31%!"]
    assert lines[6] == "! unstable: the rounds' interquartile range is above 10% of their median"
    assert not any("unstable" in line for line in summary([ROW]))


def test_each_implementation_starts_once() -> None:
    other = {"implementation": "huggingface", "load_seconds": 2.0, "peak_memory_bytes": None}
    rows = [ROW, ROW | other, ROW | {"top_k": 40}, ROW | other | {"top_k": 40}]
    *_, header, first, second = summary(rows)
    assert header.startswith("size")
    assert (first.split()[2], second.split()[2:]) == (
        "gpt2ref",
        ["huggingface", "2.00", "1.50", "-"],
    )


def test_without_a_git_checkout_there_is_no_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) == {"commit": None, "dirty": None}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_change_to_what_is_measured_is_dirty(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = (
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@example.org",
            "-c",
            "commit.gpgsign=false",
        )
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    assert commit(tmp_path) == {"commit": git("rev-parse", "HEAD").strip(), "dirty": False}
    (tmp_path / "out.json").write_text("{}")
    assert commit(tmp_path)["dirty"] is False
    (tmp_path / "gpt2ref").mkdir()
    (tmp_path / "gpt2ref" / "faster.py").write_text("")
    assert commit(tmp_path)["dirty"] is True
