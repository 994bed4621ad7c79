"""`pytest benchmarks/`, as it is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from benchmarks.result_fields import ResultFields, Sample
from benchmarks.results import MOST_PERCENT

PROJECT = Path(__file__).parents[2]
ENVIRONMENT = ("platform", "python", "torch", "transformers", "gpt2ref", "loaded_from")


def pytest_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Under `pytest -n` its variables are here, and pytest-benchmark measures nothing beside them.
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "benchmarks/",
            "-q",
            "-p",
            "no:cacheprovider",
            "--bench-device",
            "cpu",
            *arguments,
        ],
        cwd=PROJECT,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Run two cells with two peers. Return the output and the JSON."""
    out = tmp_path_factory.mktemp("command") / "out.json"
    axes = ("--bench-size", "tiny", "--bench-temperature", "0.7", "--bench-top-k", "none,40")
    run = pytest_benchmarks(
        *axes, "--bench-new-tokens", "4", "--bench-rounds", "2", "--benchmark-json", str(out)
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout, json.loads(out.read_text())


def test_every_result_is_written_with_every_figure(output: tuple[str, dict[str, Any]]) -> None:
    rows = [benchmark["extra_info"] for benchmark in output[1]["benchmarks"]]
    expected = [(top_k, name) for top_k in (None, 40) for name in ("gpt2ref", "huggingface")]
    assert [(row["top_k"], row["implementation"]) for row in rows] == expected
    for row in rows:
        assert row.keys() == ResultFields.__annotations__.keys()
        check_row(row)
    assert [row["sampling_seconds"] is None for row in rows] == [False, True, False, True]
    assert len({row["peak_memory_bytes"] for row in rows}) == 1


def test_pytest_benchmarks_own_figures_are_those_rounds(output: tuple[str, dict[str, Any]]) -> None:
    for benchmark in output[1]["benchmarks"]:
        row = benchmark["extra_info"]
        assert benchmark["stats"]["data"] == [
            sample["end_to_end_seconds"] for sample in row["samples"]
        ]
        assert benchmark["stats"]["rounds"] == row["rounds"] == 2
        assert benchmark["stats"]["iterations"] == 1
        assert benchmark["stats"]["median"] == pytest.approx(row["end_to_end_seconds"])
        assert benchmark["options"]["timer"] == "recorded_generations"
        assert benchmark["group"] == row["size"] == "tiny"
        assert benchmark["params"]["implementation"] == row["implementation"]


def test_expectations_come_first_then_the_progress_then_the_summary(
    output: tuple[str, dict[str, Any]],
) -> None:
    printed, _ = output
    marks = [
        "  measured    gpt2ref, huggingface, in turns",
        "  time        about ",
        "[1/2] tiny-",
        "[2/2] tiny-",
        " before every round: ",
        "decode tok/s",
        "decode tokens/s: tiny, float32",
        "\nlimit  ",
    ]
    places = [printed.find(mark) for mark in marks]
    assert -1 not in places
    assert places == sorted(places)
    rows = [line.split() for line in printed.splitlines() if line.strip().startswith("0.7 ")]
    assert [line[1:3] for line in rows] == [
        [k, name] for k in ("-", "40") for name in ("gpt2ref", "huggingface")
    ]


def check_row(row: dict[str, Any]) -> None:
    assert row["valid"] is True
    assert row["reason"] is None
    assert row["tokens_checked"] % 4 == 0
    assert row["tokens_checked"] > 0
    assert (row["device"], row["dtype"], row["threads"]) == ("cpu", "float32", 1)
    assert (row["batch"], row["prompt_length"], row["new_tokens"], row["rounds"]) == (1, 32, 4, 2)
    for name in ("device_name", *ENVIRONMENT):
        assert row[name], name
    assert row["commit"] is None or len(row["commit"]) == 40
    assert (row["dirty"] is None) == (row["commit"] is None)
    for sample in [row["warmup"], *row["samples"]]:
        assert sample.keys() == Sample.__annotations__.keys()
        assert len(sample["decode_seconds"]) == 3
        assert sample["prefill_seconds"] > 0
        assert min(sample["decode_seconds"]) > 0
        assert sample["end_to_end_seconds"] >= (
            sample["prefill_seconds"] + sum(sample["decode_seconds"])
        ) * (1 - 1e-9)
    rates = sorted(3 / sum(sample["decode_seconds"]) for sample in row["samples"])
    assert rates[0] * (1 - 1e-9) <= row["decode_tokens_per_second"] <= rates[1] * (1 + 1e-9)
    assert row["end_to_end_tokens_per_second"] > 0
    assert row["load_seconds"] > 0
    assert row["first_call_seconds"] > 0
    assert len(row["bandwidth_rounds"]) == row["rounds"]
    assert max(row["bandwidth_rounds"]) <= row["bandwidth_limit"]
    parts = [
        100 * 3 / sum(sample["decode_seconds"]) * row["bytes_per_step"] / row["bandwidth_limit"]
        for sample in row["samples"]
    ]
    assert row["bandwidth_percent"] == pytest.approx(median(parts))
    assert row["bandwidth_percent"] <= MOST_PERCENT
    percentiles = [row["ms_per_token"][name] for name in ("p5", "p50", "p95", "p99")]
    assert percentiles == sorted(percentiles)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--bench-new-tokens", "1000"),
            "--bench-new-tokens=1000: expected at most n_positions=256 together",
        ),
        (
            ("--benchmark-cprofile", "tottime"),
            "--benchmark-cprofile: the tests report recorded times",
        ),
    ],
)
def test_a_bad_option_is_refused_before_any_work(arguments: tuple[str, ...], message: str) -> None:
    run = pytest_benchmarks("--bench-size", "tiny", *arguments)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in run.stderr
