"""Replicas side by side: the arithmetic with made-up rates, and a run of two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from benchmarks import scale
from benchmarks.sampling import Sampling
from benchmarks.scale import Process, Replica, Workload, figures, main, report

PROJECT = Path(__file__).parents[2]
SMALL = [
    "--device",
    "cpu",
    "--size",
    "tiny",
    "--prompt-length",
    "4",
    "--new-tokens",
    "5",
    "--rounds",
    "2",
    "--batch",
    "2",
]
SAMPLED = ["--temperature", "1", "--top-k", "40"]
WORKLOAD = Workload(
    "tiny", "float32", batch=2, prompt_length=4, new_tokens=5, rounds=3, sampling=Sampling(1.0, 40)
)

# Runs `main` with a rank 1 that fails in the given way, and prints the threads that gloo leaves.
BROKEN = """
import os, sys, threading
from pathlib import Path
from benchmarks import scale
generate, sample_steps = scale.Replica.generate, scale.sample_steps
def hang(self):
    if self.generated:  # it has warmed up
        threading.Event().wait()
    return generate(self)
def say_zeros(model, rows, new_tokens, *_, **__):
    for _ in range(new_tokens):
        yield dict.fromkeys(range(len(rows)), 0)
if os.environ["RANK"] == "1":
    if sys.argv[1] == "hang":
        scale.Replica.generate = hang
    elif sys.argv[1] == "zeros":
        scale.sample_steps = say_zeros
status = scale.main(sys.argv[2:])
names = [comm.read_text().strip() for comm in Path("/proc/self/task").glob("*/comm")]
print("left behind:", [name for name in names if "gloo" in name], flush=True)
sys.exit(status)
"""


def ranks(*rates: tuple[float, ...], alone: tuple[float, ...]) -> list[dict[str, Any]]:
    common = {
        "host": "here",
        "device": "cpu",
        "device_name": "made up",
        "threads": 3,
        "mistake": None,
    }
    return [
        common | {"rank": number, "alone": list(alone) * (number == 0), "together": list(own)}
        for number, own in enumerate(rates)
    ]


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run two ranks, on a port that is free."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *map(str, arguments),
    ]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    return subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_round_is_as_fast_as_its_slowest_rank() -> None:
    found = figures(ranks((40.0, 50.0, 60.0), (30.0, 20.0, 90.0), alone=(100.0, 50.0, 80.0)))
    assert found["tokens_per_second"] == [50.0, 30.0]
    assert found["alone_tokens_per_second"] == 80.0
    assert found["aggregate_tokens_per_second"] == 2 * 30.0  # the median of 60, 40 and 120
    assert found["efficiency"] == 60.0 / (2 * 80.0)


def test_ranks_that_do_not_slow_each_other_are_fully_efficient() -> None:
    assert figures(ranks((7.0,), (7.0,), (7.0,), (7.0,), alone=(7.0,)))["efficiency"] == 1.0


def test_all_figures_are_printed() -> None:
    measured = ranks((40.0,), (30.0,), alone=(50.0,))
    lines = report(WORKLOAD, measured, figures(measured)).splitlines()
    assert "temperature 1, top-k 40" in lines[0]
    assert lines[1:] == [
        "rank 0 alone: 50.0",
        "rank 0 of 2: 40.0 (here, made up, 3 threads)",
        "rank 1 of 2: 30.0 (here, made up, 3 threads)",
        "aggregate: 60.0, efficiency 60.0%",
    ]


def test_replicas_share_weights_and_nothing_else() -> None:
    first, second = (Replica(WORKLOAD, torch.device("cpu")) for _ in range(2))
    for one, other in zip(
        first.model.state_dict().values(), second.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    for replica in (first, second):
        assert replica.generate() > 0
        replica.generate()
        assert replica.mistake() is None
    generated = [*first.generated, *second.generated]
    begun = [row[0] for _, prompts, _ in generated for row in prompts]
    assert len(set(begun)) == len(begun) == 4 * WORKLOAD.batch
    numbers = [seed + row for seed, _, _ in generated for row in range(WORKLOAD.batch)]
    assert len(set(numbers)) == len(numbers)
    # The tokens of one generation are wrong for the prompts of another.
    seed, prompts, _ = first.generated[1]
    first.generated[1] = (seed, prompts, first.generated[0][2])
    assert first.mistake() is not None


@pytest.mark.parametrize("draw", [[], SAMPLED])
def test_two_ranks_under_torchrun(tmp_path: Path, draw: list[str]) -> None:
    path = tmp_path / "out.json"
    ran = torchrun("-m", "benchmarks.scale", *SMALL, *draw, "--json", path)
    assert ran.returncode == 0, ran.stderr
    written = json.loads(path.read_text(encoding="utf-8"))
    assert [rank["rank"] for rank in written["ranks"]] == [0, 1]
    assert [rank["mistake"] for rank in written["ranks"]] == [None, None]
    assert [len(rank["together"]) for rank in written["ranks"]] == [2, 2]
    assert [len(rank["alone"]) for rank in written["ranks"]] == [2, 0]
    assert {rank["threads"] for rank in written["ranks"]} == {max(1, scale._cores() // 2)}
    assert written["efficiency"] == written["aggregate_tokens_per_second"] / (
        2 * median(written["ranks"][0]["alone"])
    )
    assert (written["temperature"], written["top_k"]) == ((1.0, 40) if draw else (0.0, None))
    assert ran.stdout.count("rank 0 alone: ") == 1, "one rank prints"
    assert f"aggregate: {written['aggregate_tokens_per_second']:.1f}, " in ran.stdout


@pytest.mark.usefixtures("threads")
def test_without_torchrun_it_is_one_rank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert main([*SMALL, "--json", str(tmp_path / "out.json")]) == 0
    assert "rank 0 of 1: " in capsys.readouterr().out
    (rank,) = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["ranks"]
    assert rank["threads"] == scale._cores()


def test_wrong_tokens_of_one_rank_suppress_all_figures(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(BROKEN)
    ran = torchrun(script, "zeros", *SMALL, "--json", tmp_path / "out.json")
    assert ran.returncode != 0
    assert "rank 1: wrong tokens, so no figures: row 0, new token 0: 0, with a logit" in ran.stderr
    assert "rank 0: wrong" not in ran.stderr
    assert "aggregate" not in ran.stdout
    assert not (tmp_path / "out.json").exists()


def test_a_rank_that_hangs_does_not_block_the_others(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(BROKEN)
    ran = torchrun(script, "hang", *SMALL, "--timeout", "3")
    assert ran.returncode != 0
    assert "imed out" in ran.stderr
    assert "aggregate" not in ran.stdout


def test_no_thread_of_gloo_is_left_at_the_end(tmp_path: Path) -> None:
    script = tmp_path / "right.py"
    script.write_text(BROKEN)
    ran = torchrun(script, "right", *SMALL)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("left behind: []") == 2


def test_rank_and_world_size_come_from_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": "13",
        "WORLD_SIZE": "16",
        "LOCAL_RANK": "5",
        "LOCAL_WORLD_SIZE": "8",
    }.items():
        monkeypatch.setenv(name, value)
    process = Process.from_environment()
    assert process == Process(rank=13, world_size=16, local_rank=5, local_world_size=8)
    assert process.device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 6)
    assert process.device("cuda") == torch.device("cuda", 5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    with pytest.raises(ValueError, match="local rank 5: torch finds 5 CUDA devices"):
        process.device("cuda")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "--batch=0: expected at least 1"),
        (["--new-tokens", "1"], "--new-tokens=1: expected at least 2"),
        (["--rounds", "0"], "--rounds=0"),
        (["--timeout", "nan"], "--timeout=nan"),
        (["--size", "tiny", "--prompt-length", "200", "--new-tokens", "57"], "n_positions=256"),
        (["--temperature", "-1"], "temperature"),
        (["--top-k", "0"], "top_k"),
        (["--json", "no/such/folder/out.json"], "no such folder"),
    ],
)
def test_bad_arguments_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--device", "cpu", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
