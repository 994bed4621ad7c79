"""The decode step in C, compiled for this machine on request.

On a CPU a row by itself takes as long as reading the weights does. Between the products of a step,
which read them, torch's operators and Python take a fifth of the time; step.c takes next to none.
tests/gpt2ref/test_compiled_step.py and the conformance suite compare it with the model's own pass.
"""

from __future__ import annotations

import ctypes
from weakref import WeakSet

import torch
from torch import Tensor

from ..config import GPT2Config
from ..conversion import PREFIX, shapes
from ..model import GPT2, KVCache
from .library import DEFINITIONS, library

# The rows up to which C is the faster one. torch has matrix instructions for bfloat16 on some CPUs.
LARGEST_BATCH = {torch.float32: 32, torch.float16: 32, torch.bfloat16: 16}

_MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # those of the blocks

_models: WeakSet[GPT2] = WeakSet()  # those that `compile_step` was called for


def compile_step(model: GPT2) -> None:
    """Let this model generate by compiled decode steps. Other models are not affected.

    On CUDA torch.compile makes the forward pass of the captured step (`torch_compiled.py`), when a
    generation first needs it. If it can't, a warning says so. On the CPU the whole step is in C:

    Needs a C compiler ($CC, or cc: gcc or clang), which takes seconds for each dtype, once: the
    library is kept in `$XDG_CACHE_HOME/gpt2ref` (by default `~/.cache/gpt2ref`, on a Mac
    `~/Library/Caches/gpt2ref`) for later processes. C computes the steps of up to 32 rows in
    float32 and float16, and 16 in bfloat16, if the blocks' matrices are all stored [in, out] or all
    [out, in]; torch computes all others. C uses the weights alone: it calls no hooks, and ignores
    autocast. The logits are the same up to rounding; in low precision they are nearer to float32's,
    as only weights, keys and values are rounded.

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
        *((name, ctypes.c_int64) for name in ("vocab_size", "batch", "capacity", "n_threads")),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "sums")),
        *((name, ctypes.c_void_p) for name in ("attended", "activated", "own")),
    )


class CompiledStep:
    """A decode step in C: feeds each row of a cache one token.

    It computes with the model's weights as they are, and calls none of the model's modules.
    """

    def __init__(
        self, weights: list[Tensor], in_out: bool, config: GPT2Config, cache: KVCache
    ) -> None:
        batch, n_threads = len(cache.lengths), torch.get_num_threads()
        widest = max(3 * config.n_embd, config.mlp_width)
        own = batch * (2 * config.n_embd + widest) + config.n_head * cache.capacity
        shared = batch * config.n_embd, batch * config.mlp_width
        sizes = 2 * n_threads * batch * widest, *shared, n_threads * own
        buffers = [_float32(size) for size in sizes]
        self.step = library(cache.keys.dtype).step
        self.step.argtypes = [ctypes.POINTER(_Arguments), *[ctypes.c_void_p] * 3]
        self.step.restype = None
        self.cache = cache
        self.batch, self.vocab_size = batch, config.vocab_size
        self.ids = ctypes.c_int64 * batch
        self.kept = weights, buffers, cache.keys, cache.values  # as long as C has their addresses
        self.arguments = _Arguments(
            (ctypes.c_void_p * len(weights))(*(weight.data_ptr() for weight in weights)),
            in_out,
            *(config.n_layer, config.n_head, config.n_embd, config.mlp_width, config.vocab_size),
            *(batch, cache.capacity, n_threads, config.layer_norm_epsilon),
            *(tensor.data_ptr() for tensor in (cache.keys, cache.values, *buffers)),
        )

    def __call__(self, token_ids: list[int]) -> Tensor:
        """Feed each row a token, [batch]: logits of the next ones, float32 [batch, vocab_size]."""
        lengths = self.cache.lengths
        # C checks nothing.
        self._check("token_ids", token_ids, self.vocab_size)
        self._check("cache.lengths", lengths, self.arguments.capacity)
        logits = _float32(self.batch, self.vocab_size)
        ids, positions = self.ids(*token_ids), self.ids(*lengths)
        self.step(self.arguments, ids, positions, logits.data_ptr())
        self.cache.lengths = [length + 1 for length in lengths]
        self.cache.forget_beyond(self.cache.lengths)
        return logits

    def _check(self, name: str, values: list[int], limit: int) -> None:
        if len(values) != self.batch or not 0 <= min(values) <= max(values) < limit:
            raise ValueError(
                f"{name}: {values}, expected 0 to {limit - 1} for each of {self.batch} rows"
            )


def compiled_step(model: GPT2, cache: KVCache) -> CompiledStep | None:
    """Make the step that feeds each row of the cache one token in C.

    Returns None if `compile_step(model)` was not called, or C can't compute the step or is slower.
    """
    config, dtype = model.config, model.dtype
    if model not in _models or len(cache.lengths) > LARGEST_BATCH.get(dtype, 0):
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
