"""The decode step in C, compiled for this machine when that is asked for: on a CPU, where a row by itself takes as long as
reading the weights does.

Between the products of a step, which read the weights, torch's operators and Python take a fifth of the time: in step.c next
to none. It is held against the model's own forward pass in tests/gpt2ref/test_compiled_step.py, and by the conformance suite.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ..config import GPT2Config
from ..conversion import PREFIX, shapes, to_hugging_face_tensors
from ..model import GPT2, KVCache

LARGEST_BATCH = {torch.float32: 32, torch.bfloat16: 8}  # rows, up to which it is the faster one

_SOURCE = Path(__file__).parent / "step.c"
_FLAGS = [
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fno-strict-aliasing",
    "-shared",
    "-fPIC",
]  # numbers are read as words
# Compilers avoid vectors of 512 bits, even for a processor that has them, which costs 8%.
_WIDE = ["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []
_DEFINITIONS: dict[torch.dtype, list[str]] = {torch.float32: [], torch.bfloat16: ["-DBFLOAT16"]}

libraries: dict[torch.dtype, ctypes.CDLL] = {}  # once they are compiled


def compile_step() -> None:
    """Let `sample`, `generate` and `stream` compute their steps in compiled C: on the CPU, in this process, from now on.

    Needs a C compiler with OpenMP ($CC, or cc), as Linux has it, and takes a second. It is for up to 32 rows in float32 and 8
    in bfloat16, and for weights that are stored as in Hugging Face's checkpoints; other steps are left to torch. It computes
    with the weights alone: hooks of modules are not called, and autocast changes nothing. The logits are the same to rounding;
    in bfloat16 they are nearer to float32's, as only weights, keys and values are rounded. Raises RuntimeError, with the
    command and what came of it, if there is no compiler or it fails; nothing is changed then.
    """
    with ThreadPoolExecutor() as threads:
        made = dict(zip(_DEFINITIONS, threads.map(_compile, _DEFINITIONS.values()), strict=True))
    libraries.update(made)


def _compile(definitions: list[str]) -> ctypes.CDLL:
    compiler = shlex.split(os.environ.get("CC") or "cc")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "step.so")
        command = [*compiler, *_FLAGS, *_WIDE, *definitions, "-o", path, str(_SOURCE), "-lm"]
        try:
            subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
            library = ctypes.CDLL(path)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{shlex.join(command)}\n{error.stderr}") from None
        except OSError as error:  # of the compiler, or of a file that can't be loaded
            raise RuntimeError(f"{shlex.join(command)}\n{error}") from None
    library.step.argtypes = [ctypes.POINTER(_Arguments), *[ctypes.c_void_p] * 3]
    library.step.restype = None
    return library


class _Arguments(ctypes.Structure):
    """`Step` in step.c."""

    _fields_ = (
        ("weights", ctypes.POINTER(ctypes.c_void_p)),
        *((name, ctypes.c_int64) for name in ("n_layer", "n_head", "n_embd", "n_inner")),
        *((name, ctypes.c_int64) for name in ("vocab_size", "batch", "capacity", "n_threads")),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "sums", "attended", "own")),
    )


class CompiledStep:
    """One token more for each row of a cache. Computes with the model's weights as they are, and asks none of its modules."""

    def __init__(
        self, library: ctypes.CDLL, weights: list[Tensor], config: GPT2Config, cache: KVCache
    ) -> None:
        batch, n_threads = len(cache.lengths), torch.get_num_threads()
        widest = max(3 * config.n_embd, config.mlp_width)
        own = batch * (2 * config.n_embd + widest) + config.n_head * cache.capacity
        sizes = 2 * n_threads * batch * widest, batch * config.n_embd, n_threads * own
        buffers = [_float32(size) for size in sizes]
        self.library, self.cache, self.batch, self.vocab_size = (
            library,
            cache,
            batch,
            config.vocab_size,
        )
        self.ids = ctypes.c_int64 * batch
        self.kept = weights, buffers, cache.keys, cache.values  # as long as C has their addresses
        self.arguments = _Arguments(
            (ctypes.c_void_p * len(weights))(*(weight.data_ptr() for weight in weights)),
            *(config.n_layer, config.n_head, config.n_embd, config.mlp_width, config.vocab_size),
            *(batch, cache.capacity, n_threads, config.layer_norm_epsilon),
            *(tensor.data_ptr() for tensor in (cache.keys, cache.values, *buffers)),
        )

    def __call__(self, token_ids: list[int]) -> Tensor:
        """Logits of the token after the one that each row is fed: [batch] -> float32 [batch, vocab_size]."""
        lengths = self.cache.lengths
        # C does not check anything.
        if (
            len(token_ids) != self.batch
            or not 0 <= min(token_ids) <= max(token_ids) < self.vocab_size
        ):
            raise ValueError(
                f"token_ids: {token_ids}, expected 0 to {self.vocab_size - 1} for each of {self.batch} rows"
            )
        if (
            len(lengths) != self.batch
            or not 0 <= min(lengths) <= max(lengths) < self.arguments.capacity
        ):
            raise ValueError(
                f"cache.lengths: {lengths}, expected 0 to {self.arguments.capacity - 1} for each of {self.batch} rows"
            )
        logits = _float32(self.batch, self.vocab_size)
        self.library.step(
            self.arguments, self.ids(*token_ids), self.ids(*lengths), logits.data_ptr()
        )
        self.cache.lengths = [length + 1 for length in lengths]
        return logits


def compiled_step(model: GPT2, cache: KVCache) -> CompiledStep | None:
    """What feeds each row one token in C; None where `compile_step` was not called, or it can't, or would be slower."""
    config, library = model.config, libraries.get(model.dtype)
    if library is None or len(cache.lengths) > LARGEST_BATCH[model.dtype]:
        return None
    if model.dtype == torch.bfloat16 and (
        config.head_width % 2 or config.mlp_width % 2
    ):  # C reads two at once
        return None
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    tensors = {
        key.removeprefix(PREFIX): tensor for key, tensor in to_hugging_face_tensors(model).items()
    }
    if {key: tensor.shape for key, tensor in tensors.items()} != shapes(
        config
    ):  # somebody has changed the modules
        return None
    if any(
        tensor.device.type != "cpu" or tensor.dtype != model.dtype
        for tensor in (*tensors.values(), cache.keys)
    ):
        return None
    if any(
        tensor.data_ptr() not in parameters for tensor in tensors.values()
    ):  # a copy, in the order that C reads
        return None
    return CompiledStep(library, [tensors[key] for key in _in_order(config.n_layer)], config, cache)


def _float32(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")  # whatever torch's defaults are


def _in_order(n_layer: int) -> list[str]:
    """The names of the weights, as step.c numbers them."""
    modules = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    blocks = [
        f"h.{layer}.{module}.{kind}"
        for layer in range(n_layer)
        for module in modules
        for kind in ("weight", "bias")
    ]
    return ["wte.weight", "wpe.weight", *blocks, "ln_f.weight", "ln_f.bias"]
