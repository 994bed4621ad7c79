"""The decode step in C, compiled for this machine on request.

On a CPU a row by itself takes as long as reading the weights does. Between the products of a step,
which read them, torch's operators and Python take a fifth of the time; step.c takes next to none.
tests/gpt2ref/test_compiled_step.py and the conformance suite compare it with the model's own pass.
"""

from __future__ import annotations

import ctypes
import itertools
from weakref import WeakSet

import torch
from torch import Tensor

from ..config import GPT2Config
from ..conversion import PREFIX, shapes
from ..model import GPT2, KVCache
from . import products
from .library import DEFINITIONS, library
from .products import Case, Choice

FEW = 8  # tokens that C feeds at once without being timed: it saves the time between products too
MOST = 64  # tokens: torch feeds more
LESS = 0.8  # torch feeds more where its products take less than this part of C's
_MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # those of the blocks

_models: WeakSet[GPT2] = WeakSet()  # those that `compile_step` was called for


def compile_step(model: GPT2) -> None:
    """Let this model generate by compiled decode steps. Other models are not affected.

    On CUDA torch.compile makes the forward pass of the captured step (`torch_compiled.py`), when a
    generation first needs it. If it can't, a warning says so. On the CPU the whole step is in C:

    Needs a C compiler ($CC, or cc: gcc or clang), which takes seconds for each dtype, once: the
    library is kept in `$XDG_CACHE_HOME/gpt2ref` (by default `~/.cache/gpt2ref`, on a Mac
    `~/Library/Caches/gpt2ref`) for later processes. C feeds up to 8 tokens at once, and up to 64
    where its products are the faster ones: the steps of a batch, and short prompts. The blocks'
    matrices must all be stored [in, out] or all [out, in]; torch computes all other steps. C uses
    the weights alone: it calls no hooks, and ignores autocast. The logits are the same up to
    rounding; in low precision they are nearer to float32's, as only weights, keys and values are
    rounded.

    Warns if the compiler has no OpenMP, as Apple's: the steps use one thread then. Raises
    ValueError for a model on another device, and RuntimeError, with the command and the compiler's
    message, if there is no C compiler or it fails. The model is unchanged then.
    """
    if model.device.type not in ("cpu", "cuda"):
        raise ValueError(f"model: on {model.device}, expected the CPU or CUDA")
    if model.device.type == "cpu" and model.dtype in DEFINITIONS:
        library(model.dtype)
    _models.add(model)


def wants_compiled_step(model: GPT2) -> bool:
    """Return whether `compile_step(model)` was called."""
    return model in _models


class _Arguments(ctypes.Structure):
    """The struct `Step` in step.c."""

    _fields_ = (
        ("weights", ctypes.POINTER(ctypes.c_void_p)),
        ("in_out", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in ("n_layer", "n_head", "n_embd", "n_inner")),
        *((name, ctypes.c_int64) for name in ("vocab_size", "n_rows", "capacity", "n_threads")),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        *((name, ctypes.c_void_p) for name in ("sums", "attended", "activated", "own")),
        ("n_tokens", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("token_ids", "rows", "positions", "last")),
    )


_choices: dict[Case, Choice] = {}


def choices() -> dict[Case, Choice]:
    """Return where C feeds more than 8 tokens at once ("c"), or torch does, and why.

    The seconds are those of two products with the first matrix of an MLP.
    """
    return dict(_choices)


class CompiledStep:
    """A step in C: feeds each row of a cache one token, or a few.

    It computes with the model's weights as they are, and calls none of the model's modules.
    """

    def __init__(
        self, weights: list[Tensor], in_out: bool, config: GPT2Config, cache: KVCache
    ) -> None:
        self.config, self.cache = config, cache
        self.library = library(cache.keys.dtype)
        self.weights = weights
        self.kept = cache.keys, cache.values  # as long as C has their addresses
        self.arguments = _Arguments(
            (ctypes.c_void_p * len(weights))(*(weight.data_ptr() for weight in weights)),
            in_out,
            *(config.n_layer, config.n_head, config.n_embd, config.mlp_width, config.vocab_size),
            *(len(cache.lengths), cache.capacity, torch.get_num_threads()),
            config.layer_norm_epsilon,
            *(cache.keys.data_ptr(), cache.values.data_ptr()),
        )
        self.buffers: list[Tensor] = []

    def __call__(self, token_ids: list[int]) -> Tensor:
        """Feed each row a token, [batch]: logits of the next ones, float32 [batch, vocab_size]."""
        return self.feed([[token_id] for token_id in token_ids])

    def feed(self, rows: list[list[int]]) -> Tensor:
        """Feed each row at least one token: the logits after the last, float32 [batch, vocab]."""
        lengths, capacity = self.cache.lengths, self.arguments.capacity
        # C checks nothing.
        n_rows, ids = self.arguments.n_rows, [token_id for row in rows for token_id in row]
        self._check("token_ids", ids, self.config.vocab_size, n_rows == len(rows) and all(rows))
        self._check("cache.lengths", lengths, capacity, n_rows == len(lengths))
        ends = [length + len(row) for length, row in zip(lengths, rows, strict=True)]
        self._check("cache.lengths", [end - 1 for end in ends], capacity)
        numbers = [row for row, each in enumerate(rows) for _ in each]
        positions = [lengths[row] + i for row, each in enumerate(rows) for i in range(len(each))]
        last = [end - 1 for end in itertools.accumulate(map(len, rows))]
        self._make_room(len(ids))
        logits, arguments = _float32(n_rows, self.config.vocab_size), self.arguments
        fed = [_int64(each) for each in (ids, numbers, positions, last)]
        arguments.token_ids, arguments.rows, arguments.positions, arguments.last = map(
            ctypes.addressof, fed
        )
        self.library.step(ctypes.byref(arguments), ctypes.c_void_p(logits.data_ptr()))
        self.cache.lengths = ends
        self.cache.forget_beyond(ends)
        return logits

    def _check(self, name: str, values: list[int], limit: int, of_each: bool = True) -> None:
        if not of_each or not 0 <= min(values) <= max(values) < limit:
            raise ValueError(
                f"{name}: {values}, expected 0 to {limit - 1} for each of "
                f"{self.arguments.n_rows} rows"
            )

    def _make_room(self, n_tokens: int) -> None:
        """Give C its memory for so many tokens at once."""
        config, arguments = self.config, self.arguments
        if arguments.n_tokens == n_tokens:
            return
        widest = max(3 * config.n_embd, config.mlp_width)
        own = n_tokens * (2 * config.n_embd + widest) + config.n_head * arguments.capacity
        shared = n_tokens * config.n_embd, n_tokens * config.mlp_width
        sizes = 2 * arguments.n_threads * n_tokens * widest, *shared, arguments.n_threads * own
        self.buffers = [_float32(size) for size in sizes]
        arguments.n_tokens = n_tokens
        arguments.sums, arguments.attended, arguments.activated, arguments.own = (
            each.data_ptr() for each in self.buffers
        )

    def is_faster(self, n_tokens: int) -> bool:
        """Return whether C feeds so many tokens at once faster than torch.

        More than 8 are timed when they are first fed, and more than 64 are torch's.
        """
        if n_tokens <= FEW or n_tokens > MOST:
            return n_tokens <= FEW
        rows = 1 << (n_tokens - 1).bit_length()
        order = "in_out" if self.arguments.in_out else "out_in"
        n_in, n_out = self.config.n_embd, self.config.mlp_width
        case = Case(self.cache.keys.dtype, n_in, n_out, order, rows, self.arguments.n_threads)
        if case not in _choices:
            seconds = self._seconds(rows, order)
            _choices[case] = Choice(
                "torch" if seconds["torch"] < LESS * seconds["c"] else "c", seconds
            )
        return _choices[case].way == "c"

    @torch.inference_mode()
    def _seconds(self, rows: int, order: str) -> dict[str, float]:
        """Return the seconds that `rows` rows times c_fc take C and torch, in up to two layers."""
        n_in, n_out = self.config.n_embd, self.config.mlp_width
        named = zip(_in_order(self.config.n_layer), self.weights, strict=True)
        matrices = [weight for name, weight in named if name.endswith("c_fc.weight")]
        x = torch.linspace(-1, 1, rows * n_in, dtype=torch.float32, device="cpu").view(rows, n_in)
        x_stored = x.to(matrices[0].dtype)
        self._make_room(rows)

        def in_c(matrix: Tensor) -> None:
            self.library.product_alone(
                ctypes.byref(self.arguments),
                *(ctypes.c_void_p(each.data_ptr()) for each in (matrix, x)),
                *(ctypes.c_int64(size) for size in (n_in, n_out)),
            )

        def in_torch(matrix: Tensor) -> None:
            products.linear(x_stored, matrix.t() if order == "in_out" else matrix)

        return products.seconds_of({"c": in_c, "torch": in_torch}, matrices[:2])


def compiled_step(model: GPT2, cache: KVCache) -> CompiledStep | None:
    """Make the step that feeds the rows of the cache in C.

    Returns None if `compile_step(model)` was not called, or C can't compute with this model.
    """
    config, dtype = model.config, model.dtype
    if model not in _models or dtype not in DEFINITIONS:
        return None
    tensors = {key.removeprefix(PREFIX): tensor for key, tensor in model.state_dict().items()}
    if any(
        tensor.device.type != "cpu" or tensor.dtype != dtype
        for tensor in (*tensors.values(), cache.keys)
    ):
        return None
    matrices = {key: key.endswith(_MATRICES) for key in tensors}
    found = {key: tensor.shape[:: -1 if matrices[key] else 1] for key, tensor in tensors.items()}
    if found != shapes(config):
        return None  # somebody has replaced modules
    in_out = {key: tensor.t() if matrices[key] else tensor for key, tensor in tensors.items()}
    for stored in (in_out, tensors):
        weights = [stored[key] for key in _in_order(config.n_layer)]
        if all(weight.is_contiguous() for weight in weights):
            return CompiledStep(weights, stored is in_out, config, cache)
    return None  # C reads matrices that are all stored alike, and nothing is copied


def _int64(numbers: list[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _float32(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")  # whatever torch's defaults are


def _in_order(n_layer: int) -> list[str]:
    """Return the names of the weights in the order of step.c."""
    modules = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    blocks = [
        f"h.{layer}.{module}.{kind}"
        for layer in range(n_layer)
        for module in modules
        for kind in ("weight", "bias")
    ]
    return ["wte.weight", "wpe.weight", *blocks, "ln_f.weight", "ln_f.bias"]
