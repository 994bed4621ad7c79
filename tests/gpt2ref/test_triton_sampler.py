"""Triton's kernels choose the tokens of `sampling.choose`. Without CUDA they are interpreted."""

from __future__ import annotations

import copy
import math
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gpt2ref import GPT2, sample
from gpt2ref.fast import captured_step, device_sampler, slower, step_buffers
from gpt2ref.sampling import choose, probabilities
from tests.shared.cuda_emulation import emulated_cuda
from tests.shared.cuda_streams import CudaError

pytest.importorskip("triton", minversion="3.3", reason="needs Triton 3.3")

from gpt2ref.fast.triton_sampler import DIGITS, TritonSampler
from tests.shared.cuda_kernels import interpreted_kernels, silent

INF, NAN = math.inf, math.nan
LAST_BELOW_ONE = math.nextafter(1.0, 0.0)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Few different values, so that ties are common; any values; and logits that choose no token.
numbers = st.integers(-3, 3).map(float) | st.floats(-60, 60, width=32) | st.just(-0.0)
values = numbers | st.sampled_from([-INF, -INF, INF, NAN]) | numbers
rows = st.integers(1, 30).flatmap(
    lambda vocab: st.lists(st.lists(values, min_size=vocab, max_size=vocab), min_size=1, max_size=2)
)


def by_kernels(
    logits: Tensor, uniform: Tensor, *, temperature: float, top_k: int | None, block: int = 16
) -> Tensor:
    """Choose one token a row, [batch, vocab] and [batch] -> int64 [batch], all on the CPU."""
    batch, vocab_size = logits.shape
    options: dict[str, Any] = {"greedy": temperature == 0, "top_k": top_k, "block": block}
    sampler = TritonSampler(batch, vocab_size, logits.dtype, DEVICE, **options)
    given = torch.tensor(temperature or 1.0, dtype=torch.float64, device=DEVICE)
    chosen = torch.empty(batch, dtype=torch.int64, device=DEVICE)
    with silent():
        sampler(logits.to(DEVICE), uniform.to(DEVICE), given, chosen)
    assert not sampler.counts.any()  # as the next choice needs them
    return chosen.cpu()


def uniforms(seed: int, count: int) -> Tensor:
    generator = random.Random(seed)
    return torch.tensor([generator.random() for _ in range(count)], dtype=torch.float64)


@settings(max_examples=12)
@given(
    rows,
    st.sampled_from([0, 1e-300, 0.3, 1.0, 10.0, 1e300]),
    st.none() | st.integers(1, 33),
    st.integers(0, 2**32),
    st.sampled_from(list(DIGITS)),
)
def test_the_tokens_are_those_of_the_plain_sampler(rows, temperature, top_k, seed, dtype):
    logits = torch.tensor(rows, dtype=torch.float64).to(dtype)
    before, uniform = logits.clone(), uniforms(seed, len(rows))
    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k}
    assert torch.equal(by_kernels(logits, uniform, **options), choose(logits, uniform, **options))
    assert torch.equal(logits.nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize(("dtype", "top_k"), [(torch.bfloat16, 40), (torch.float32, None)])
def test_the_tokens_are_those_of_the_plain_sampler_in_gpt2s_vocabulary(dtype, top_k):
    generator = torch.Generator().manual_seed(0)
    wide = 3 * torch.randn(2, 50304, generator=generator)
    logits = wide.to(dtype)[:, :50257]  # the rows do not follow one another
    options: dict[str, Any] = {"temperature": 0.8, "top_k": top_k}
    found = by_kernels(logits, uniforms(0, 2), **options, block=8192)
    assert torch.equal(found, choose(logits, uniforms(0, 2), **options))


EDGES = {
    "the first and the last possible": ([-INF, 0.0, -9.0, 1.0, 0.0, -9.0], [0.0, LAST_BELOW_ONE]),
    "zeros of both signs are tied": ([-1.0, 0.0, -0.0, -2.0], [0.0, LAST_BELOW_ONE]),
    "all of them are tied": ([-3.5] * 20, [0.0, LAST_BELOW_ONE]),
    "the last block is impossible": ([0.0] * 3 + [-INF] * 20, [0.5, LAST_BELOW_ONE]),
    "the first block is impossible": ([-INF] * 17 + [0.0] * 3, [0.0, 0.5]),
    "the largest underflow": ([-1e-45, 1e-45, 0.0, -2e-45], [0.2, 0.8]),
    "the largest numbers": ([3.4e38, -3.4e38, 3.3e38, 3.4e38], [0.2, 0.8]),
}


@pytest.mark.parametrize("name", EDGES)
def test_an_edge_is_where_the_plain_sampler_has_it(name):
    row, numbers = EDGES[name]
    logits, uniform = torch.tensor([row] * 2), torch.tensor(numbers, dtype=torch.float64)
    for top_k in (None, 2):
        options: dict[str, Any] = {"temperature": 1.0, "top_k": top_k}
        found = by_kernels(logits, uniform, **options)
        assert torch.equal(found, choose(logits, uniform, **options)), top_k


def test_a_boundary_between_two_tokens_differs_by_the_rounding_of_sums_alone():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 40, generator=generator)
    cumulative = probabilities(logits).cumsum(-1)[0]
    uniform = cumulative[::9] / cumulative[-1]
    allowed = logits.size(-1) * 2**-52
    found = by_kernels(logits.expand(len(uniform), -1), uniform, temperature=1.0, top_k=None)
    before = torch.cat([torch.zeros(1, dtype=torch.float64), cumulative])
    assert (before[found] <= uniform + allowed).all()
    assert (before[found + 1] >= uniform - allowed).all()


@contextmanager
def kernels() -> Iterator[None]:
    """Use the machine's CUDA device, or emulated ones with kernels."""
    with ExitStack() as stack:
        if not torch.cuda.is_available():
            stack.enter_context(emulated_cuda(kernels=True))
            stack.enter_context(interpreted_kernels())
        yield
    captured_step._idle.clear()


def check_loop(here: GPT2, **options: Any) -> None:
    """Compare the loop on the last device with the CPU's."""
    options = {"max_new_tokens": 5, "seed": 1, "eos_token_id": None} | options
    there = copy.deepcopy(here).to(f"cuda:{torch.cuda.device_count() - 1}")
    prompts = [[1, 2], [3]]
    assert sample(there, prompts, **options) == sample(here, prompts, **options)


@pytest.fixture
def here(tiny: GPT2, monkeypatch: pytest.MonkeyPatch) -> GPT2:
    """Copy the model of 97 tokens in float32, and let the captured loop have buckets of 4."""
    monkeypatch.setattr(step_buffers, "BUCKET", 4)
    monkeypatch.setattr(slower, "_said", set())
    return copy.deepcopy(tiny).float()


@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 9, "vocab_size": 90}], ids=str)
def test_the_captured_loop_chooses_by_kernels(here, monkeypatch, options):
    monkeypatch.setattr(device_sampler, "choose", None)  # the loop does not call it
    with kernels():
        check_loop(here, **options)


def fail(*_: object, **__: object) -> None:
    raise OSError("no compiler\nand more lines")


def choose_the_next(sampler: TritonSampler, *given: Any) -> None:
    call(sampler, *given)
    given[-1].add_(1)


call = TritonSampler.__call__


@pytest.mark.parametrize(
    ("mistaken", "reason"),
    [(fail, "OSError: no compiler"), (choose_the_next, "RuntimeError: they choose [")],
)
def test_kernels_that_fail_are_told_once_and_change_no_token(here, monkeypatch, mistaken, reason):
    monkeypatch.setattr(TritonSampler, "__call__", mistaken)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with kernels():
            check_loop(here)
            check_loop(here, temperature=0)
    (only,) = told
    assert only.category is RuntimeWarning
    assert str(only.message).startswith(f"Triton's kernels can't choose tokens ({reason}")
    assert str(only.message).endswith("so generation is slower. The tokens are the same.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are not interpreted")
def test_memory_of_another_device_is_refused_by_the_emulation():
    device, dtype = torch.device("cuda:0"), torch.float32
    with emulated_cuda(kernels=True), interpreted_kernels(), torch.inference_mode():
        sampler = TritonSampler(1, 9, dtype, device, greedy=True, top_k=None)
        given = torch.zeros(1, 9, device=device), torch.zeros(1, device=device)
        with pytest.raises(CudaError, match="given a tensor that lies elsewhere"):
            sampler(*given, given[1][0], torch.zeros(1, dtype=torch.int64))
        with torch.cuda.device(1), pytest.raises(CudaError, match="a kernel on cuda:1"):
            sampler.check()


# Compiles kernels for two kinds of GPU, without one. Not interpreted, so in a new process.
COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gpt2ref.fast.triton_sampler import _count, _draw, _sum

POINTERS = {"temperature": "*fp64", "uniform": "*fp64", "maxima": "*fp32"}
POINTERS |= {"counts": "*i32", "sums": "*fp64", "chosen": "*i64"}

def compiled(architecture, logits, kernel, **constants):
    names = kernel.arg_names
    types = {name: (POINTERS | {"logits": logits}).get(name, "i32") for name in names}
    types |= dict.fromkeys(constants, "constexpr")
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, types, places)
    made = compile(source, target=GPUTarget("cuda", architecture, 32))
    assert made.asm["cubin"].startswith(b"\\x7fELF")
    print(kernel.__name__)

blocks = {"size": 1024, "n_blocks": 50, "padded": 64}
compiled(80, "*fp32", _count, digit=0, digits=0, size=1024)
compiled(80, "*fp32", _draw, greedy=True, digits=0, **blocks)
compiled(90, "*bf16", _count, digit=1, digits=2, size=1024)
compiled(90, "*bf16", _sum, digits=2, **blocks)
compiled(90, "*bf16", _draw, greedy=False, digits=2, **blocks)
"""


def test_the_kernels_compile_for_gpus(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", COMPILE]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["_count", "_draw", "_count", "_sum", "_draw"]
