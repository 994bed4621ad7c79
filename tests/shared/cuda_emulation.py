"""Two CUDA devices, emulated: tensors say `cuda:0` or `cuda:1` and compute on the CPU.

As on a real one, operators refuse tensors of two devices; a capture records and computes nothing;
what a capture can't do raises; a replay computes in the same memory, late; pinned memory contains
nothing of use before its event; a graph that reads freed memory faults. `cuda_streams` has streams
and graphs. Kernels, their rounding, speed, and the reuse of freed memory by another stream are not
emulated. Threads that start within the emulation have it too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock
from weakref import WeakSet, ref

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from gpt2ref.fast import device_sampler
from tests.shared import cuda_streams
from tests.shared.cuda_recorder import Recorder, leaves, mapped, poison
from tests.shared.cuda_streams import CudaError, Memory, local, memories, refuse_in_capture

CPU = torch.device("cpu")
DEVICES = {f"cuda:{i}": torch.device("cuda", i) for i in range(cuda_streams.N_DEVICES)}
TOTAL_BYTES = 2**30
ATTRIBUTES: dict[Any, Any] = {
    Tensor.device.__get__: lambda device: device,
    Tensor.is_cpu.__get__: lambda _: False,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__: lambda _: True,  # type: ignore[attr-defined]
}
# The host waits for what these return.
LOOKS: set[Any] = {Tensor.tolist, Tensor.item, Tensor.cpu, Tensor.numpy, Tensor.nonzero}
LOOKS |= {Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__}
LOOKS |= {Tensor.equal, torch.equal, torch.nonzero, torch.allclose, Tensor.__contains__}
# These are known without the device.
KNOWN: set[Any] = {Tensor.size, Tensor.dim, Tensor.stride, Tensor.numel, Tensor.__len__}
KNOWN |= {Tensor.data_ptr, Tensor.is_contiguous, Tensor.is_floating_point, Tensor.untyped_storage}
KNOWN |= {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "nbytes", "ndim", "requires_grad", "layout", "is_meta")
}
# These draw from a device's own generator. That of the CPU is then as it was.
DRAWS: set[Any] = {torch.rand, torch.randn, torch.randint, torch.multinomial, torch.bernoulli}
DRAWS |= {Tensor.normal_, Tensor.uniform_, Tensor.random_, Tensor.exponential_, Tensor.multinomial}
generators = [torch.Generator("cpu") for _ in DEVICES]
pinned: WeakSet[Tensor] = WeakSet()
plans: set[Any] = set()  # shapes for which cuDNN attention was planned


class CUDATensor(Tensor):
    """A tensor of a device. Its numbers are in `numbers`, on the CPU."""

    numbers: Tensor
    memory: Memory
    place: torch.device

    @staticmethod
    def __new__(cls, numbers: Tensor, device: torch.device) -> CUDATensor:
        made = Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=numbers.dtype, device=device)
        made.numbers, made.place = numbers, device
        address = numbers.untyped_storage().data_ptr()
        memory = memories.get(address) if address else None
        if memory is None:
            graph = local.capturing
            pool = graph.id if graph else None
            memory = Memory(device.index, numbers.untyped_storage().nbytes(), pool)
            memories[address] = memory
        made.memory = memory
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        users = [each for each in leaves((args, kwargs)) if isinstance(each, CUDATensor)]
        device = users[0].place
        if func in ATTRIBUTES:
            return ATTRIBUTES[func](device)
        if func in KNOWN:
            return func(on_cpu(args[0]), *args[1:], **kwargs)
        check(func, args, kwargs, device)
        target = asked_for(args, kwargs)
        if func is Tensor.copy_ and not isinstance(args[0], CUDATensor):
            return copy_to_host(*args, **kwargs)
        if func in LOOKS or target == CPU:
            queue_of(device).wait(f"{func.__name__} of a tensor")
        if func is Tensor.copy_ and is_of_the_cpu(args[1]) and args[1].dim():
            refuse_in_capture("copy_ from the host")
        if func is F.linear:
            cuda_streams.use_workspace(queue_of(device))
        result = computed(func, args, kwargs, device)
        if func is Tensor.cpu or target == CPU:
            return result.clone()
        if args and isinstance(args[0], Tensor) and result is on_cpu(args[0]):
            if target in (None, device):
                return args[0]  # changed in place, or not at all
            result = result.clone()
        return mapped(lambda each: on_device(each, target or device), result)

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        raise NotImplementedError(
            f"{func}: called without a function of torch, which the emulation can't follow"
        )


class Functions(TorchFunctionMode):
    """Makes and moves the tensors that are asked for on a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _device_constructors():
            kwargs.setdefault("device", default_device())
            if kwargs.pop("pin_memory", False):
                return pin(func, args, kwargs)
        if func is torch.as_tensor and isinstance(args[0], CUDATensor):
            return args[0]  # torch does not ask the class
        device = asked_for(args, kwargs)
        if func is torch.device or device is None or device.type != "cuda":
            return func(*args, **kwargs)
        if args and isinstance(args[0], CUDATensor):
            return func(*args, **kwargs)
        if func in (torch.tensor, torch.as_tensor) or (args and is_of_the_cpu(args[0])):
            refuse_in_capture(f"{func.__name__} from the host")
        result = computed(func, args, kwargs, device)
        if not isinstance(result, Tensor):  # it only reads its arguments
            return func(*args, **kwargs)
        if args and result is args[0]:
            result = result.clone()
        return on_device(result, device)


def computed(func: Any, args: Any, kwargs: Any, device: torch.device) -> Any:
    """Compute on the CPU, or record it if the device's current stream is being captured."""
    users = [each for each in leaves((args, kwargs)) if isinstance(each, CUDATensor)]
    args, kwargs = mapped(on_cpu, args), mapped(on_cpu, kwargs)
    if func in DRAWS and kwargs.get("generator") is None:
        kwargs = kwargs | {"generator": generators[device.index]}
    queue = queue_of(device)
    graph = queue.capturing
    if graph is None:
        queue.finish()
        return func(*args, **kwargs)
    graph.uses += [ref(each.memory) for each in users if each.memory.pool != graph.id]
    with Recorder(graph.steps, refuse_in_capture):
        return func(*args, **kwargs)


def copy_to_host(target: Tensor, source: CUDATensor, non_blocking: bool = False) -> Tensor:
    """Copy to the host: into pinned memory late, if asked to, and else at once."""
    queue = queue_of(source.place)
    if not (non_blocking and target in set(pinned)):
        queue.wait("copy_ to the host")
        return target.copy_(source.numbers)
    if queue.capturing:
        raise CudaError("a copy to pinned memory in a capture is not emulated")
    poison(target)

    def arrive() -> None:
        with torch.inference_mode():
            target.copy_(source.numbers)

    queue.pending.append(arrive)
    return target


def pin(func: Any, args: Any, kwargs: Any) -> Tensor:
    if asked_for((), kwargs) not in (None, CPU):
        raise RuntimeError("Only dense CPU tensors can be pinned")
    made: Tensor = func(*args, **kwargs)
    pinned.add(made)
    return made


def default_device() -> torch.device | str | None:
    """Return what `torch.set_default_device` was given, or `with torch.device`."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def queue_of(device: torch.device) -> cuda_streams.Queue:
    return local.current[device.index]


def asked_for(args: Any, kwargs: Any) -> torch.device | None:
    """Return the device that is among the arguments."""
    for each in (*args, *kwargs.values()):
        if isinstance(each, str) and each.split(":")[0] in ("cpu", "cuda"):
            each = torch.device(each)
        if isinstance(each, torch.device):
            is_cuda = each.type == "cuda"
            return torch.device("cuda", cuda_streams.index_of(each)) if is_cuda else each
    return None


def check(func: Any, args: Any, kwargs: Any, device: torch.device) -> None:
    """Raise what CUDA and torch raise."""
    if func is Tensor.numpy:
        raise TypeError(f"can't convert {device} device type tensor to numpy. Use Tensor.cpu()")
    if func is F.scaled_dot_product_attention:
        check_attention(args, kwargs.get("attn_mask"), queue_of(device))
    values = leaves((args, kwargs))
    places = {each.place for each in values if isinstance(each, CUDATensor) and each.numbers.dim()}
    if func in (Tensor.__getitem__, Tensor.__setitem__):  # indices may be the CPU's
        values = leaves((args[0], *args[2:]))
        if local.capturing:
            refuse_host_indices(args[1])
    elif func in (Tensor.copy_, torch._has_compatible_shallow_copy_type):
        return
    if len(places) > 1 or any(each.dim() for each in values if is_of_the_cpu(each)):
        other = (places - {device} or {CPU}).pop()
        raise RuntimeError(
            f"{func.__name__}: Expected all tensors to be on the same device, "
            f"but found at least two devices, {device} and {other}!"
        )


def refuse_host_indices(index: Any) -> None:
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(each, list) or is_of_the_cpu(each) for each in parts):
        refuse_in_capture("an index of the host")


def check_attention(args: Any, mask: Tensor | None, queue: cuda_streams.Queue) -> None:
    if mask is not None and on_cpu(mask).dtype == torch.bool and queue.capturing:
        raise CudaError("attention with a boolean mask fails in a capture, see pytorch #130712")
    if torch.backends.cuda.cudnn_sdp_enabled() and on_cpu(args[0]).dtype.itemsize == 2:
        plans.add(on_cpu(args[1]).shape)


def on_cpu(each: Any) -> Any:
    if isinstance(each, CUDATensor):
        return each.numbers
    is_name = isinstance(each, str) and each.split(":")[0] == "cuda"
    return CPU if is_name or isinstance(each, torch.device) else each


def on_device(each: Any, device: torch.device) -> Any:
    return CUDATensor(each, device) if is_of_the_cpu(each) else each


def is_of_the_cpu(each: Any) -> bool:
    return isinstance(each, Tensor) and not isinstance(each, CUDATensor)


def generator_of(device: Any) -> torch.Generator:
    return generators[cuda_streams.index_of(device)]


def allocated(device: Any = None) -> int:
    index = cuda_streams.index_of(device)
    return sum(each.n_bytes for each in list(memories.values()) if each.device == index)


NAMES: dict[str, Any] = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "device_count": lambda: cuda_streams.N_DEVICES,
    "current_device": lambda: local.device,
    "set_device": lambda device: setattr(local, "device", cuda_streams.index_of(device)),
    "device": cuda_streams.on_device,
    "stream": cuda_streams.on_stream,
    "Stream": cuda_streams.Stream,
    "Event": cuda_streams.Event,
    "CUDAGraph": cuda_streams.Graph,
    "graph": cuda_streams.TorchGraph,
    "graph_pool_handle": lambda: next(cuda_streams._pools),
    "current_stream": cuda_streams.current_stream,
    "is_current_stream_capturing": lambda: local.current[local.device].capturing is not None,
    "synchronize": cuda_streams.synchronize,
    "empty_cache": lambda: refuse_in_capture("empty_cache"),
    "memory_allocated": allocated,
    "max_memory_allocated": allocated,
    "get_rng_state": lambda device=None: generator_of(device).get_state(),
    "set_rng_state": lambda state, device=None: generator_of(device).set_state(state),
    "manual_seed": lambda seed: generator_of(None).manual_seed(seed),
    "manual_seed_all": lambda seed: [each.manual_seed(seed) for each in generators],
    "reset_peak_memory_stats": lambda _=None: None,
    "mem_get_info": lambda device=None: (TOTAL_BYTES - allocated(device), TOTAL_BYTES),
    "get_device_properties": lambda _=None: SimpleNamespace(total_memory=TOTAL_BYTES),
    "get_device_name": lambda _=None: "emulated",
}


@contextmanager
def emulated_cuda(*, kernels: bool = False) -> Iterator[None]:
    """Give torch two CUDA devices, in this thread and in those that start meanwhile.

    With `kernels` the loop uses Triton's too, which `cuda_kernels` interprets: they take long.
    """
    run = threading.Thread.run

    def run_with_it(thread: threading.Thread) -> None:
        with Functions():
            run(thread)

    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    clear = cuda_streams.workspaces.clear
    try:
        with ExitStack() as stack:
            for name, value in NAMES.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, value))
            stack.enter_context(mock.patch.object(threading.Thread, "run", run_with_it))
            stack.enter_context(
                mock.patch.object(torch._C, "_cuda_clearCublasWorkspaces", clear, create=True)
            )
            if not kernels:
                without = mock.patch.object(device_sampler, "triton_sampler", return_value=None)
                stack.enter_context(without)
            stack.enter_context(Functions())
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwritten)
        forget()


def forget() -> None:
    """Drop what a failed test has left behind."""
    for queue in cuda_streams.queues:
        queue.pending.clear()
        queue.capturing = None
    cuda_streams.under_way.clear()
    cuda_streams.workspaces.clear()
    local.capturing = None
    plans.clear()


@contextmanager
def cuda() -> Iterator[None]:
    """Use the machine's CUDA device, or the emulated ones if it has none."""
    with nullcontext() if torch.cuda.is_available() else emulated_cuda():
        yield
