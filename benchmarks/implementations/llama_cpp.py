"""llama.cpp by llama-cpp-python's bindings of its C interface, without quantisation."""

# mypy: disable-error-code="import-not-found, import-untyped"
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import torch

from gpt2ref import load_checkpoint

from ..sampling import Sampling
from ..suite import part
from .protocol import Implementation, TokenIds

ADAPTER = part("adapters.llama_cpp")


class LlamaCpp(Implementation):
    source = "its own format, converted beforehand"

    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.model = ADAPTER.load_gguf(
            checkpoint / f"{_name(dtype)}.gguf",
            n_gpu_layers=0 if device.type == "cpu" else 1_000,
            main_gpu=device.index or 0,
        )
        self.context: Any = None
        self.room = 0, 0  # the size of the context: rows, and tokens in each

    def __del__(self) -> None:
        if getattr(self, "context", None):
            llama_cpp.llama_free(self.context)
        if getattr(self, "model", None):
            llama_cpp.llama_model_free(self.model)

    def generate(
        self,
        prompts: TokenIds,
        sampling: Sampling,
        *,
        max_new_tokens: int,
        seed: int,
        on_step: Callable[[], None],
    ) -> TokenIds:
        self._make_room(len(prompts), len(prompts[0]) + max_new_tokens)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        sampler = ADAPTER.sampler_of(sampling.temperature, sampling.top_k, seed)
        new: TokenIds = [[] for _ in prompts]
        position, fed = 0, prompts
        for _ in range(max_new_tokens):
            last = ADAPTER.feed(self.context, fed, position)
            position += len(fed[0])
            fed = [[llama_cpp.llama_sampler_sample(sampler, self.context, index)] for index in last]
            for row, token_ids in zip(new, fed, strict=True):
                row += token_ids
            on_step()
        llama_cpp.llama_sampler_free(sampler)
        return new

    def _make_room(self, rows: int, tokens: int) -> None:
        if self.room == (rows, tokens):
            return
        if self.context:
            llama_cpp.llama_free(self.context)
        self.context = None  # until there is a new one
        self.context = ADAPTER.new_context(self.model, rows * tokens, rows, self.dtype)
        self.room = rows, tokens

    @classmethod
    def convert(cls, checkpoint: Path, folder: Path) -> Path:
        folder.mkdir()
        model = load_checkpoint(checkpoint)
        for dtype in ADAPTER.TYPES:
            ADAPTER.write_gguf(model, folder / f"{_name(dtype)}.gguf", dtype)
        return folder

    @classmethod
    def refusal(cls, device: torch.device, dtype: torch.dtype) -> str | None:  # noqa: ARG003 - it has all three
        able = device.type == "cpu" or llama_cpp.llama_supports_gpu_offload()
        return None if able else "llama-cpp-python was built without CUDA"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
