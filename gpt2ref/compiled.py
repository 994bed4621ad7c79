"""The products of a decode step in C, compiled for this machine when that is asked for.

oneDNN reads float32 weights at about 80% of the speed at which the memory gives them, the few lines of row_by_matrix.c at
95% (`python -m benchmarks.products`). With 124 million parameters, compiling takes as long as it saves in fifty tokens.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SOURCE = Path(__file__).parent / "row_by_matrix.c"
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_ARGUMENTS: list[Any] = [*[ctypes.c_void_p] * 4, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]  # of by_rows

library: ctypes.CDLL | None = None  # once it is compiled


def compile_products() -> None:
    """Compute decode steps by float32 weights on the CPU, one row at a time, in compiled C: in this process, from now on.

    Needs a C compiler with OpenMP ($CC, or cc), as Linux has it. The logits are the same to rounding. Raises RuntimeError,
    with the command and what came of it, if there is none or it fails; nothing is changed then.
    """
    global library
    compiler = shlex.split(os.environ.get("CC") or "cc")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "row_by_matrix.so")
        command = [*compiler, *_FLAGS, "-o", path, str(_SOURCE)]
        try:
            subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
            loaded = ctypes.CDLL(path)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{shlex.join(command)}\n{error.stderr}") from None
        except OSError as error:  # of the compiler, or of a file that can't be loaded
            raise RuntimeError(f"{shlex.join(command)}\n{error}") from None
    loaded.by_rows.argtypes = _ARGUMENTS
    loaded.by_columns.argtypes = [*_ARGUMENTS, ctypes.c_void_p]
    library = loaded


def row_by_matrix(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """x @ weight.T + bias, float32 [..., in] and [out, in] -> [..., out], where x is one row on the CPU; elsewhere None."""
    if library is None or not (_is_vector(x, weight.size(1)) and (bias is None or _is_vector(bias, weight.size(0)))):
        return None
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    n_out, n_in = weight.shape
    n_threads = torch.get_num_threads()
    y = x.new_empty(*x.shape[:-1], n_out)
    addresses = (weight.data_ptr(), x.data_ptr(), None if bias is None else bias.data_ptr(), y.data_ptr())
    if weight.is_contiguous():
        library.by_rows(*addresses, n_in, n_out, n_threads)
    elif weight.t().is_contiguous():
        sums = x.new_empty(n_threads, n_out)
        library.by_columns(*addresses, n_in, n_out, n_threads, sums.data_ptr())
    else:
        return None
    return y


def _is_vector(x: Tensor, size: int) -> bool:
    """Whether C, which can't check it, finds so many float32 numbers there, one after the other."""
    in_memory = x.dtype == torch.float32 and x.device.type == "cpu" and x.is_contiguous()
    return in_memory and x.size(-1) == size == x.numel()
