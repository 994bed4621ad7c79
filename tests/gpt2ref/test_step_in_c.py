"""step.c for other processors and compilers than the one that `compile_step` finds here.

Programs around it read numbers, and write what they compute of them. For another processor they run
in an emulator.
"""

import platform
import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import pytest
import torch

from conformance.checkpoints.tensors import trained_like
from gpt2ref import GPT2Config, from_tensors
from gpt2ref.conversion import PREFIX
from gpt2ref.fast.compiled_step import _MATRICES, _in_order
from gpt2ref.fast.library import DEFINITIONS
from tests.shared.compiled import allowed_errors, filled, furthest, logits_of

ROOT = Path(__file__).parents[2]
CONFIG = GPT2Config(vocab_size=7, n_positions=20, n_embd=57, n_layer=2, n_head=3, n_inner=101)
ROWS = [[(5 * row + i) % 7 for i in range(1 + 7 * row % 20)] for row in range(15)]
# The rows of a batch, and how many tokens of each are fed at once.
FED = ((ROWS[-1:], 1), (ROWS[:2], 1), (ROWS, 1), (ROWS, 2))


@dataclass
class Target:
    """A compiler, and what runs its programs."""

    compiler: list[str]
    needs: list[str]  # what the processor here must have
    emulator: list[str] = field(default_factory=list)

    def missing(self):
        """Say what this machine lacks for it."""
        tools = [self.compiler[0], *self.emulator[:1]]
        lacking = [f"there is no {tool}" for tool in tools if not shutil.which(tool)]
        processor = Path("/proc/cpuinfo")
        has = processor.read_text().split() if processor.exists() else []
        has.append(platform.machine())
        return ", ".join(lacking + [f"no {need} here" for need in self.needs if need not in has])


TARGETS = {
    "AVX-512": Target(["cc", "-march=skylake-avx512"], ["x86_64", "avx512bw", "avx512vl"]),
    "AVX2": Target(["cc", "-march=haswell"], ["x86_64", "avx2", "fma", "f16c", "bmi2"]),
    "SSE2": Target(["cc", "-march=x86-64"], ["x86_64"]),
    "clang": Target(["clang", "-march=haswell"], ["x86_64", "avx2", "fma", "f16c", "bmi2"]),
    "Arm": Target(["aarch64-linux-gnu-gcc", "-static"], [], ["qemu-aarch64"]),
}


@pytest.fixture(params=TARGETS)
def build(request, tmp_path):
    """Return what builds a program for a target, and returns what runs it."""
    target = TARGETS[request.param]
    if missing := target.missing():
        pytest.skip(missing)

    def make(name, dtype):
        program = tmp_path / name
        source = ROOT / "tests" / "shared" / "c" / f"{name}.c"
        command = [*target.compiler, "-O0", "-fopenmp-simd", *DEFINITIONS[dtype]]
        command += ["-I", str(ROOT / "gpt2ref" / "fast"), "-o", str(program), str(source), "-lm"]
        subprocess.run(command, check=True)

        def run(given):
            return subprocess.run(
                [*target.emulator, str(program)], input=given, stdout=subprocess.PIPE, check=True
            ).stdout

        return run

    return make


def content(tensor):
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def read(answer, dtype):
    return torch.frombuffer(bytearray(answer), dtype=dtype)


@pytest.mark.parametrize("dtype", DEFINITIONS, ids=str)
def test_numbers_are_stored_and_read_as_torch_does(build, dtype):
    """All numbers of the dtype, those halfway between two, and the floats beside these."""
    whole = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).float()
    whole = whole[whole.isfinite()].sort().values
    ends = torch.tensor([float("inf"), -float("inf"), float("nan"), 3e38, 1e-45])
    halfway = (whole[1:].double() + whole[:-1].double()).div(2).float()
    beside = [halfway.nextafter(torch.tensor(end)) for end in (float("inf"), -float("inf"))]
    floats = torch.cat([whole, ends, halfway, *beside])
    floats = torch.cat([floats, torch.zeros(-len(floats) % 16)])
    answer = read(build("numbers_program", dtype)(content(floats)), torch.float32).view(-1, 2)
    expected = floats.to(dtype).float()
    for found in answer.unbind(1):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        assert (found.signbit() == expected.signbit())[~expected.isnan()].all()


def test_logits_and_cache_are_those_of_the_model(build):
    """In float16: only what `numbers_program` has shown depends on the dtype."""
    dtype = torch.float16
    run = build("step_program", dtype)
    tensors = {key: each.to(dtype) for key, each in trained_like(CONFIG, seed=0).items()}
    model, exact = from_tensors(tensors, CONFIG), from_tensors(tensors, CONFIG, dtype=torch.float64)
    largest = allowed_errors(model, exact)
    state = model.state_dict()
    for in_out in (True, False):
        weights = [
            state[PREFIX + key].t() if in_out and key.endswith(_MATRICES) else state[PREFIX + key]
            for key in _in_order(CONFIG.n_layer)
        ]
        for rows, n_fed in FED:
            cache, exact_cache = filled(model, rows), filled(exact, rows)
            fed = [row[-n_fed:] for row in rows]
            ids = [token_id for row in fed for token_id in row]
            numbers = [number for number, row in enumerate(fed) for _ in row]
            positions = [i for row in rows for i in range(len(row))[-n_fed:]]
            ends = [end - 1 for end in accumulate(map(len, fed))]
            shape = CONFIG.n_layer, CONFIG.n_head, CONFIG.n_embd, CONFIG.mlp_width
            given = [in_out, *shape, CONFIG.vocab_size, len(rows), cache.capacity, 2, len(ids)]
            given += [weight.numel() for weight in weights]
            inputs = [struct.pack(f"{len(given)}q", *given)]
            inputs += [content(each) for each in (*weights, cache.keys, cache.values)]
            fed_now = (*ids, *numbers, *positions, *ends)
            inputs += [struct.pack(f"{len(fed_now)}q", *fed_now)]
            truths = [logits_of(exact, rows, exact_cache), exact_cache.keys, exact_cache.values]
            answer = run(b"".join(inputs))
            for truth, allowed in zip(truths, largest, strict=True):
                kind = torch.float32 if truth is truths[0] else dtype
                size = truth.numel() * kind.itemsize
                found, answer = read(answer[:size], kind).view(truth.shape), answer[size:]
                assert furthest(found, truth) <= allowed
            assert answer == b""
