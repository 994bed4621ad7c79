"""Streams, events and graphs of CUDA, emulated: what is queued happens late.

A replay, a copy to pinned memory and the wait for an event of another stream are queued. They
happen when an operator follows in the same stream, or when the host waits. While the host waits,
the other streams go first: so work that nothing has waited for comes at the worst time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, cycle
from typing import Any
from weakref import ReferenceType, WeakSet, WeakValueDictionary

import torch

from tests.shared.cuda_recorder import Step

N_DEVICES = 2
N_STREAMS = 2  # torch has 32 for each device, and makes the next `torch.cuda.Stream` of the first
NOT_PERMITTED = "operation not permitted when stream is capturing"


class CudaError(RuntimeError):
    """Is raised for what CUDA, or torch for it, refuses."""


class Memory:
    """An allocation. It lies in a graph's pool if a capture has made it."""

    def __init__(self, device: int, n_bytes: int, pool: int | None) -> None:
        self.device, self.n_bytes, self.pool = device, n_bytes, pool


class Queue:
    """The work of a stream."""

    def __init__(self, device: int, *, is_default: bool) -> None:
        self.device, self.is_default = device, is_default
        self.pending: deque[Callable[[], None]] = deque()
        self.capturing: Graph | None = None

    def finish(self, until: Callable[[], bool] = lambda: False) -> None:
        """Do what is queued, as an operator in this stream comes after it."""
        with lock:
            while self.pending and not until():
                self.pending.popleft()()

    def wait(self, what: str, until: Callable[[], bool] = lambda: False) -> None:
        """Let the host wait."""
        refuse_in_capture(what)
        with lock:
            for other in queues:
                if other is not self:
                    other.finish()
            self.finish(until)


class Local(threading.local):
    """The current device and streams of a thread, and the graph that it captures."""

    def __init__(self) -> None:
        self.device = 0
        self.current = [queues[device] for device in range(N_DEVICES)]
        self.capturing: Graph | None = None


lock = threading.RLock()
queues = [Queue(device, is_default=True) for device in range(N_DEVICES)]
_others = [
    [Queue(device, is_default=False) for _ in range(N_STREAMS)] for device in range(N_DEVICES)
]
queues += [each for others in _others for each in others]
_next = [cycle(each) for each in _others]
_pools = count(1)
local = Local()
memories: WeakValueDictionary[int, Memory] = WeakValueDictionary()  # by address
graphs: WeakSet[Graph] = WeakSet()
workspaces: dict[Queue, Memory] = {}  # cuBLAS has one for each stream
under_way: list[Graph] = []  # the captures


def refuse_in_capture(what: str) -> None:
    """Raise an error if this thread captures, or any thread does in the mode "global"."""
    for graph in under_way:
        if graph is local.capturing or graph.mode == "global":
            graph.invalid = True
            raise CudaError(f"{what}: {NOT_PERMITTED}")


def index_of(device: Any) -> int:
    if device is None:
        return local.device
    if isinstance(device, int):
        return device
    index = torch.device(device).index
    return local.device if index is None else index


class Stream:
    def __init__(self, device: Any = None) -> None:
        self.queue = next(_next[index_of(device)])

    @classmethod
    def of(cls, queue: Queue) -> Stream:
        made = cls.__new__(cls)
        made.queue = queue
        return made

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if event.queue not in (None, self.queue):
            self.queue.pending.append(event.finish_recorded())

    def wait_stream(self, stream: Stream) -> None:
        self.wait_event(stream.record_event())

    def synchronize(self) -> None:
        self.queue.wait("synchronize")


class Event:
    def __init__(self, *_: Any, **__: Any) -> None:
        self.queue: Queue | None = None
        self.recorded = self.reached = 0

    def record(self, stream: Stream | None = None) -> None:
        self.queue = (stream or current_stream()).queue
        self.recorded += 1
        number = self.recorded
        self.queue.pending.append(lambda: setattr(self, "reached", number))

    def finish_recorded(self) -> Callable[[], None]:
        queue, number = self.queue, self.recorded
        assert queue is not None
        return lambda: queue.finish(lambda: self.reached >= number)

    def query(self) -> bool:
        return self.reached == self.recorded

    def synchronize(self) -> None:
        if self.queue is not None:
            number = self.recorded
            self.queue.wait("synchronize an event", lambda: self.reached >= number)


class Graph:
    """torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.uses: list[ReferenceType[Memory]] = []  # memory that lies outside its pool
        self.workspace: Memory | None = None
        self.id: int | None = None
        self.invalid = False
        self.queue = queues[0]

    def capture_begin(self, pool: int | None = None, capture_error_mode: str = "global") -> None:
        queue = local.current[local.device]
        if queue.is_default:
            raise CudaError("CUDA graphs must be captured on a non-default stream")
        with lock:
            if under_way:
                raise CudaError(f"a second capture at once: {NOT_PERMITTED}")
            self.queue, self.mode = queue, capture_error_mode
            self.id = next(_pools) if pool is None else pool
            self.steps = []
            under_way.append(self)
        graphs.add(self)
        queue.capturing = local.capturing = self

    def capture_end(self) -> None:
        self.queue.capturing = local.capturing = None
        under_way.remove(self)
        if self.invalid:
            raise CudaError("operation failed due to a previous error during capture")

    def pool(self) -> int | None:
        return self.id

    def replay(self) -> None:
        refuse_in_capture("replay")
        assert self.id is not None, "nothing was captured"
        self.check()
        local.current[local.device].pending.append(self.run)

    def check(self) -> None:
        if any(used() is None for used in self.uses):
            raise CudaError("illegal memory access: the graph reads memory that has been freed")
        if self.workspace and not is_there(self.workspace):
            raise CudaError("illegal memory access: the cuBLAS workspace has been freed")

    def run(self) -> None:
        with torch.inference_mode(), torch._C.DisableTorchFunction():
            for step in self.steps:
                step.replay()

    def reset(self) -> None:
        workspaces.pop(self.queue, None)  # whichever graph it belongs to, as torch 2.13 does

    def __del__(self) -> None:
        self.reset()


def is_there(memory: Memory) -> bool:
    """Return whether a workspace is still allocated, or a part of a pool that graphs have."""
    if memory.pool is None:
        return memory in workspaces.values()
    return any(graph.id == memory.pool for graph in graphs)


def use_workspace(queue: Queue) -> None:
    """Compute a matrix product in this stream."""
    graph = queue.capturing
    memory = workspaces.setdefault(queue, Memory(queue.device, 0, graph.id if graph else None))
    if graph:
        graph.workspace = memory


def current_stream(device: Any = None) -> Stream:
    return Stream.of(local.current[index_of(device)])


@contextmanager
def on_stream(stream: Stream) -> Iterator[None]:
    """torch.cuda.stream: the stream is current, and so is its device."""
    device, queue = stream.queue.device, stream.queue
    before = local.device, local.current[device]
    local.device, local.current[device] = device, queue
    try:
        yield
    finally:
        local.device, local.current[device] = before


@contextmanager
def on_device(device: Any) -> Iterator[None]:
    before, local.device = local.device, index_of(device)
    try:
        yield
    finally:
        local.device = before


def synchronize(device: Any = None) -> None:
    with lock:
        for graph in under_way:
            graph.invalid = True
            raise CudaError(f"synchronize {device or 'the device'}: {NOT_PERMITTED}")
        for queue in queues:
            queue.finish()


class TorchGraph:
    """torch.cuda.graph, with the stream that it makes once for all devices."""

    stream: Stream | None = None

    def __init__(self, graph: Graph, **options: Any) -> None:
        if TorchGraph.stream is None:
            TorchGraph.stream = Stream()
        self.graph, self.options = graph, options
        self.context = on_stream(options.pop("stream", TorchGraph.stream))

    def __enter__(self) -> None:
        synchronize()
        self.context.__enter__()
        self.graph.capture_begin(**self.options)

    def __exit__(self, *error: Any) -> None:
        self.graph.capture_end()
        self.context.__exit__(*error)
