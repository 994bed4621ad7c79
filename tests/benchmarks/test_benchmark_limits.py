"""The bytes that a decode step must read, worked out by hand, and the memory in use."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.expectations import expectations, format_bytes
from benchmarks.limits import (
    REPEATS,
    Bandwidth,
    bandwidth_fields,
    bytes_of_steps,
    bytes_per_step,
    ceiling,
    measure_bandwidth,
    parameters,
    weight_bytes,
)
from benchmarks.memory import DeviceMemory, free_memory, needed_memory, process_peak
from gpt2ref import GPT2, PUBLISHED_CONFIGS, GPT2Config
from tests.shared.benchmark_fakes import CPU, Clock, plan

# V=10, P=5, C=4, L=2, I=16. wte 40, wpe 20, ln_f 8; a layer: norms 16, c_attn 48+12, c_proj 16+4,
# c_fc 64+16, c_proj 64+4
SMALL = GPT2Config(vocab_size=10, n_positions=5, n_embd=4, n_layer=2, n_head=2)


def test_parameters_are_counted_as_the_model_has_them() -> None:
    assert parameters(SMALL) == 40 + 20 + 8 + 2 * (16 + 60 + 20 + 80 + 68) == 556
    assert parameters(PUBLISHED_CONFIGS["gpt2"]) == 124_439_808
    for config in (
        *PUBLISHED_CONFIGS.values(),
        GPT2Config(n_embd=6, n_head=2, n_layer=3, n_inner=7),
    ):
        with torch.device("meta"):
            assert parameters(config) == sum(
                parameter.numel() for parameter in GPT2(config).parameters()
            )


def test_a_step_reads_all_weights_but_wpe_and_the_cache_at_mean_depth() -> None:
    # Prompt 2, new tokens 3: the steps have 3 and 4 positions in view. A position has a key and a
    # value of 4 numbers in 2 layers.
    cache = (3 + 4) / 2 * 2 * 4 * 2
    assert cache == 56
    asked = {"prompt_length": 2, "new_tokens": 3}
    assert bytes_per_step(SMALL, itemsize=4, batch=1, **asked) == 4 * (556 - 20 + 56)
    assert bytes_per_step(SMALL, itemsize=2, batch=3, **asked) == 2 * (556 - 20 + 3 * 56)


def test_the_bytes_of_each_step_have_the_mean_of_a_step() -> None:
    asked = {"itemsize": 2, "batch": 3, "prompt_length": 2, "new_tokens": 3}
    # All weights but wpe, and 3 or 4 positions of 16 numbers for each of 3 rows.
    steps = bytes_of_steps(SMALL, **asked)
    assert steps == [2 * (536 + 3 * 3 * 16), 2 * (536 + 3 * 4 * 16)]
    assert sum(steps) / 2 == bytes_per_step(SMALL, **asked)
    assert weight_bytes(SMALL, 2) == 2 * 536


def test_a_step_of_the_published_size() -> None:
    # 123653376 weights, and at depth 48 of 12 layers 2 * 12 * 768 * 48 numbers in the cache
    step = bytes_per_step(
        PUBLISHED_CONFIGS["gpt2"], itemsize=4, batch=1, prompt_length=32, new_tokens=32
    )
    assert step == 4 * (123_653_376 + 884_736) == 498_152_448
    assert ceiling(step, 1, 25e9) == pytest.approx(50.19, abs=0.01)


def test_a_result_is_compared_with_the_best_bandwidth() -> None:
    # A step is 4 tokens: 10, 5 and 40 steps a second, so 5000, 2500 and 20,000 bytes/s
    rates, measured = (
        [40.0, 20.0, 160.0],
        [Bandwidth(20_000.0, "sum"), Bandwidth(5_000.0, "dot"), Bandwidth(50_000.0, "sum")],
    )
    limit = Bandwidth(50_000.0, "sum")
    expected = {
        "bandwidth_limit": 50_000.0,
        "bandwidth_rounds": [20_000.0, 5_000.0, 50_000.0],
        "bandwidth_method": "sum",
        "ceiling_tokens_per_second": 400.0,
        "bandwidth_percent": 10.0,  # of the median rate, 40
    }
    assert bandwidth_fields(500, 4, rates, measured, limit) == expected
    nothing = bandwidth_fields(500, 4, [], measured, limit)
    assert nothing == expected | {"bandwidth_percent": None}


class Ticking(Clock):
    """A clock: each pass over the buffer takes the next of these times."""

    def __init__(self, seconds: list[float]) -> None:
        super().__init__()
        self.seconds = seconds

    def __call__(self) -> float:
        if len(self.log) % 4 == 3:  # synchronise, read, synchronise, read
            self.now += self.seconds.pop(0)
        return super().__call__()


def test_bandwidth_is_the_best_of_several_passes() -> None:
    summed, multiplied = (
        [1.0, 0.5, 0.25, *[2.0] * (REPEATS - 3)],
        [2.0, 0.5, *[1.0] * (REPEATS - 2)],
    )
    for seconds, found in ((summed + multiplied, "sum"), (multiplied + summed, "dot")):
        clock = Ticking(seconds)
        assert measure_bandwidth(
            CPU, clock.synchronise, buffer_bytes=4096, clock=clock
        ) == Bandwidth(4 * 4096, found)
        assert clock.log == ["synchronise", "read"] * 4 * REPEATS
    assert (
        measure_bandwidth(CPU, clock.synchronise, repeats=1, buffer_bytes=4096).bytes_per_second > 0
    )
    assert len(clock.log) == (4 * REPEATS + 2) * 2


class FakeCuda:
    """Counts memory as torch.cuda does."""

    def __init__(self) -> None:
        self.now = self.peak = self.outside = 0

    def take(self, count: int) -> None:
        self.now += count
        self.peak = max(self.peak, self.now)

    def memory_allocated(self, _device: object) -> int:
        return self.now

    def max_memory_allocated(self, _device: object) -> int:
        return self.peak

    def reset_peak_memory_stats(self, _device: object) -> None:
        self.peak = self.now

    def mem_get_info(self, _device: object) -> tuple[int, int]:
        return 10**6 - self.now - self.outside, 10**6


def test_memory_on_cuda_is_each_ones_own() -> None:
    cuda = FakeCuda()
    device = torch.device("cuda")
    one, other = DeviceMemory(device, cuda), DeviceMemory(device, cuda)

    def generate(kept: int, passing: int) -> Any:
        cuda.take(kept)
        cuda.take(passing)
        cuda.take(-passing)
        return "done"

    assert one.run(lambda: generate(1000, 500)) == ("done", 1500)  # loads: 1000 stay
    assert other.run(lambda: generate(70, 9000))[1] == 9070
    assert one.run(lambda: generate(200, 30))[1] == 1230  # its own 1000, not the other's 70
    assert one.run(lambda: generate(0, 4))[1] == 1204
    assert other.run(lambda: generate(0, 1))[1] == 71
    assert DeviceMemory(CPU, cuda).run(lambda: "done") == ("done", None)


def test_memory_that_torch_does_not_allocate_counts_too() -> None:
    cuda = FakeCuda()
    device = torch.device("cuda")
    own, torchs = DeviceMemory(device, cuda), DeviceMemory(device, cuda)
    assert own.run(lambda: setattr(cuda, "outside", 300))[1] == 300
    assert torchs.run(lambda: cuda.take(50))[1] == 50
    assert own.run(lambda: setattr(cuda, "outside", 420))[1] == 420


def test_needed_memory_counts_each_copy_of_the_weights() -> None:
    def needed(*names: str) -> int:
        asked = plan(size=["gpt2"], implementation=[*names], batch=["2"])
        return needed_memory(asked, asked.cells[0])

    weights, cache = 4 * 124_439_808, 4 * 2 * 12 * 768 * (5 + 16) * 2
    assert needed("gpt2ref") == 2 * weights + cache  # the judge has one
    assert needed("gpt2ref", "huggingface", "huggingface-static") == 4 * weights + cache


def test_the_memory_of_this_machine_is_a_number_or_unknown() -> None:
    for count in (free_memory(CPU), process_peak()):
        assert count is None or count > 2**20


def test_the_expectations_have_each_shape_once() -> None:
    asked = plan(
        size=["gpt2"],
        dtype=["float32,bfloat16"],
        prompt_length=["32"],
        new_tokens="32",
        implementation=["gpt2ref"],
    )
    head, columns, wide, narrow = expectations(asked, Bandwidth(25e9, "sum"), 600_000_000)
    assert head == "read bandwidth of cpu: 25.0 GB/s (sum); 600.0 MB of memory free"
    shown = [
        "gpt2",
        "float32",
        "1",
        "32",
        "124.4",
        "M",
        "497.8",
        "MB",
        "498.2",
        "MB",
        "50.2",
        "1.00",
        "GB",
        "no:",
        "skipped",
    ]
    assert wide.split() == shown
    assert narrow.split()[-6:] == ["249.1", "MB", "100.4", "500.1", "MB", "yes"]
    assert columns.split()[0] == "size"
    assert expectations(asked, Bandwidth(25e9, "sum"), None)[-1].endswith("unknown")


def test_bytes_are_shown_in_decimal_units() -> None:
    assert (format_bytes(6_230_000_000), format_bytes(13_310_000)) == ("6.23 GB", "13.3 MB")
