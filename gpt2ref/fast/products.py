"""Products with weights on the CPU, each in the way that is fastest on the machine at hand.

Which library multiplies float32 faster depends on the processor, the shape, the number of rows and
the order in which a weight is stored. So the ways are timed on the first weight that they are
needed for, and the choice is kept for the process. Without instructions for its numbers, a product
in half precision takes up to a hundred times as long as one in float32, and is computed in float32
then. The ways differ in rounding alone.

`choices` returns what was chosen and why. `use` overrides it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from time import perf_counter
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..devices import limit_threads
from ..model import GPT2, Block

Product = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]  # x, weight [out, in], bias [out]

HALF = (torch.bfloat16, torch.float16)
SMALL = 2**16  # numbers of a matrix, below which no choice matters
CONVERTED = 2**20  # numbers of a weight that are converted at once: caches have them in float32
TIMED = 2**23  # numbers that 8 rows are multiplied by to time a way: most caches have fewer
LEAST_TIMED = 2**20  # numbers for more rows
FEW = 4  # rows, by which a weight [out, in] in half precision is multiplied as fast as it is read
LACKING = 4  # where instructions are lacking, half precision takes more than so many times as long
MOST_ROWS = 256  # from here on, the ways take times that grow alike
GAIN = 0.9  # another way is taken if it takes less than this part of the time of torch's own
HOPELESS = 8  # a way that takes so many times as long in its first turn gets no other


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply in float32 by oneDNN, where torch itself takes the BLAS that it was built with."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def in_float32(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply numbers of half precision as float32, with parts of the weight one by one.

    oneDNN multiplies, if torch has it. It is not timed against the BLAS, since tokens would differ.
    """
    multiply = by_onednn if has_onednn() else F.linear
    x32, n = x.float(), max(1, CONVERTED // x.size(-1))
    parts = []
    for start in range(0, len(weight), n):
        part = weight[start : start + n].float()
        part_bias = None if bias is None else bias[start : start + n].float()
        parts.append(multiply(x32, part, part_bias).to(x.dtype))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


@cache
def has_onednn() -> bool:
    operators = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and hasattr(operators, "_linear_pointwise")


WAYS: dict[str, Product] = {"torch": F.linear, "onednn": by_onednn, "float32": in_float32}


@dataclass(frozen=True)
class Case:
    """A kind of product. `rows` is rounded up to a power of two, and at most 256."""

    dtype: torch.dtype
    n_in: int
    n_out: int
    order: str  # in which the weight is stored: "in_out", as in checkpoints, or "out_in"
    rows: int
    n_threads: int


@dataclass(frozen=True)
class Choice:
    """The way that was taken, and the seconds that each took for a part of a weight."""

    way: str
    seconds: Mapping[str, float]


_choices: dict[Case, Choice] = {}
_used: str | None = None  # the way that `use` has set
_lock = threading.Lock()


def choices() -> dict[Case, Choice]:
    """Return what was chosen so far in this process."""
    return dict(_choices)


def use(way: str | None) -> None:
    """Take one way for all products that it can compute, or (None) the fastest one again.

    "torch" is F.linear, "onednn" multiplies float32 by oneDNN, "float32" converts half precision.
    Raises ValueError for any other.
    """
    global _used
    if way is not None and way not in WAYS:
        raise ValueError(f"way={way!r}: expected {', '.join(WAYS)} or None")
    _used = way


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute what F.linear does: [..., in], [out, in], [out] -> [..., out]."""
    if weight.numel() < SMALL or not _is_plain(x, weight):
        return F.linear(x, weight, bias)
    n_rows = x.numel() // x.size(-1)
    ways = possible(weight.dtype)
    way = "torch"
    if len(ways) > 1:
        way = choice(n_rows, weight).way if _used is None else _used
    return WAYS[way if way in ways else "torch"](x, weight, bias)


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Return whether these are numbers on the CPU that nobody differentiates, traces or casts.

    The weight is stored without gaps. With them, oneDNN takes a thousand times as long.
    """
    return (
        x.is_cpu
        and x.dtype == weight.dtype
        and x.numel() > 0
        and x.dtype != torch.float64
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and weight.stride() in ((weight.size(1), 1), (1, weight.size(0)))
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
    )


def possible(dtype: torch.dtype) -> tuple[str, ...]:
    """Return the names of the ways for weights of such numbers, torch's own first."""
    if dtype in HALF:
        return "torch", "float32"
    return ("torch", "onednn") if dtype == torch.float32 and has_onednn() else ("torch",)


def choice(n_rows: int, weight: Tensor) -> Choice:
    """Return the way to multiply `n_rows` rows by a weight [out, in], timed if it is new."""
    limit_threads()
    rows = min(MOST_ROWS, 1 << (n_rows - 1).bit_length())
    n_out, n_in = weight.shape
    case = Case(weight.dtype, n_in, n_out, order_of(weight), rows, torch.get_num_threads())
    return _choices.get(case) or _choose(case, weight)


def _choose(case: Case, weight: Tensor) -> Choice:
    with _lock, torch.inference_mode():
        if case not in _choices:  # another thread may have been first
            timed = case.dtype == torch.float32
            choose = _fastest if timed else _in_half
            _choices[case] = choose(case, weight.detach())
    return _choices[case]


def _in_half(case: Case, weight: Tensor) -> Choice:
    """Choose for half precision, whose rounding decides about tokens: noise must not choose.

    Without instructions for its numbers, float32 is the faster way, except that few rows by a
    weight [out, in] take no more than to read it.
    """
    seconds = half_seconds(case.dtype)
    slow = seconds["torch"] > LACKING * seconds["float32"]
    few = case.rows <= FEW and case.order == "out_in"
    part = weight[:64]
    gains = slow and not few and agrees("float32", _numbers(case, part), part)
    return Choice("float32" if gains else "torch", seconds)


@cache
def half_seconds(dtype: torch.dtype) -> Mapping[str, float]:
    """Time a product that takes 50 times as long as in float32 where instructions are lacking."""
    weight = torch.ones(512, 512, dtype=dtype, device="cpu").t()
    return _time(("torch", "float32"), torch.ones(64, 512, dtype=dtype, device="cpu"), [weight])


def _fastest(case: Case, weight: Tensor) -> Choice:
    weights = _timed_weights(weight, max(LEAST_TIMED, TIMED // -(-case.rows // 8)))
    x = _numbers(case, weights[0])
    seconds = _time(possible(case.dtype), x, weights)
    fastest = min(seconds, key=lambda way: seconds[way])
    gains = seconds[fastest] < GAIN * seconds["torch"] and agrees(fastest, -x, weights[0])
    return Choice(fastest if gains else "torch", seconds)


def _numbers(case: Case, weight: Tensor) -> Tensor:
    """Return rows to multiply by a weight."""
    n_in = weight.size(1)
    x = torch.linspace(-1, 1, case.rows * n_in, dtype=torch.float32, device="cpu")
    return x.view(case.rows, n_in).to(case.dtype)


def _timed_weights(weight: Tensor, n: int) -> list[Tensor]:
    """Return a part of a weight with `n` numbers, or so many copies, stored as the weight is.

    A model multiplies by other weights in between, so that a cache does not have this one.
    """
    stored = weight.t() if order_of(weight) == "in_out" else weight
    stored = stored[: max(64, n // stored.size(1))]
    weights = [stored, *(stored.clone() for _ in range(n // stored.numel() - 1))]
    return [each.t() if order_of(weight) == "in_out" else each for each in weights]


def _time(ways: Sequence[str], x: Tensor, weights: Sequence[Tensor]) -> dict[str, float]:
    return seconds_of({way: partial(_multiply, way, x) for way in ways}, weights)


def _multiply(way: str, x: Tensor, weight: Tensor) -> Tensor:
    return WAYS[way](x, weight, None)


def seconds_of(
    ways: Mapping[str, Callable[[Tensor], object]], weights: Sequence[Tensor]
) -> dict[str, float]:
    """Return the seconds that each way takes for all weights: the shorter of two turns.

    A first call is not timed: it may load a library, which makes the code for a shape.
    """
    seconds = dict.fromkeys(ways, math.inf)
    for turn in range(3):
        for name, multiply in ways.items():
            if turn > 1 and seconds[name] > HOPELESS * min(seconds.values()):
                continue
            with suppress(RuntimeError):  # this build of torch may have no such operator
                start = perf_counter()
                for weight in weights if turn else weights[:1]:
                    multiply(weight)
                if turn:
                    seconds[name] = min(seconds[name], perf_counter() - start)
    return seconds


def agrees(way: str, x: Tensor, weight: Tensor) -> bool:
    """Return whether a product differs from torch's in float32 by no more than rounding.

    oneDNN's was wrong in torch 2.13.0 where OpenMP granted fewer threads than torch asked for: it
    left memory as it was. So `x` must be another one than those that were multiplied before.
    """
    x32, weight32 = x.float(), weight.float()
    expected = F.linear(x32, weight32)
    apart = (WAYS[way](x, weight, None).float() - expected).abs()
    # Each is off by at most n/2 eps |x| |w| (Higham, Accuracy and Stability, section 3.1), and the
    # result is rounded to its dtype.
    sizes = x32.norm(dim=-1)[:, None] * weight32.norm(dim=-1)
    allowed = weight.size(1) * torch.finfo(torch.float32).eps * sizes
    return bool((apart <= allowed + torch.finfo(x.dtype).eps * expected.abs()).all())


def arrange(model: GPT2) -> None:
    """Store the matrices of the blocks [out, in] in half precision, where that is the faster order.

    Checkpoints store them [in, out], and a loaded model has views of them. Each matrix is copied,
    one after the other. In float32 the orders differ by less than a copy is worth, and the weights
    stay the memory-mapped file. Expects a model on the CPU whose weights nobody else uses.
    """
    blocks = cast("list[Block]", list(model.transformer.h))
    widest = blocks[0].mlp.c_fc.weight
    if widest.numel() < SMALL or widest.dtype not in HALF or order_of(widest) == "out_in":
        return
    for block in blocks:
        for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            layer.weight = nn.Parameter(layer.weight.detach().contiguous(), requires_grad=False)


def order_of(weight: Tensor) -> str:
    return "in_out" if weight.stride(0) == 1 else "out_in"
