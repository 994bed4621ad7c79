"""`nn.Linear` at the memory's speed: a decode step reads every weight once, for one row of numbers or a few.

On the CPU products go to oneDNN instead of torch's own choice, which is MKL. `python -m benchmarks.products` compares them; on
an AMD EPYC with two cores whose memory gives 48 GB/s, one row by float32 weights took 38 GB/s where MKL took 18, and many rows
were twice as fast too. bfloat16 weights must be in oneDNN's own blocked order for that: 34 GB/s against 20. An Intel Xeon whose
memory gives 31 GB/s is the other way round for float32 matrices in the order of a checkpoint: 17 and 30 GB/s.
"""

from __future__ import annotations

import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

# The operators that torch.compile's own code calls. Without oneDNN in the build, or the instructions, there are none.
_onednn = torch.ops.mkldnn
_FLOAT32 = torch.backends.mkldnn.is_available() and hasattr(_onednn, "_linear_pointwise")
_BFLOAT16 = (
    _FLOAT32 and hasattr(_onednn, "_reorder_linear_weight") and _onednn._is_mkldnn_bf16_supported()
)


def _made_by_intel() -> bool:
    """Whether MKL, which is Intel's, takes its fast paths."""
    cpuinfo = Path("/proc/cpuinfo")
    return "GenuineIntel" in (
        cpuinfo.read_text(errors="replace") if cpuinfo.exists() else platform.processor()
    )


_MKL = torch.backends.mkl.is_available() and _made_by_intel()

_FEW = (
    64  # rows, up to which it is the weights that take the time: more are not worth a copy of them
)

# Weight -> where and in which version it was packed, and the packed copy, which goes when the weight does.
_packed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class Linear(nn.Linear):
    """As nn.Linear in everything but speed."""

    def reset_parameters(self) -> None:
        """At random, but not on the meta device, where `uniform_` makes torch 2.4 import sympy, which takes a second."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, [..., in] and [out, in] -> [..., out]: F.linear, to rounding.

    For a few rows by bfloat16 weights on the CPU a second, blocked copy of the weights is made, and kept.
    """
    # These operators have no gradient, autocast does not know them, and torch.compile chooses kernels itself.
    differentiated = torch.is_grad_enabled() and (weight.requires_grad or x.requires_grad)
    plain = not (
        differentiated or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    )
    if plain and weight.device.type == "cpu" and x.dtype == weight.dtype:
        in_out = weight.stride(0) == 1  # as a checkpoint stores it
        if _FLOAT32 and weight.dtype == torch.float32 and not (_MKL and in_out):
            return _onednn._linear_pointwise(x, weight, bias, "none", [], "")
        if (
            _BFLOAT16
            and weight.dtype == torch.bfloat16
            and x.numel() <= _FEW * x.size(-1)
            and not weight.is_inference()
        ):
            return _onednn._linear_pointwise(x, packed(weight), bias, "none", [], "")
    return F.linear(x, weight, bias)


def packed(weight: Tensor) -> Tensor:
    """The weight in oneDNN's blocked order: a copy, made anew when the weight has changed."""
    version = weight.data_ptr(), weight._version
    if _packed.get(weight, (None, None))[0] != version:
        _packed[weight] = version, _onednn._reorder_linear_weight(weight.detach().contiguous(), 1)
    copy: Tensor = _packed[weight][1]
    return copy
