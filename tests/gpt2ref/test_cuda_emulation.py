"""The emulated CUDA devices find the mistakes that real ones find, or that show there by luck."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.shared.cuda_emulation import CUDATensor, emulated_cuda
from tests.shared.cuda_streams import CudaError

CAPTURING = "not permitted when stream is capturing"
MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:"
FAULT = "illegal memory access"


@pytest.fixture(autouse=True)
def devices() -> Iterator[None]:
    with emulated_cuda():
        yield


def ones(*shape: int, device: str = "cuda") -> Tensor:
    return torch.ones(shape, device=device)


@contextmanager
def captured(graph: torch.cuda.CUDAGraph, **options: Any) -> Iterator[None]:
    with torch.cuda.stream(torch.cuda.Stream()):
        graph.capture_begin(capture_error_mode="thread_local", **options)
        yield
        graph.capture_end()


def attend(mask: Tensor) -> Tensor:
    queries = ones(1, 1, 2, 4)
    return F.scaled_dot_product_attention(queries, queries, queries, attn_mask=mask)


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "addition": (lambda: ones(2) + torch.ones(2), MIXED),
    "two devices": (lambda: ones(2) @ ones(2, device="cuda:1"), MIXED),
    "embedding": (lambda: F.embedding(torch.tensor([0]), ones(2, 3)), MIXED),
    "mask": (lambda: attend(torch.ones(1, 1, 2, 2)), MIXED),
    "assignment": (lambda: ones(3).__setitem__([0], torch.ones(1)), MIXED),
    "numpy": (lambda: ones(2).numpy(), "can't convert cuda:0 device type tensor"),
    "pinned": (lambda: torch.ones(2, device="cuda", pin_memory=True), "Only dense CPU tensors"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_raises(name: str) -> None:
    make, message = MISTAKES[name]
    with torch.inference_mode(), pytest.raises((RuntimeError, TypeError), match=message):
        make()


# Each is called with a tensor of the device, while this thread captures.
WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "number": lambda x: int(x[0]),
    "truth": lambda x: bool((x > 0).all()),
    "list": lambda x: x.tolist(),
    "copy": lambda x: x.cpu(),
    "to the host": lambda x: x.to("cpu"),
    "onto the host": lambda x: torch.zeros(2).copy_(x),
    "from the host": lambda x: x.copy_(torch.zeros(2)),
    "made there": lambda x: torch.tensor([1.0], device=x.device),
    "moved there": lambda x: torch.ones(2).to(x.device),
    "index of the host": lambda x: x[[0]],
    "nonzero": lambda x: x.nonzero(),
    "chosen by truth": lambda x: x[x > 0],
    "event": lambda _: torch.cuda.current_stream().record_event().synchronize(),
    "stream": lambda _: torch.cuda.current_stream().synchronize(),
    "device": lambda _: torch.cuda.synchronize(),
    "cache": lambda _: torch.cuda.empty_cache(),
    "bool mask": lambda _: attend(torch.ones(1, 1, 2, 2, device="cuda", dtype=torch.bool)),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_capture_that_waits_for_the_device_raises(name: str) -> None:
    x, graph = ones(2), torch.cuda.CUDAGraph()
    message = CAPTURING if name != "bool mask" else "a boolean mask fails in a capture"
    with torch.inference_mode(), pytest.raises(CudaError, match=message), captured(graph):
        WAITS[name](x)


def test_a_capture_that_has_failed_does_not_end_well() -> None:
    x, graph = ones(2), torch.cuda.CUDAGraph()
    with (
        pytest.raises(CudaError, match="due to a previous error"),
        captured(graph),
        pytest.raises(CudaError, match=CAPTURING),
    ):
        x.tolist()


def test_what_is_captured_happens_in_the_replay_and_with_the_numbers_of_then() -> None:
    x, y, graph = ones(2), torch.zeros(2, device="cuda"), torch.cuda.CUDAGraph()
    with captured(graph):
        twice = x * 2
        y.copy_(twice + torch.arange(2, device="cuda"))
        y[0] += x.topk(1).values[0]
    assert y.tolist() == [0, 0]
    assert twice.isnan().all()
    x.fill_(5)
    graph.replay()
    assert y.tolist() == [15, 11]
    assert isinstance(twice, CUDATensor)


@pytest.mark.parametrize("waits", [False, True])
def test_pinned_memory_contains_nothing_of_use_before_its_event(waits: bool) -> None:
    there = torch.tensor([7], device="cuda")
    here = torch.empty(1, dtype=torch.int64, pin_memory=True)
    here.copy_(there, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    if waits:
        event.synchronize()
    assert (here.tolist() == [7]) == waits == event.query()


@pytest.mark.parametrize("waits", [False, True])
def test_a_stream_does_not_wait_for_another_by_itself(waits: bool) -> None:
    x, graph = torch.zeros(1, device="cuda"), torch.cuda.CUDAGraph()
    with captured(graph):
        x.add_(1)
    one, other = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(one):
        graph.replay()
    with torch.cuda.stream(other):
        if waits:
            other.wait_stream(one)
        x.mul_(10)
        assert x.tolist() == ([10] if waits else [1])


def test_another_thread_that_captures_or_synchronises_fails() -> None:
    def second() -> None:
        with captured(torch.cuda.CUDAGraph()):
            pass

    x, graph = ones(2), torch.cuda.CUDAGraph()
    with ThreadPoolExecutor(1) as pool, captured(graph):
        assert pool.submit(x.tolist).result() == [1, 1]
        with pytest.raises(CudaError, match="a second capture at once"):
            pool.submit(second).result()
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(CudaError, match="previous error"),
        captured(graph),
        pytest.raises(CudaError, match=CAPTURING),
    ):
        pool.submit(torch.cuda.synchronize).result()


def test_torchs_own_capture_synchronises_and_takes_the_first_devices_stream() -> None:
    graph, y = torch.cuda.CUDAGraph(), torch.zeros(1, device="cuda:1")
    with torch.cuda.graph(torch.cuda.CUDAGraph()):  # its stream is made here, on cuda:0
        pass
    with torch.cuda.device(1), torch.cuda.graph(graph):
        y.add_(1)
    assert graph.steps == []  # type: ignore[attr-defined]
    assert y.tolist() == [1]
    with pytest.raises(CudaError, match=CAPTURING), captured(torch.cuda.CUDAGraph()):
        torch.cuda.graph(graph).__enter__()


def test_the_default_stream_is_not_captured() -> None:
    with pytest.raises(CudaError, match="on a non-default stream"):
        torch.cuda.CUDAGraph().capture_begin()


def test_a_graph_that_reads_freed_memory_faults() -> None:
    x, y, graph = ones(2), ones(2), torch.cuda.CUDAGraph()
    with captured(graph):
        inside = x + 1
        y.add_(inside.mul_(2))
    del inside  # it lies in the graph's pool
    graph.replay()
    assert y.tolist() == [5, 5]
    del x
    with pytest.raises(CudaError, match=FAULT):
        graph.replay()


@pytest.mark.parametrize("forgets", [False, True])
def test_graphs_of_one_stream_share_a_workspace_which_is_freed_with_one(forgets: bool) -> None:
    weight, x, stream = ones(2, 2), ones(1, 2), torch.cuda.Stream()
    made = []
    for _ in range(2):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            F.linear(x, weight)
            if forgets:
                torch._C._cuda_clearCublasWorkspaces()
            graph.capture_begin()
            F.linear(x, weight)
            graph.capture_end()
        made.append(graph)
    made.pop()
    del graph
    if forgets:
        made[0].replay()
        return
    with pytest.raises(CudaError, match=f"{FAULT}: the cuBLAS workspace"):
        made[0].replay()


def test_threads_that_start_have_the_devices() -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(torch.ones(2, device="cuda:1").device))
    thread.start()
    thread.join()
    assert found == [torch.device("cuda", 1)]


def test_what_cuda_computes_is_computed() -> None:
    with torch.inference_mode():
        x = torch.arange(6.0).view(2, 3).to("cuda")
        assert (x.device, x.dtype, x.is_cuda) == (torch.device("cuda", 0), torch.float32, True)
        assert x.double().dtype == torch.float64
        assert (x * 2 + 1)[torch.tensor([1])].tolist() == [[7, 9, 11]]  # indices may be the CPU's
        x[:, 0] = torch.tensor(5.0)  # and so may a single number
        assert x.cpu().tolist() == [[5, 1, 2], [5, 4, 5]]
        assert x.to("cuda:1").device == torch.device("cuda", 1)
        assert torch.ones(2).to(x.device).device == x.device
        assert torch.cuda.memory_allocated() >= 24


def test_each_device_has_a_generator_of_its_own() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=range(2)):
        first = torch.rand(2, device="cuda:1").tolist()
        assert torch.ones(9, device="cuda:1").multinomial(9).tolist() != list(range(9))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.rand(2, device="cuda:1").tolist() == first
    assert torch.rand(2, device="cuda:1").tolist() != first
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    assert torch.rand(2, device="cuda:1").tolist() == torch.rand(2).tolist() == first
