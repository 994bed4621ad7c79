"""Adapter for transformers' GPT2LMHeadModel."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

EOS = 50256
# Some versions of transformers report these as unexpected. They are rightly not loaded.
MASK_BUFFERS = (".attn.bias", ".attn.masked_bias")


class HuggingFace:
    def __init__(self, model: GPT2LMHeadModel) -> None:
        self.model = model

    @torch.inference_mode()
    def logits(self, token_ids: Tensor) -> Tensor:
        return self.model(token_ids).logits

    def generate(
        self,
        token_ids: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[list[int]]:
        options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "seed": seed,
        }
        return self._generate(token_ids, torch.ones_like(token_ids), **options)

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        longest = max(map(len, prompts))
        token_ids = torch.tensor(
            [[EOS] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        )
        mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        )
        return self._generate(
            token_ids.to(self.model.device), mask.to(self.model.device), **options
        )

    def _generate(
        self,
        token_ids: Tensor,
        attention_mask: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[list[int]]:
        batch, time = token_ids.shape
        if time + max_new_tokens - 1 > self.model.config.n_positions:
            raise NotImplementedError("transformers ends at n_positions")
        if max_new_tokens == 0:  # transformers refuses 0
            return [[] for _ in range(batch)]
        draw: dict[str, Any] = (
            {"temperature": temperature, "top_k": top_k or 0} if temperature > 0 else {}
        )
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            rows = self.model.generate(
                token_ids,
                attention_mask=attention_mask,
                max_new_tokens=max_new_tokens,
                do_sample=temperature > 0,
                eos_token_id=EOS,
                pad_token_id=EOS,
                **draw,
            )
        return [row[: row.index(EOS)] if EOS in row else row for row in rows[:, time:].tolist()]

    @torch.inference_mode()
    def prefill(self, token_ids: Tensor) -> tuple[Tensor, Any]:
        output = self.model(token_ids, use_cache=True)
        return output.logits, output.past_key_values

    @torch.inference_mode()
    def step(self, token_ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        # transformers extends a cache in place
        output = self.model(token_ids, past_key_values=copy.deepcopy(cache), use_cache=True)
        return output.logits, output.past_key_values

    def state_dict(self) -> dict[str, Tensor]:
        return {
            key: tensor
            for key, tensor in self.model.state_dict().items()
            if key != "lm_head.weight"
        }


def load(
    checkpoint: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
) -> HuggingFace:
    if device == "meta":  # from_pretrained always reads the weights
        with torch.device("meta"):
            return HuggingFace(GPT2LMHeadModel(GPT2Config.from_pretrained(checkpoint)))
    model, report = GPT2LMHeadModel.from_pretrained(
        checkpoint, attn_implementation=attention, output_loading_info=True
    )
    report["unexpected_keys"] = [
        key for key in report["unexpected_keys"] if not key.endswith(MASK_BUFFERS)
    ]
    # transformers itself only warns.
    if problems := {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}:
        raise ValueError(f"from_pretrained({checkpoint!r}): {problems}")
    return HuggingFace(model.to(device, dtype).eval())


def load_eager(
    checkpoint: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> HuggingFace:
    """Load with attention in transformers' own code. `load` leaves it to torch's kernels."""
    return load(checkpoint, device=device, dtype=dtype, attention="eager")


def load_compiled(
    checkpoint: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> HuggingFace:
    """Load under torch.compile, once for tensors of any size.

    On the CPU this needs a C++ compiler, and takes seconds for each checkpoint.
    """
    compiled = load(checkpoint, device=device, dtype=dtype)
    compiled.model.forward = torch.compile(compiled.model.forward, dynamic=True)
    return compiled
