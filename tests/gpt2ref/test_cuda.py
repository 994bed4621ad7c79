"""gpt2ref on CUDA, which is emulated where there is none: the captured loop, and what breaks it."""

from __future__ import annotations

import copy
import gc
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2ref import GPT2, KVCache, from_tensors, generate, load_checkpoint, sample
from gpt2ref.cli import main
from gpt2ref.fast import captured_step, slower, step_buffers
from gpt2ref.fast.step_buffers import StepBuffers
from gpt2ref.generation import sample_steps
from tests.shared import cuda_emulation, cuda_streams
from tests.shared.cuda_emulation import emulated_cuda
from tests.shared.cuda_streams import CudaError

OPTIONS: dict[str, Any] = {"max_new_tokens": 9, "top_k": 9, "seed": 1, "eos_token_id": None}
PROMPTS = [[1, 2], [3]]


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(step_buffers, "BUCKET", 4)
    monkeypatch.setattr(slower, "_said", set())
    with emulated_cuda():
        yield
    captured_step._idle.clear()


@pytest.fixture
def there(tiny: GPT2) -> GPT2:
    return copy.deepcopy(tiny).to("cuda")


def check(there: GPT2, here: GPT2, prompts: list[list[int]] = PROMPTS, **options: Any) -> None:
    options = OPTIONS | options
    assert sample(there, prompts, **options) == sample(here, prompts, **options)


def check_threads(there: GPT2, here: GPT2) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(check, there, here, seed=seed) for seed in range(4)]:
            done.result()


def test_a_model_of_the_second_device_generates_there(tiny: GPT2) -> None:
    second = copy.deepcopy(tiny).to("cuda:1")
    check(second, tiny)
    check(copy.deepcopy(tiny).to("cuda"), tiny)
    check(second, tiny, seed=2)
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("default", ["cuda", "meta"])
def test_torchs_default_device_changes_nothing(tiny: GPT2, there: GPT2, default: str) -> None:
    expected = sample(tiny, PROMPTS, **OPTIONS)
    torch.set_default_device(default)
    try:
        assert sample(there, PROMPTS, **OPTIONS) == expected
        assert sample(tiny, PROMPTS, **OPTIONS) == expected
    finally:
        torch.set_default_device(None)


def test_threads_capture_one_after_the_other(
    tiny: GPT2, there: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = StepBuffers._run

    def slow(*arguments: Any) -> None:
        run(*arguments)
        time.sleep(0.002)  # the other threads go on

    def refused(_device: object = None) -> None:
        raise RuntimeError("the other threads would wait")

    monkeypatch.setattr(torch.cuda, "synchronize", refused)
    monkeypatch.setattr(torch.cuda, "empty_cache", refused)
    monkeypatch.setattr(StepBuffers, "_run", slow)
    check_threads(there, tiny)
    captured_step._idle.clear()
    monkeypatch.setattr(step_buffers, "_one_capture", nullcontext())
    # The second capture is refused, or the operators of two threads are in one graph.
    with pytest.raises((RuntimeWarning, CudaError)):
        check_threads(there, tiny)
    gc.collect()


def abandon(there: GPT2, stream: torch.cuda.Stream) -> None:
    """Begin a generation in a stream, and leave its steps to the device."""
    with torch.cuda.stream(stream):
        steps = sample_steps(there, PROMPTS, 9, 1.0, 9, 0, None)
        next(steps), next(steps)
        del steps


def test_buffers_that_another_stream_still_computes_in_are_waited_for(
    tiny: GPT2, there: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin_elsewhere() -> None:
        abandon(there, torch.cuda.Stream())
        with torch.cuda.stream(torch.cuda.Stream()):
            check(there, tiny)

    begin_elsewhere()
    monkeypatch.setattr(cuda_streams.Stream, "wait_event", lambda *_: None)
    with pytest.raises((AssertionError, IndexError)):
        begin_elsewhere()
    gc.collect()


def test_a_generation_stays_in_the_stream_in_which_it_began(
    tiny: GPT2, there: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured_step, "LAG", 1)
    steps = sample_steps(there, PROMPTS, 9, 1.0, 9, 1, None)
    found: list[list[int]] = [[], []]
    for _ in range(9):
        with torch.cuda.stream(torch.cuda.Stream()):
            for row, token_id in next(iter(steps)).items():
                found[row].append(token_id)
    assert found == sample(tiny, PROMPTS, **OPTIONS)


@pytest.mark.parametrize("forgets", [True, False])
def test_dropped_graphs_take_nothing_from_others(
    tiny: GPT2, there: GPT2, monkeypatch: pytest.MonkeyPatch, forgets: bool
) -> None:
    if not forgets:
        monkeypatch.setattr(step_buffers, "_forget_workspaces", lambda: None)
    monkeypatch.setattr(captured_step, "KEPT", 2)
    # The first and the third have the same stream, and the second and third stay.
    for batch in (1, 2, 3):
        check(there, tiny, [[1]] * batch)
    if forgets:  # no graph's workspace is left to others
        assert all(memory.pool is None for memory in cuda_streams.workspaces.values())
    torch._C._cuda_clearCublasWorkspaces()  # as anyone may
    with nullcontext() if forgets else pytest.raises(CudaError, match="cuBLAS workspace"):
        check(there, tiny, [[1]] * 3)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_nan_that_is_left_in_reused_memory_changes_nothing(
    tiny: GPT2, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr("gpt2ref.generation.make_steps", captured_step.CapturedDecodeSteps)
    model = copy.deepcopy(tiny).to(device)
    weight = model.transformer.wpe.weight

    def spoil_and_check() -> None:
        right = weight[6].clone()
        with torch.no_grad():
            weight[6] = float("nan")
            with pytest.raises(ValueError, match="no token can be chosen"):
                sample(model, [[1, 2, 3]], **OPTIONS)
            weight[6] = right
        assert sample(model, [[1]], **OPTIONS) == expected

    expected = sample(copy.deepcopy(tiny), [[1]], **OPTIONS)
    spoil_and_check()
    monkeypatch.setattr(KVCache, "forget_beyond", lambda *_: None)
    captured_step._idle.clear()
    with pytest.raises(ValueError, match="no token can be chosen"):
        spoil_and_check()


def count_captures(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    made: list[object] = []
    begin = cuda_streams.Graph.capture_begin

    def counted(graph: cuda_streams.Graph, **options: Any) -> None:
        made.append(options["pool"])
        begin(graph, **options)

    monkeypatch.setattr(cuda_streams.Graph, "capture_begin", counted)
    return made


def test_options_that_change_nothing_share_a_capture(
    tiny: GPT2, there: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_captures(monkeypatch)
    for top_k in (None, 1, 40, 97):
        check(there, tiny, temperature=0, top_k=top_k)
    assert len(made) == 3  # buckets
    for top_k in (None, 97, 1000):
        check(there, tiny, top_k=top_k)
    assert len(made) == 6
    assert len(set(made)) == 2  # the graphs of one generation share a pool


def test_idle_buffers_take_a_share_of_the_memory(
    there: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in (1, 2, 3):
        sample(there, [[1]] * batch, **OPTIONS)
    idle = captured_step._idle[there]
    assert [each.captured.batch for each in idle] == [1, 2, 3]
    taken = sum(each.n_bytes for each in idle)
    monkeypatch.setattr(captured_step, "KEPT_SHARE", cuda_emulation.TOTAL_BYTES / (taken - 1))
    sample(there, [[1]] * 2, **OPTIONS)
    assert [each.captured.batch for each in idle] == [3, 2]


def test_dropped_buffers_are_not_computed_in_any_more(
    there: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandon(there, torch.cuda.Stream())
    assert any(queue.pending for queue in cuda_streams.queues)
    monkeypatch.setattr(captured_step, "KEPT_SHARE", cuda_emulation.TOTAL_BYTES)
    abandon(there, torch.cuda.Stream())
    assert not captured_step._idle[there]
    assert not any(queue.pending for queue in cuda_streams.queues)


def test_buffers_that_come_back_within_a_capture_are_not_waited_for(
    there: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(there, PROMPTS, **OPTIONS)
    (buffers,) = captured_step._idle[there]
    monkeypatch.setattr(captured_step, "KEPT", 1)  # so the second to come drops the first
    with torch.cuda.stream(torch.cuda.Stream()):
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin()
        captured_step._give_back(there, buffers)
        graph.capture_end()


MISTAKES: dict[str, Any] = {
    "waits": lambda buffers: int(buffers.positions.max()),
    "looks": lambda buffers: buffers.chosen.tolist(),
    "host": lambda buffers: buffers.positions.add_(torch.ones(2, 1, dtype=torch.int64)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_capture_that_fails_is_told_once_and_changes_no_token(
    tiny: GPT2, there: GPT2, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = StepBuffers._run

    def mistaken(buffers: StepBuffers, model: GPT2, bucket: int) -> None:
        if torch.cuda.is_current_stream_capturing():
            MISTAKES[name](buffers)
        run(buffers, model, bucket)

    monkeypatch.setattr(StepBuffers, "_run", mistaken)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check(there, tiny)
        check(there, tiny, temperature=0)
    (only,) = told
    assert only.category is RuntimeWarning
    assert str(only.message).startswith("no CUDA graph could be captured (")
    assert str(only.message).endswith("so generation is slower. The tokens are the same.")


def forget_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_streams.Event, "synchronize", lambda _: None)


def forget_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def captured(buffers: StepBuffers, model: GPT2, bucket: int) -> None:
        buffers.graphs[bucket] = buffers._capture(model, bucket)

    monkeypatch.setattr(StepBuffers, "_try_to_capture", captured)


def take_the_first_devices_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    first = torch.cuda.Stream(0)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: first)


def free_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    run = StepBuffers._run

    def forgetful(buffers: StepBuffers, model: GPT2, bucket: int) -> None:
        with torch.cuda.device(buffers.device):
            if not torch.cuda.is_current_stream_capturing():
                buffers.number = buffers.number + 0
        run(buffers, model, bucket)
        buffers.number = buffers.number.clone()

    monkeypatch.setattr(StepBuffers, "_run", forgetful)


PLANTED = [forget_the_event, forget_the_state, take_the_first_devices_stream, free_a_tensor]


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_mistake_is_found(
    tiny: GPT2, monkeypatch: pytest.MonkeyPatch, plant: Any
) -> None:
    second = copy.deepcopy(tiny).to("cuda:1")
    plant(monkeypatch)
    with pytest.raises((AssertionError, CudaError, IndexError, ValueError)):
        check(second, tiny)
    gc.collect()  # the error keeps the loop's frame, which gives its buffers back


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_text_is_the_cpu_s_and_cudnn_plans_nothing(folder: Path, dtype: torch.dtype) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "seed": 5, "top_k": 40}
    here = load_checkpoint(folder, dtype=dtype)
    for parameter in here.parameters():  # half precision rounds otherwise with another layout
        parameter.data = parameter.contiguous()
    prompts = ["Once upon a time", ""]
    expected = generate(prompts, here, **options)
    assert torch.backends.cuda.cudnn_sdp_enabled()
    assert generate(prompts, folder, device="cuda", dtype=dtype, **options) == expected
    assert not cuda_emulation.plans
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_weights_are_contiguous(folder: Path, tiny: GPT2) -> None:
    tensors = {key: tensor.to("cuda") for key, tensor in tiny.state_dict().items()}
    models = [
        load_checkpoint(folder, device="cuda"),
        from_tensors({k: t.t().contiguous().t() for k, t in tensors.items()}, tiny.config),
    ]
    for model in models:
        assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_the_command_prints_the_same_text(
    folder: Path, model: GPT2, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = generate("Once", model, max_new_tokens=5, seed=4) + "\n"
    arguments = ["Once", "--model", str(folder), "--max-new-tokens", "5", "--seed", "4"]
    assert main([*arguments, "--device", "cuda:1"]) == 0
    assert capsys.readouterr().out == expected
