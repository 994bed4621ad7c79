"""Weights of one size in one dtype: a checkpoint, and the implementations that load it."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gpt2ref import EOS, GPT2Config, load_checkpoint

from .implementations import Implementation, implementation_class
from .memory import DeviceMemory
from .plan import SEED
from .suite import part

Tensors = dict[str, Tensor]

# The logit of EOS under `never_eos` is -EOS_BIAS * EOS_EMBEDDING = -10,000, whatever the input.
# Both numbers are exact in every dtype. The largest logit is at least that of token 0. With C
# dimensions, LayerNorm gives a vector no longer than sqrt(C), so that logit is at least
# -|wte[0]| (max |ln_f.weight| sqrt(C) + |ln_f.bias|). `trained_like` draws |wte[0]| near
# 0.0028 sqrt(C), gains below 6, and |ln_f.bias| near 0.3 sqrt(C): at least -0.018 C, which is -29
# for the largest shape. So the probability of EOS is below exp(-9,970 / temperature): 1e-43 at
# temperature 100.
EOS_BIAS = 100.0
EOS_EMBEDDING = 100.0


@dataclass
class Peer:
    """A loaded implementation, with the figures that all its results share."""

    name: str
    implementation: Implementation
    load_seconds: float
    memory: DeviceMemory
    first_call_seconds: float | None = None  # of the first generation after loading, in any shape


class Weights:
    """Loads each implementation when it is first asked for, from a checkpoint written here before.

    The checkpoint is then in the operating system's file cache, so load times do not depend on the
    disk.
    """

    def __init__(
        self,
        config: GPT2Config,
        device: torch.device,
        dtype: torch.dtype,
        *,
        tensors: Tensors | None = None,
        synchronise: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`tensors` default to random ones with the statistics of trained ones, without EOS."""
        self.device = device
        self.dtype = dtype
        self.clock = clock
        self.synchronise = synchronise
        self._folder = tempfile.TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True)
        made = part("checkpoints.tensors")
        tensors = tensors or never_eos(made.trained_like(config, SEED))
        self.checkpoint = made.write_checkpoint(
            Path(self._folder.name) / "checkpoint",
            config,
            {key: tensor.to(dtype) for key, tensor in tensors.items()},
        )
        del tensors
        # Its plain forward pass judges the tokens of all implementations.
        self.judge = load_checkpoint(self.checkpoint, device=device)
        self._peers: dict[str, Peer] = {}

    def peer(self, name: str) -> Peer:
        if name not in self._peers:
            self._peers[name] = self._load(name)
        return self._peers[name]

    def _load(self, name: str) -> Peer:
        implementation = implementation_class(name)
        folder = Path(self._folder.name) / f"converted-{len(self._peers)}"
        source = implementation.convert(self.checkpoint, folder)
        memory = DeviceMemory(self.device)

        def load() -> tuple[Implementation, float]:
            start = self.clock()
            loaded = implementation(source, self.device, self.dtype)
            self.synchronise()
            return loaded, self.clock() - start

        (loaded, seconds), _ = memory.run(load)
        return Peer(name, loaded, seconds, memory)

    def free(self) -> None:
        """Free the memory and the disk, for the next size."""
        self._peers.clear()
        del self.judge
        gc.collect()
        torch.cuda.empty_cache()
        self._folder.cleanup()


def never_eos(tensors: Tensors) -> Tensors:
    """Return tensors whose GPT-2 never draws EOS, so that no engine has to be told to ignore it.

    The first dimension of the final LayerNorm's output becomes a constant. The head reads it for
    EOS alone, so the other logits do not depend on it.
    """
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors["ln_f.weight"][0], tensors["ln_f.bias"][0] = 0.0, EOS_BIAS
    wte = tensors["wte.weight"]
    wte[:, 0] = 0.0
    if len(wte) > EOS:
        wte[EOS] = 0.0
        wte[EOS, 0] = -EOS_EMBEDDING
    return tensors
