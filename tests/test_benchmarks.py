"""The benchmarks' arithmetic, by a clock that is ours, and their judgement, by defects. No real time is asserted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import gpt2ref
from benchmarks.environment import commit
from benchmarks.implementations import IMPLEMENTATIONS, Loaded, Reference
from benchmarks.measurement import Measurement
from benchmarks.plan import FULL_GRID, SEED, SHORT_GRID, Cell, Plan
from benchmarks.summary import summary
from benchmarks.test_generation import test_generation as run_row
from benchmarks.timing import Timing, TokenCountError, figures, time_generation
from benchmarks.validity import drawn, judge
from conformance import textbook
from conformance.checkpoints import blank, trained_like
from gpt2ref import EOS, GPT2Config

PROJECT = Path(__file__).parents[1]
CONFIG = GPT2Config(vocab_size=1000, n_positions=40, n_embd=32, n_layer=2, n_head=2)
NEW_TOKENS = 16


def plan(**changes: Any) -> Plan:
    names = ("size", "implementation", "device", "dtype", "batch", "prompt_length", "new_tokens", "rounds", "full_grid")
    small = {"device": "cpu", "prompt_length": "5", "new_tokens": str(NEW_TOKENS), "rounds": "2"}
    return Plan.from_options(dict.fromkeys(names) | small | changes)


class Clock:
    """Goes on when told to, and writes down who looked at it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[str] = []

    def __call__(self) -> float:
        self.log.append("read")
        return self.now

    def synchronise(self) -> None:
        self.log.append("synchronise")


class Costly:
    """Generates what it was given, at a known cost in seconds: [prefill, step, step, ...]."""

    foretold = True

    def __init__(self, clock: Clock, costs: list[float], rows: list[list[int]], compilation: float = 0.0) -> None:
        self.clock, self.costs, self.rows, self.compilation = clock, costs, rows, compilation

    def generate(self, *_: Any, on_step: Callable[[], None], **__: Any) -> list[list[int]]:
        self.clock.now += self.compilation
        self.compilation = 0.0
        for cost in self.costs:
            self.clock.now += cost
            on_step()
        return self.rows


def timed(costs: list[float], rows: list[list[int]], *, batch: int, new_tokens: int) -> tuple[Timing, Clock]:
    clock = Clock()
    costly = Costly(clock, costs, rows)
    timing, _ = time_generation(
        lambda on_step: costly.generate([], on_step=on_step),
        batch=batch,
        new_tokens=new_tokens,
        clock=clock,
        synchronise=clock.synchronise,
    )
    return timing, clock


# Arithmetic


def test_prefill_decode_and_end_to_end_are_apart() -> None:
    timing, _ = timed([5.0, 1.0, 2.0, 4.0], [[7, 7, 7, 7]], batch=1, new_tokens=4)
    assert timing == Timing(prefill_seconds=5.0, decode_seconds=(1.0, 2.0, 4.0), end_to_end_seconds=12.0)


def test_the_device_is_synchronised_before_the_first_reading_and_before_the_last() -> None:
    _, clock = timed([5.0, 1.0], [[7, 7]], batch=1, new_tokens=2)
    assert clock.log == ["synchronise", "read", "read", "read", "synchronise", "read"]


def test_decode_rate_has_neither_prefills_time_nor_its_token() -> None:
    slow, fast = Timing(1000.0, (0.5, 0.5), 1001.0), Timing(0.25, (0.5, 0.5), 1.25)
    assert slow.decode_tokens_per_second(batch=1) == fast.decode_tokens_per_second(batch=1) == 2.0
    assert fast.end_to_end_tokens_per_second(batch=1) == 3 / 1.25


def test_batch_multiplies_the_rates_and_not_the_waits() -> None:
    timings = [Timing(1.0, (0.5, 0.5), 2.0)]
    one, four = figures(timings, batch=1), figures(timings, batch=4)
    assert four["decode_tokens_per_second"] == 4 * one["decode_tokens_per_second"] == 8.0
    assert four["end_to_end_tokens_per_second"] == 4 * one["end_to_end_tokens_per_second"] == 6.0
    assert four["ms_per_token"] == one["ms_per_token"]
    assert four["prefill_seconds"] == one["prefill_seconds"] == 1.0


def test_figures_are_medians_over_rounds_and_percentiles_over_all_steps() -> None:
    steps = [float(ms) for ms in range(1, 102)]  # 1 ms to 101 ms: the p-th percentile is 1 + p
    rounds = [
        Timing(3.0, tuple(ms / 1e3 for ms in steps[:50]), 10.0),
        Timing(1.0, tuple(ms / 1e3 for ms in steps[50:]), 20.0),
        Timing(2.0, (0.051,), 60.0),
    ]
    published = figures(rounds, batch=1)
    assert published["prefill_seconds"] == 2.0
    assert published["end_to_end_seconds"] == 20.0
    assert published["decode_tokens_per_second"] == pytest.approx(1 / 0.051)  # of 39.2, 13.2 and 19.6
    assert published["decode_spread"] == pytest.approx((50 / 1.275 - 51 / 3.876) * 0.051)
    assert published["ms_per_token"]["p50"] == pytest.approx(51.0)
    assert published["ms_per_token"]["p5"] == pytest.approx(6.0, abs=0.1)
    assert published["ms_per_token"]["p99"] == pytest.approx(100.0, abs=0.1)


def test_a_slow_first_call_shows_in_the_warm_up_alone(loaded: Loaded) -> None:
    right = right_tokens(loaded, Cell(0, None))
    clock = Clock()
    costly = Costly(clock, [0.5] + [0.25] * (NEW_TOKENS - 1), right, compilation=60.0)
    measurement = Measurement(costly, plan(), Cell(0, None), CONFIG.vocab_size, clock=clock, synchronise=clock.synchronise)
    for _ in range(3):
        measurement.generate()
    row = measurement.row(loaded.reference)
    assert row["warmup"]["prefill_seconds"] == 60.5
    assert row["rounds"] == len(row["samples"]) == 2
    assert row["samples"][0] == row["samples"][1]
    assert row["samples"][0]["decode_seconds"] == [0.25] * (NEW_TOKENS - 1)
    assert (row["prefill_seconds"], row["decode_tokens_per_second"], row["end_to_end_seconds"]) == (0.5, 4.0, 4.25)
    assert row["valid"]


@pytest.mark.parametrize(
    ("costs", "rows"),
    [
        ([1.0, 1.0], [[7, 7], [7, 7]]),  # stops early
        ([1.0, 1.0, 1.0], [[7, 7, 7], [7, 7]]),  # one row does
        ([1.0, 1.0, 1.0], [[7, 7, 7]]),  # a row is missing
        ([1.0, 1.0, 1.0, 1.0], [[7, 7, 7, 7], [7, 7, 7, 7]]),  # goes on too long
        ([1.0, 1.0], [[7, 7, 7], [7, 7, 7]]),  # two tokens under one time stamp
    ],
)
def test_a_wrong_number_of_tokens_is_refused(costs: list[float], rows: list[list[int]]) -> None:
    with pytest.raises(TokenCountError, match=r"expected 3 in each of 2 rows"):
        timed(costs, rows, batch=2, new_tokens=3)


def test_one_new_token_has_no_decode_step() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Timing.from_readings(0.0, [1.0], 2.0)


# Right tokens and wrong ones

CELLS = [Cell(0, None), Cell(1.0, 1), Cell(1.0, None), Cell(0.7, 40), Cell(1.3, 200)]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return Loaded("small", CONFIG, trained_like(CONFIG, seed=0))


def generate(implementation: Any, prompts: list[list[int]], cell: Cell, max_new_tokens: int = NEW_TOKENS) -> list[list[int]]:
    return implementation.generate(
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=cell.temperature,
        top_k=cell.top_k,
        seed=SEED,
        on_step=lambda: None,
    )


def right_tokens(loaded: Loaded, cell: Cell) -> list[list[int]]:
    return generate(loaded.implementation("gpt2ref"), plan().prompts(CONFIG.vocab_size), cell)


@pytest.mark.parametrize("cell", CELLS, ids=str)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_every_implementation_is_valid_in_every_kind_of_cell(loaded: Loaded, name: str, cell: Cell) -> None:
    measurement = Measurement(loaded.implementation(name), plan(batch="3"), cell, CONFIG.vocab_size)
    for _ in range(3):
        measurement.generate()
    row = measurement.row(loaded.reference)
    assert row["valid"], row["reason"]
    assert row["tokens_checked"] == 3 * NEW_TOKENS
    assert len(measurement.outputs) == 1, "the same seed gave other tokens"
    assert all(len(sample["decode_seconds"]) == NEW_TOKENS - 1 for sample in row["samples"])


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_verdict_is_the_textbooks(loaded: Loaded, cell: Cell) -> None:
    [prompt] = plan().prompts(CONFIG.vocab_size)
    expected = textbook.generate(
        loaded.reference,
        prompt,
        n_positions=CONFIG.n_positions,
        max_new_tokens=NEW_TOKENS,
        temperature=cell.temperature,
        top_k=cell.top_k,
        seed=SEED,
        eos_token_id=None,
    )
    assert judge(loaded.reference, [prompt], [expected], cell, SEED) == (True, None, NEW_TOKENS, 0)


def test_a_draw_is_admitted_exactly_when_the_textbook_makes_it() -> None:
    logits = 3 * torch.randn(200, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for cell in (Cell(1.0, None), Cell(0.7, 3), Cell(1.3, 8), Cell(1.0, 12)):
        settings: dict[str, Any] = {"temperature": cell.temperature, "top_k": cell.top_k}
        expected = [textbook.next_token(row.tolist(), float(u), **settings) for row, u in zip(logits, uniform, strict=True)]
        for token_id in range(12):
            admitted = drawn(logits, torch.full((200,), token_id), uniform, cell, error=0.0)
            assert admitted.tolist() == [token == token_id for token in expected]


def test_rounding_excuses_the_other_side_of_a_boundary_and_no_more() -> None:
    logits = torch.zeros(1, 4, dtype=torch.float64)  # boundaries at 0.25, 0.5, 0.75
    uniform = torch.tensor([0.501], dtype=torch.float64)  # just beyond token 1
    admitted = [bool(drawn(logits, torch.tensor([i]), uniform, Cell(1.0, None), error=0.01)) for i in range(4)]
    assert admitted == [False, True, True, False]


@pytest.mark.parametrize("foretold", [True, False])
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_wrong_tokens_make_the_row_invalid(loaded: Loaded, cell: Cell, foretold: bool) -> None:
    prompts = plan().prompts(CONFIG.vocab_size)
    wrong = [[(7919 * token_id + 13) % CONFIG.vocab_size for token_id in row] for row in right_tokens(loaded, cell)]
    verdict = judge(loaded.reference, prompts, wrong, cell, SEED if foretold else None)
    assert not verdict.valid
    assert verdict.reason


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_one_wrong_token_is_enough(loaded: Loaded, cell: Cell) -> None:
    new = right_tokens(loaded, cell)
    new[0][5] = (new[0][5] + 100) % CONFIG.vocab_size
    verdict = judge(loaded.reference, plan().prompts(CONFIG.vocab_size), new, cell, SEED)
    assert not verdict.valid
    assert "row 0, new token 5" in str(verdict.reason)


def test_a_wrong_token_later_than_the_first_round_is_found(loaded: Loaded) -> None:
    right = right_tokens(loaded, Cell(0, None))
    costly = Costly(Clock(), [1.0] * NEW_TOKENS, right)
    measurement = Measurement(costly, plan(), Cell(0, None), CONFIG.vocab_size)
    measurement.generate()
    costly.rows = [[*right[0][:-1], (right[0][-1] + 1) % CONFIG.vocab_size]]
    measurement.generate()
    assert not measurement.verdict(loaded.reference).valid


def test_an_invalid_row_is_recorded_and_fails_its_test(loaded: Loaded) -> None:
    broken = Costly(Clock(), [1.0] * NEW_TOKENS, [[0] * NEW_TOKENS])
    fake_loaded: Any = SimpleNamespace(implementation=lambda _: broken, config=CONFIG, size="small", reference=loaded.reference)
    benchmark: Any = SimpleNamespace(extra_info={}, pedantic=lambda target, rounds: [target() for _ in range(rounds)])
    rows: list[dict[str, Any]] = []
    with pytest.raises(AssertionError, match="likeliest token"):
        run_row(benchmark, plan(), fake_loaded, Cell(0, None), "broken", {}, rows)
    assert benchmark.extra_info["valid"] is False
    assert rows == [benchmark.extra_info]


# Implementations


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_eos_is_ignored(name: str) -> None:
    config = GPT2Config(n_positions=40, n_embd=8, n_layer=1, n_head=1)
    tensors = blank(config) | {"ln_f.weight": torch.zeros(8), "ln_f.bias": torch.eye(8)[0]}  # the logits are wte[:, 0]
    tensors["wte.weight"][EOS, 0] = 50.0
    for cell in (Cell(0, None), Cell(1.0, 40)):
        assert generate(IMPLEMENTATIONS[name](config, tensors), [[1, 2, 3]], cell) == [[EOS] * NEW_TOKENS]


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_no_default_top_k_creeps_in(name: str) -> None:
    tensors = blank(CONFIG) | {"ln_f.weight": torch.zeros(32), "ln_f.bias": torch.eye(32)[0]}
    tensors["wte.weight"][:, 0] = torch.linspace(0.0, 0.1, CONFIG.vocab_size)  # nearly uniform, without ties
    [new] = generate(IMPLEMENTATIONS[name](CONFIG, tensors), [[1]], Cell(1.0, None), max_new_tokens=39)
    assert min(new) < CONFIG.vocab_size - 50  # chance of a false alarm: 20 ** -39


def test_the_reference_is_timed_in_the_loop_that_sample_runs(loaded: Loaded) -> None:
    reference = loaded.implementation("gpt2ref")
    assert isinstance(reference, Reference)
    prompts = plan(batch="2").prompts(CONFIG.vocab_size)
    expected = gpt2ref.sample(
        reference.model, prompts, max_new_tokens=NEW_TOKENS, temperature=0.7, top_k=40, seed=SEED, eos_token_id=None
    )
    assert generate(reference, prompts, Cell(0.7, 40)) == expected


def test_peers_share_the_weights_and_give_them_back() -> None:
    loaded = Loaded("small", CONFIG, trained_like(CONFIG, seed=0))
    theirs: Any = loaded.implementation("huggingface")
    ours: Any = loaded.reference.transformer
    assert theirs.model.transformer.wte.weight.data_ptr() == ours.wte.weight.data_ptr()
    assert theirs.model.transformer.h[1].mlp.c_fc.weight.data_ptr() == ours.h[1].mlp.c_fc.weight.data_ptr()
    gone = [weakref.ref(theirs.model), weakref.ref(loaded.reference)]
    del theirs, ours
    loaded.free()
    assert [model() for model in gone] == [None, None]


# What is asked for, recorded and printed


def test_defaults_on_the_cpu() -> None:
    assert plan().cells == SHORT_GRID
    assert plan(full_grid=True).cells == FULL_GRID
    assert len(FULL_GRID) == 20
    assert set(SHORT_GRID) <= set(FULL_GRID)
    assert plan().sizes == ("gpt2",)
    assert plan(implementation=["gpt2ref", "gpt2ref"]).implementations == ("gpt2ref",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": ["gpt3"]}, r"--bench-size=gpt3: expected tiny or gpt2 or .*gpt2-xl"),
        ({"implementation": ["jax"]}, r"--bench-implementation=jax: expected gpt2ref or huggingface"),
        ({"device": "tpu"}, r"--bench-device=tpu: expected cpu, cuda or cuda:N"),
        ({"device": "mps"}, r"--bench-device=mps: expected cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, r"--bench-device=cuda:99: torch finds \d+ CUDA devices"),
        ({"dtype": "int8"}, r"--bench-dtype=int8: expected float32 or bfloat16 or float16"),
        ({"batch": "0"}, r"--bench-batch=0: expected an integer of at least 1"),
        ({"prompt_length": "-3"}, r"--bench-prompt-length=-3: expected an integer of at least 1"),
        ({"rounds": "many"}, r"--bench-rounds=many: expected an integer of at least 1"),
        ({"new_tokens": "1"}, r"--bench-new-tokens=1: expected an integer of at least 2"),
        (
            {"prompt_length": "1000", "new_tokens": "25"},
            r"--bench-prompt-length=1000 with --bench-new-tokens=25: expected at most n_positions=1024 .*gpt2",
        ),
    ],
)
def test_bad_options_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**changes)


def test_the_summary_is_aligned_and_says_why_a_row_is_invalid() -> None:
    row = {
        "implementation": "gpt2ref", "size": "gpt2", "temperature": 0.7, "top_k": None, "valid": True, "reason": None,
        "device": "cpu", "device_name": "abacus", "dtype": "float32", "threads": 2, "batch": 1, "prompt_length": 32,
        "new_tokens": 8, "rounds": 3, "decode_tokens_per_second": 31.4, "decode_spread": 0.024, "prefill_seconds": 0.25,
        "ms_per_token": {"p50": 31.0, "p95": 40.0},
    }  # fmt: skip
    bad = row | {"implementation": "huggingface", "top_k": 1000, "valid": False, "reason": "said goodbye"}
    conditions, _, header, first, second, why = summary([row, bad])
    assert conditions == "cpu (abacus), float32, 2 threads, batch 1, prompt 32, 8 new tokens, 3 rounds"
    assert first.split() == ["gpt2", "0.7", "-", "gpt2ref", "31.4", "2%", "250.0", "31.00", "40.00", "yes"]
    assert second.split()[2] == "1000"
    assert first.index("31.4") + 4 == second.index("31.4") + 4 == header.index("tok/s") + 5
    assert why == "invalid: gpt2 huggingface temperature 0.7 top-k 1000: said goodbye"


def test_no_git_checkout_is_no_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) == {"commit": None, "dirty": None}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_change_to_what_is_measured_is_dirty(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    assert commit(tmp_path) == {"commit": git("rev-parse", "HEAD").strip(), "dirty": False}
    (tmp_path / "out.json").write_text("{}")
    assert commit(tmp_path)["dirty"] is False
    (tmp_path / "gpt2ref").mkdir()
    (tmp_path / "gpt2ref" / "faster.py").write_text("")
    assert commit(tmp_path)["dirty"] is True


# The command


def pytest_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks/", "-q", "-p", "no:cacheprovider", "--bench-device", "cpu", *arguments],
        cwd=PROJECT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_the_command_writes_every_row(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    sizes = ("--bench-size", "tiny", "--bench-full-grid", "--bench-new-tokens", "4", "--bench-rounds", "2")
    run = pytest_benchmarks(*sizes, "--benchmark-json", str(out))
    assert run.returncode == 0, run.stdout + run.stderr
    benchmarks = json.loads(out.read_text())["benchmarks"]
    rows = [benchmark["extra_info"] for benchmark in benchmarks]

    expected = [(cell.temperature, cell.top_k, name) for cell in FULL_GRID for name in ("gpt2ref", "huggingface")]
    assert [(row["temperature"], row["top_k"], row["implementation"]) for row in rows] == expected  # interleaved, too
    for benchmark, row in zip(benchmarks, rows, strict=True):
        check_row(row)
        assert benchmark["group"] == row["size"] == "tiny"
        # pytest-benchmark's clock is around ours.
        assert benchmark["stats"]["median"] >= row["end_to_end_seconds"]
    table = [line.split() for line in run.stdout.splitlines() if line.startswith("tiny ")]
    assert [line[3] for line in table] == [name for _, _, name in expected]


def check_row(row: dict[str, Any]) -> None:
    assert row["valid"] is True
    assert row["reason"] is None
    assert row["tokens_checked"] == 4
    assert (row["device"], row["dtype"], row["threads"]) == ("cpu", "float32", 1)
    assert (row["batch"], row["prompt_length"], row["new_tokens"], row["rounds"]) == (1, 32, 4, 2)
    for name in ("device_name", "platform", "python", "torch", "transformers", "gpt2ref"):
        assert row[name], name
    assert {"cuda", "driver", "commit", "dirty", "seed"} <= row.keys()
    assert row["commit"] is None or len(row["commit"]) == 40
    assert (row["dirty"] is None) == (row["commit"] is None)
    assert len(row["samples"]) == 2
    for sample in [row["warmup"], *row["samples"]]:
        assert len(sample["decode_seconds"]) == 3
        assert sample["prefill_seconds"] > 0
        assert min(sample["decode_seconds"]) > 0
        assert sample["end_to_end_seconds"] >= (sample["prefill_seconds"] + sum(sample["decode_seconds"])) * (1 - 1e-9)
    rates = sorted(3 / sum(sample["decode_seconds"]) for sample in row["samples"])
    assert rates[0] * (1 - 1e-9) <= row["decode_tokens_per_second"] <= rates[1] * (1 + 1e-9)
    assert row["end_to_end_tokens_per_second"] > 0
    percentiles = [row["ms_per_token"][name] for name in ("p5", "p50", "p95", "p99")]
    assert percentiles == sorted(percentiles)


def test_the_command_refuses_a_bad_option_before_any_work() -> None:
    run = pytest_benchmarks("--bench-size", "tiny", "--bench-new-tokens", "1000")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--bench-new-tokens=1000: expected at most n_positions=128 together" in run.stderr
