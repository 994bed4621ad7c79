"""Triton's kernels where there is no CUDA: its interpreter computes them on the CPU.

tests/__init__.py has Triton interpret. On the emulated devices a launch is queued, and in a capture
recorded, as an operator of torch is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from weakref import ref

import numpy as np
import torch

from tests.shared.cuda_emulation import CUDATensor, is_of_the_cpu, on_cpu, queue_of
from tests.shared.cuda_recorder import Step
from tests.shared.cuda_streams import CudaError, local


@contextmanager
def silent() -> Iterator[None]:
    """Let numpy compute with NaN and infinity as a GPU does, without a warning."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def interpreted_kernels() -> Iterator[None]:
    """Let Triton launch kernels on the emulated devices."""
    from triton.runtime.interpreter import InterpretedFunction

    run = InterpretedFunction.run

    def compute(kernel: Any, *args: Any, **options: Any) -> None:
        with torch._C.DisableTorchFunction(), silent():
            run(kernel, *args, **options)

    def launch(kernel: Any, *args: Any, **options: Any) -> None:
        users = [each for each in args if isinstance(each, CUDATensor)]
        here = torch.device("cuda", local.device)
        if any(map(is_of_the_cpu, args)) or any(each.place != here for each in users):
            raise CudaError(f"a kernel on {here} is given a tensor that lies elsewhere")
        queue = queue_of(here)
        arguments = [kernel, *map(on_cpu, args)]
        if graph := queue.capturing:
            graph.uses += [ref(each.memory) for each in users if each.memory.pool != graph.id]
            graph.steps.append(Step(compute, arguments, options))
        else:
            queue.finish()
            compute(*arguments, **options)

    with mock.patch.object(InterpretedFunction, "run", launch):
        yield
