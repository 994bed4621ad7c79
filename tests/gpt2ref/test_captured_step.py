"""Captured decode steps choose the tokens of plain steps. On the CPU they run uncaptured."""

import copy
import gc
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from gpt2ref import from_tensors, generation, sample
from gpt2ref.fast import captured_step, step_buffers
from gpt2ref.fast.captured_step import CapturedDecodeSteps
from gpt2ref.fast.step_buffers import StepBuffers
from gpt2ref.generation import DecodeSteps, sample_steps
from tests.shared.calls import recorded
from tests.shared.cuda_emulation import cuda


@pytest.fixture(params=[("cpu", 0), ("cpu", 1), ("cpu", 8), ("cuda", 8)], ids=str)
def model(request, tiny, monkeypatch):
    """Copy the model of 97 tokens and 13 positions, in float64, to a device."""
    device, lag = request.param
    monkeypatch.setattr(captured_step, "LAG", lag)
    with cuda() if device == "cuda" else nullcontext():
        yield copy.deepcopy(tiny).to(device)


@pytest.fixture(autouse=True)
def captured_steps(monkeypatch):
    """Make `sample` use captured steps, with a few buckets in 13 positions."""
    monkeypatch.setattr(step_buffers, "BUCKET", 4)
    monkeypatch.setattr(generation, "make_steps", CapturedDecodeSteps)
    yield
    captured_step._idle.clear()  # other tests go on using the models


def plainly(model, prompts, **options):
    """Return the tokens of plain steps, on the CPU, where they take less time."""
    if model.device.type != "cpu":
        tensors = {key: tensor.cpu() for key, tensor in model.state_dict().items()}
        model = from_tensors(tensors, model.config, layout="out_in")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "make_steps", DecodeSteps)
        return sample(model, prompts, **options)


@pytest.mark.parametrize("top_k", [None, 1, 5, 1000])
@pytest.mark.parametrize("temperature", [0, 0.2, 1.0, 3])
def test_tokens_are_those_of_plain_steps_also_past_the_context(model, temperature, top_k):
    prompts = [[1, 2, 3], [5], list(range(12)), list(range(13)), list(range(20, 40))]
    numbers = range(1, 6) if model.device.type == "cpu" else (2, 3)  # the last one has no room
    for number in numbers:
        options: dict[str, Any] = {
            "max_new_tokens": 20,
            "temperature": temperature,
            "top_k": top_k,
            "seed": number,
            "eos_token_id": None,
        }
        assert sample(model, prompts[:number], **options) == plainly(
            model, prompts[:number], **options
        )


def test_each_row_stops_at_its_own_eos_whatever_the_lag(model):
    prompts = [list(range(start, start + length)) for start, length in enumerate([1, 4, 9, 2])]
    lengths = set()
    for eos_token_id in range(0, 97, 3):
        options: dict[str, Any] = {
            "max_new_tokens": 12,
            "temperature": 2.0,
            "top_k": 20,
            "seed": eos_token_id,
            "eos_token_id": eos_token_id,
        }
        found = sample(model, prompts, **options)
        assert found == plainly(model, prompts, **options)
        lengths |= {len(row) for row in found}
    assert len(lengths) > 4


@pytest.mark.parametrize("max_new_tokens", [0, 1, 2])
def test_zero_one_or_two_new_tokens_are_those_of_plain_steps(model, max_new_tokens):
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "seed": 1, "eos_token_id": None}
    assert sample(model, [[1, 2], [3]], **options) == plainly(model, [[1, 2], [3]], **options)
    assert sample(model, [], **options) == []


def test_nan_logits_are_an_error_in_a_running_row_only(model):
    with torch.no_grad():
        model.transformer.wpe.weight[6] = float("nan")
    # The first call reaches position 6, in its fifth step. The last call stops before.
    with pytest.raises(ValueError, match=r"row\(s\) \[0\]"):
        sample(model, [[1, 2, 3]], max_new_tokens=9, temperature=0, eos_token_id=None)
    first = sample(model, [[1]], max_new_tokens=1, temperature=0, eos_token_id=None)[0][0]
    assert sample(model, [[1]], max_new_tokens=9, temperature=0, eos_token_id=first) == [[]]


@pytest.fixture
def made(monkeypatch):
    """Record the address of each StepBuffers that is made, in order."""
    addresses = []

    class Counted(StepBuffers):
        def __init__(self, *args):
            addresses.append(id(self))
            super().__init__(*args)

    monkeypatch.setattr(captured_step, "StepBuffers", Counted)
    return addresses


def test_buffers_are_reused_for_other_prompts_temperatures_and_seeds(model, made):
    for seed in range(3):
        options: dict[str, Any] = {
            "max_new_tokens": 6,
            "temperature": 0.5 + seed,
            "top_k": 9,
            "seed": seed,
            "eos_token_id": None,
        }
        assert sample(model, [[seed, 2], [3]], **options) == plainly(
            model, [[seed, 2], [3]], **options
        )
    assert len(made) == 1


def test_weights_at_other_addresses_need_other_buffers(model, made):
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0, "eos_token_id": None}
    before = sample(model, [[1]], **options)
    model.load_state_dict({key: -tensor for key, tensor in model.state_dict().items()}, assign=True)
    after = sample(model, [[1]], **options)
    assert after == plainly(model, [[1]], **options) != before
    assert len(made) == 2


def test_two_generations_at_once_do_not_share_buffers(model):
    both = zip(
        *(sample_steps(model, [[1, 2]], 8, 1.0, None, seed, None) for seed in (1, 2)), strict=True
    )
    found = [list(tokens) for tokens in zip(*((a[0], b[0]) for a, b in both), strict=True)]
    wanted = [
        plainly(model, [[1, 2]], max_new_tokens=8, seed=seed, eos_token_id=None)[0]
        for seed in (1, 2)
    ]
    assert found == wanted


def test_each_thread_gets_the_tokens_that_it_gets_alone(model):
    options: list[dict[str, Any]] = [
        {"max_new_tokens": 8, "seed": seed, "eos_token_id": None, "top_k": 10} for seed in range(12)
    ]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: sample(model, [[1, 2]], **each), options))
    assert found == [plainly(model, [[1, 2]], **each) for each in options]


def test_abandoned_steps_give_their_buffers_back_and_only_some_are_kept(model, made):
    for _ in range(3):
        steps = sample_steps(model, [[1, 2]], 8, 1.0, None, 0, None)
        next(steps)
        assert isinstance(steps, Generator)
        steps.close()
    assert len(made) == 1
    for batch in range(1, 12):
        sample(model, [[1]] * batch, max_new_tokens=3, seed=0)
    assert len(captured_step._idle[model]) == captured_step.KEPT


def test_buffers_are_freed_with_their_model(tiny):
    gc.collect()
    before = len(captured_step._idle)
    model = copy.deepcopy(tiny)
    sample(model, [[1]], max_new_tokens=3, seed=0)
    assert len(captured_step._idle) == before + 1
    del model
    gc.collect()
    assert len(captured_step._idle) == before


def test_the_cache_is_read_in_buckets(monkeypatch, tiny):
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(StepBuffers, "_run", recorded(StepBuffers._run, calls))
    sample(tiny, [[1, 2]], max_new_tokens=12, seed=0, eos_token_id=None)
    assert [seen for _buffers, _model, seen in calls] == [4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 13]
