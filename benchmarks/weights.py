"""Weights of one size in one dtype: a checkpoint, and the implementations that load it."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from conformance.checkpoints.tensors import Tensors, trained_like, write_checkpoint
from gpt2ref import GPT2Config, load_checkpoint

from .implementations import Implementation, implementation_class
from .memory import DeviceMemory
from .plan import SEED


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
        """`tensors` default to random ones with the statistics of trained ones."""
        self.device = device
        self.dtype = dtype
        self.clock = clock
        self.synchronise = synchronise
        self._folder = tempfile.TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True)
        tensors = tensors or trained_like(config, SEED)
        self.checkpoint = write_checkpoint(
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
        source = implementation.convert(self.checkpoint, Path(self._folder.name) / name)
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
