"""Peers take turns, each is measured separately, and pytest-benchmark gets the same times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import benchmarks.run
import benchmarks.weights
from benchmarks.implementations import TokenIds
from benchmarks.implementations.gpt2ref import Reference
from benchmarks.limits import Bandwidth
from benchmarks.measurement import Measurement, take_turns
from benchmarks.plan import Cell
from benchmarks.recorded_timer import RecordedTimer
from benchmarks.run import Run
from benchmarks.sampling import Sampling
from benchmarks.test_generation_speed import test_generation as run_test
from conformance.checkpoints.tensors import trained_like
from gpt2ref import GPT2, from_tensors
from tests.shared.benchmark_fakes import (
    CONFIG,
    CPU,
    GREEDY,
    NEW_TOKENS,
    Clock,
    Costly,
    cell,
    measurement,
    plan,
)
from tests.shared.calls import recorded


@pytest.fixture(scope="module")
def reference() -> GPT2:
    return from_tensors(trained_like(CONFIG, seed=0), CONFIG)


class Named(Costly):
    """Logs its name when it generates, and may fail at a given call."""

    def __init__(self, name: str, log: list[str], fails_at: int | None = None) -> None:
        super().__init__()
        self.name, self.log, self.fails_at, self.calls = name, log, fails_at, 0
        self.clock, self.costs, self.tokens = Clock(), [1.0] * NEW_TOKENS, [[7] * NEW_TOKENS]

    def generate(self, *arguments: Any, on_step: Callable[[], None], **options: Any) -> TokenIds:
        self.log.append(self.name)
        if self.calls == self.fails_at:
            raise RuntimeError(f"{self.name} broke")
        self.calls += 1
        return super().generate(*arguments, on_step=on_step, **options)


def measured(log: list[str], name: str, fails_at: int | None = None) -> Measurement:
    named = Named(name, log, fails_at)
    return measurement(named, cell(), named.clock)


def test_each_peer_is_first_in_turn() -> None:
    log: list[str] = []
    peers = [measured(log, name) for name in "ABC"]
    take_turns(peers, rounds=4)
    assert "".join(log) == "ABC" + "BCA" + "CAB" + "ABC" + "BCA"
    assert [len(peer.rounds) for peer in peers] == [4, 4, 4]


def test_a_peer_that_fails_does_not_stop_the_others() -> None:
    log: list[str] = []
    peers = [measured(log, "A"), measured(log, "B", fails_at=1), measured(log, "C")]
    take_turns(peers, rounds=3)
    assert "".join(log) == "ABC" + "BCA" + "CA" + "AC"
    assert [str(peer.error) for peer in peers] == ["None", "B broke", "None"]
    assert [len(peer.rounds) for peer in peers] == [3, 0, 3]


def test_a_slow_first_call_shows_in_the_warm_up_and_the_first_call_alone(reference: GPT2) -> None:
    clock = Clock()
    costs = [0.5] + [0.25] * (NEW_TOKENS - 1)
    costly = Costly.of(clock, costs, reference, compilation=60.0)
    own = measurement(costly, cell(), clock)
    take_turns([own], rounds=2)
    fields = own.result(reference)
    assert fields["warmup"]["prefill_seconds"] == 60.5
    assert fields["first_call_seconds"] == 64.25
    assert fields["load_seconds"] == 0.5
    assert fields["rounds"] == len(fields["samples"]) == 2
    first, second = fields["samples"]
    assert first | {"seed": second["seed"]} == second
    assert fields["samples"][0]["decode_seconds"] == [0.25] * (NEW_TOKENS - 1)
    assert (
        fields["prefill_seconds"],
        fields["decode_tokens_per_second"],
        fields["end_to_end_seconds"],
    ) == (
        0.5,
        4.0,
        4.25,
    )
    assert fields["valid"]

    later = measurement(own.peer, cell(), clock)
    take_turns([later], rounds=1)
    # The first call belongs to the loaded implementation, not to the cell.
    assert later.result(reference)["first_call_seconds"] == 64.25
    assert later.result(reference)["warmup"]["prefill_seconds"] == 0.5


def test_sampling_is_timed_separately_where_possible() -> None:
    clock = Clock()
    calls: list[tuple[Any, ...]] = []
    numbers: list[float] = []

    class Sampler(Costly):
        def sampling_step(
            self, logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling
        ) -> Callable[[], object]:
            def step() -> None:
                seen = logits.shape, logits.dtype, uniform.shape, uniform.dtype, sampling
                calls.append(seen)
                numbers.append(float(uniform.sum()))
                clock.now += 100.0 if len(calls) <= 3 else 0.125  # a warm-up, and then the rest

            return step

    where = cell(GREEDY, batch=2)
    sampler = measurement(Sampler(), where, clock)
    assert sampler.sampling_seconds(CPU, torch.bfloat16) == 0.125
    shapes = torch.Size([2, 1000]), torch.bfloat16, torch.Size([2]), torch.float64
    assert set(calls) == {(*shapes, GREEDY)}
    assert len(set(numbers)) == len(calls) == 23
    assert measurement(Costly(), where, clock).sampling_seconds(CPU, torch.bfloat16) is None


# The times that pytest-benchmark gets.


class Benchmark:
    """The part of pytest-benchmark's fixture that a test uses."""

    def __init__(self, timer: Callable[[], float]) -> None:
        self.timer, self.group = timer, None
        self.data: list[float] = []
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, target: Callable[[], None], setup: Callable[[], None], rounds: int) -> None:
        for _ in range(rounds):
            setup()
            start = self.timer()
            target()
            self.data.append(self.timer() - start)


def test_the_recorded_times_are_reported_to_the_last_bit() -> None:
    timer = RecordedTimer()
    seconds = [0.1, 0.7, 1e-9, 0.1 + 0.2, 12345.6789]
    for _ in range(2):  # for the next row as for the first
        benchmark: Any = Benchmark(timer)
        timer.run_rounds(benchmark, seconds)
        assert benchmark.data == seconds


def test_a_recorded_error_is_raised_where_the_row_would_be_timed() -> None:
    timer = RecordedTimer()
    benchmark: Any = Benchmark(timer)
    with pytest.raises(RuntimeError, match="out of paper"):
        timer.run_rounds(benchmark, [], RuntimeError("out of paper"))
    assert benchmark.data == []


# The whole run.


def test_a_row_that_cannot_be_judged_is_an_error_of_its_own(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no room for the judge")

    monkeypatch.setattr("benchmarks.measurement.judge", refuse)
    run = run_of(implementation=["gpt2ref"])
    assert str(run.outcome(run.plan.cells[0], "gpt2ref").error) == "no room for the judge"


@pytest.fixture
def run_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    """Make runs in which each measurement of the bandwidth finds 1 GB/s more than the last.

    The first finds more than any processor here, so that no row is too fast.
    """
    found = itertools.count(1001)
    monkeypatch.setattr(
        benchmarks.run, "measure_bandwidth", lambda *_, **__: Bandwidth(next(found) * 1e9, "sum")
    )
    runs: list[Run] = []

    def make(printed: list[str] | None = None, **changes: Any) -> Run:
        options = {
            "size": ["tiny"],
            "new_tokens": "4",
            "temperature": ["0"],
            "top_k": ["none"],
            "rounds": "2",
        }
        asked = plan(**options | changes)
        runs.append(Run(asked, {"device": "cpu"}, (printed if printed is not None else []).append))
        return runs[-1]

    yield make
    for run in runs:
        run._forget_weights()


def benchmark_of(run: Run, where: Cell, name: str) -> Any:
    benchmark: Any = Benchmark(run_test.pytestmark[0].kwargs["timer"])  # type: ignore[attr-defined]
    run_test(benchmark, run, where, name)
    return benchmark


def test_a_cell_is_measured_once_for_all_its_rows(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Measurement]] = []
    monkeypatch.setattr(Measurement, "generate", recorded(Measurement.generate, calls))
    printed: list[str] = []
    run = run_of(printed, batch=["1,2"], implementation=["gpt2ref,huggingface"])
    first, second = run.plan.cells
    for where in (first, second):
        for name in run.plan.implementations:
            benchmark = benchmark_of(run, where, name)
            assert benchmark.data == [
                sample["end_to_end_seconds"] for sample in benchmark.extra_info["samples"]
            ]
            assert benchmark.extra_info["implementation"] == name
            assert benchmark.extra_info["batch"] == where.batch
    order = ["gpt2ref", "huggingface", "huggingface", "gpt2ref", "gpt2ref", "huggingface"]
    assert [measured.peer.name for (measured,) in calls] == 2 * order
    assert [line[:5] for line in printed if line.startswith("[")] == ["[1/2]", "[2/2]"]


def test_the_bandwidth_is_measured_before_every_round(run_of: Callable[..., Run]) -> None:
    """The first is for the expectations, the next two for warm-ups; then the peers take turns."""
    run = run_of(implementation=["gpt2ref,huggingface"])
    own, base = (
        benchmark_of(run, run.plan.cells[0], name).extra_info for name in ("gpt2ref", "huggingface")
    )
    assert own["bandwidth_rounds"] == [1005e9, 1006e9]
    assert base["bandwidth_rounds"] == [1004e9, 1007e9]
    for fields in (own, base):
        assert (fields["bandwidth_limit"], fields["bandwidth_method"]) == (1007e9, "sum")
    assert own["ceiling_tokens_per_second"] == pytest.approx(1007e9 / own["bytes_per_step"])
    run.finish()
    assert own["peak_memory_bytes"] > 10e6  # of the process, which has torch in it


def test_the_ratio_is_to_hugging_face_in_the_same_cell(run_of: Callable[..., Run]) -> None:
    run = run_of(implementation=["gpt2ref,huggingface"])
    own, base = (run.outcome(run.plan.cells[0], name).result for name in ("gpt2ref", "huggingface"))
    assert own is not None
    assert base is not None
    assert base["ratio_to_huggingface"] == 1.0
    rates = [
        [3 / sum(sample["decode_seconds"]) for sample in fields["samples"]]
        for fields in (own, base)
    ]
    ratios = [mine / theirs for mine, theirs in zip(*rates, strict=True)]
    assert own["ratio_to_huggingface"] == pytest.approx(sum(ratios) / 2)  # the median of two


def test_without_hugging_face_there_is_no_ratio(run_of: Callable[..., Run]) -> None:
    run = run_of(implementation=["gpt2ref,gpt2ref-textbook"])
    fields = run.outcome(run.plan.cells[0], "gpt2ref-textbook").result
    assert fields is not None
    assert fields["ratio_to_huggingface"] is None


class Unloadable(Reference):
    def __init__(self, *_: Any) -> None:
        raise MemoryError("too big")


def test_only_the_peer_that_cannot_be_loaded_fails(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = {"gpt2ref": Reference, "huggingface": Unloadable}
    monkeypatch.setattr(benchmarks.weights, "implementation_class", classes.__getitem__)
    run = run_of(implementation=["gpt2ref,huggingface"])
    where = run.plan.cells[0]
    assert benchmark_of(run, where, "gpt2ref").extra_info["valid"]
    with pytest.raises(MemoryError, match="too big"):
        benchmark_of(run, where, "huggingface")
    assert len(run.results) == 1


def test_if_no_peer_can_be_loaded_the_error_is_that_of_loading(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.weights, "implementation_class", lambda _name: Unloadable)
    run = run_of(implementation=["gpt2ref"])
    assert str(run.outcome(run.plan.cells[0], "gpt2ref").error) == "too big"


def test_an_invalid_row_is_recorded_and_fails_its_test(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Reference):
        def generate(self, *arguments: Any, **options: Any) -> TokenIds:
            return [
                [(token_id + 1) % 50257 for token_id in row]
                for row in super().generate(*arguments, **options)
            ]

    monkeypatch.setattr(benchmarks.weights, "implementation_class", {"gpt2ref": Broken}.__getitem__)
    run = run_of(implementation=["gpt2ref"])
    with pytest.raises(AssertionError, match="likeliest token"):
        benchmark_of(run, run.plan.cells[0], "gpt2ref")
    assert [fields["valid"] for fields in run.results] == [False]


def test_a_cell_that_does_not_fit_the_memory_is_skipped(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.run, "free_memory", lambda _device: 100_000_000)
    printed: list[str] = []
    run = run_of(printed, size=["tiny,gpt2"], implementation=["gpt2ref"])
    fits, too_big = run.plan.cells
    assert run.refusal(fits) is None
    with pytest.raises(pytest.skip.Exception, match=r"needs 996\.2 MB, 100\.0 MB are free on cpu"):
        benchmark_of(run, too_big, "gpt2ref")
    assert run.results == []
    assert [line.split()[-1] for line in printed[-2:]] == ["yes", "skipped"]


def test_only_the_weights_in_use_are_kept(run_of: Callable[..., Run]) -> None:
    run = run_of(dtype=["float32,bfloat16"], implementation=["gpt2ref"])
    folders = []
    for where in run.plan.cells:
        run.outcome(where, "gpt2ref")
        assert run._weights is not None
        folders.append(run._weights[1].checkpoint)
    assert [folder.exists() for folder in folders] == [False, True]
    run.finish()
    assert [folder.exists() for folder in folders] == [False, False]
