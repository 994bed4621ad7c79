"""transformers' `generate`, with its default cache and with its static cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel
from transformers.generation.streamers import BaseStreamer

from ..sampling import Sampling
from .protocol import Implementation, TokenIds


class HuggingFace(Implementation):
    """transformers with its default attention (sdpa) and its default cache, which grows."""

    options: ClassVar[dict[str, Any]] = {}  # further arguments of generate

    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:
        model = GPT2LMHeadModel.from_pretrained(checkpoint).to(device, dtype)
        self.model: Any = model.eval().requires_grad_(False)
        # With an id for EOS, generate would stop there.
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(self.model.generation_config, name, None)

    def generate(
        self,
        prompts: TokenIds,
        sampling: Sampling,
        *,
        max_new_tokens: int,
        seed: int,
        on_step: Callable[[], None],
    ) -> TokenIds:
        torch.manual_seed(seed)
        token_ids = torch.tensor(prompts, device=self.model.device)
        sequences = self.model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            max_new_tokens=max_new_tokens,
            use_cache=True,
            streamer=_StepStreamer(on_step),
            **_draw(sampling),
            **self.options,
        )
        return sequences[:, token_ids.size(1) :].tolist()


class HuggingFaceStatic(HuggingFace):
    """A cache of fixed size, with which transformers compiles the decode step on CUDA."""

    options: ClassVar[dict[str, Any]] = {"cache_implementation": "static"}

    @classmethod
    def refusal(cls, device: torch.device, dtype: torch.dtype) -> str | None:  # noqa: ARG003
        # The second name is that of versions before 4.54.
        supported = getattr(
            GPT2LMHeadModel,
            "_can_compile_fullgraph",
            getattr(GPT2LMHeadModel, "_supports_static_cache", True),
        )
        return None if supported else "this version of transformers has no static cache for GPT-2"


def _draw(sampling: Sampling) -> dict[str, Any]:
    """Return the arguments for sampling.

    top_k=0 and top_p=1 restrict nothing. They are given, since transformers' default is top_k=50,
    but not for greedy decoding, for which transformers refuses them.
    """
    if sampling.temperature == 0:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k or 0,
        "top_p": 1.0,
    }


class _StepStreamer(BaseStreamer):
    """Receives the prompt [batch, time], then each step's ids [batch], which are on the host."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self.on_step = on_step

    def put(self, value: Tensor) -> None:
        if value.dim() == 1:
            self.on_step()

    def end(self) -> None:
        pass
