"""Adapters of wrong GPT-2s, and of broken ones: what the suite must catch, name, and tell apart."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gpt2ref
from conformance.adapters.gpt2ref import Reference
from conformance.adapters.gpt2ref import load as load_reference
from gpt2ref.sampling import draw


class LogitsOnly:
    """A right one that does nothing but logits."""

    def __init__(self, right: Reference) -> None:
        self.logits = right.logits


def logits_only(checkpoint: str, **options: Any) -> LogitsOnly:
    return LogitsOnly(load_reference(checkpoint, **options))


def raises_in_generate(checkpoint: str, **options: Any) -> Reference:
    right = load_reference(checkpoint, **options)

    def generate(*_args: Any, **_options: Any) -> None:
        raise RuntimeError("out of luck")

    right.generate = generate  # type: ignore[method-assign, assignment]
    return right


def last_logits_only(checkpoint: str, **options: Any) -> LogitsOnly:
    right = LogitsOnly(load_reference(checkpoint, **options))
    all_logits = right.logits
    right.logits = lambda token_ids: all_logits(token_ids)[:, -1:]  # type: ignore[method-assign]
    return right


class ErfMLP(nn.Module):
    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.c_fc, self.c_proj = mlp.c_fc, mlp.c_proj

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


def gelu_erf(checkpoint: str, **options: Any) -> Reference:
    right = load_reference(checkpoint, **options)
    for block in right.model.transformer.h:
        block.mlp = ErfMLP(block.mlp)
    return right


def _with_weights(checkpoint: str, options: dict[str, Any], ending: str, change: Any) -> Reference:
    right = load_reference(checkpoint, **options)
    for name, parameter in right.model.named_parameters():
        if name.endswith(ending):
            parameter.data = change(parameter.data)
    return right


def square_proj_untransposed(checkpoint: str, **options: Any) -> Reference:
    return _with_weights(checkpoint, options, "attn.c_proj.weight", lambda w: w.t())


def reshape_for_transpose(checkpoint: str, **options: Any) -> Reference:
    return _with_weights(checkpoint, options, "mlp.c_proj.weight", lambda w: w.t().reshape(w.shape))


def qkv_reshaped(checkpoint: str, **options: Any) -> Reference:
    return _with_weights(checkpoint, options, "attn.c_attn.weight", lambda w: w.t().reshape(w.shape))


def position_not_offset(checkpoint: str, **options: Any) -> Reference:
    right = load_reference(checkpoint, **options)
    # Every piece of a sequence is taken for its beginning.
    right.model.transformer.wpe.register_forward_pre_hook(lambda _module, args: (args[0] - args[0][:, :1],))
    return right


def ignores_missing(checkpoint: str, **options: Any) -> Reference:
    try:
        return load_reference(checkpoint, **options)
    except gpt2ref.CheckpointError:
        with torch.device("cpu"):
            return Reference(gpt2ref.GPT2(gpt2ref.GPT2Config(n_positions=13, n_embd=24, n_layer=2, n_head=3)).eval())


def eos_appended(checkpoint: str, **options: Any) -> Reference:
    right = load_reference(checkpoint, **options)
    generate = right.generate

    def with_eos(token_ids: Tensor, *, max_new_tokens: int, **rest: Any) -> list[list[int]]:
        rows = generate(token_ids, max_new_tokens=max_new_tokens, **rest)
        return [[*row, 50256] if len(row) < max_new_tokens else row for row in rows]

    right.generate = with_eos  # type: ignore[method-assign, assignment]
    return right


def eos_any_row(checkpoint: str, **options: Any) -> Reference:
    right = load_reference(checkpoint, **options)
    generate = right.generate

    def shortest(token_ids: Tensor, **rest: Any) -> list[list[int]]:
        rows = generate(token_ids, **rest)
        return [row[: min(map(len, rows))] for row in rows]

    right.generate = shortest  # type: ignore[method-assign]
    return right


def temperature_ignored(checkpoint: str, **options: Any) -> Reference:
    right = load_reference(checkpoint, **options)
    generate = right.generate

    def at_one(token_ids: Tensor, *, temperature: float = 1.0, **rest: Any) -> list[list[int]]:
        return generate(token_ids, temperature=min(temperature, 1.0) and 1.0, **rest)

    right.generate = at_one  # type: ignore[method-assign]
    return right


def top_k_exactly(checkpoint: str, **options: Any) -> Reference:
    """Ties at the k-th largest logit are cut off. One token at a time, without a cache."""
    right = load_reference(checkpoint, **options)
    generate = right.generate

    def exactly(token_ids: Tensor, *, max_new_tokens: int, top_k: int | None = None, seed: int = 0, **rest: Any) -> Any:
        if top_k is None or not rest.get("temperature", 1.0) or top_k > 100:
            return generate(token_ids, max_new_tokens=max_new_tokens, top_k=top_k, seed=seed, **rest)
        uniform = torch.rand(max_new_tokens, len(token_ids), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for step in range(max_new_tokens):
            values, ids = right.logits(token_ids)[:, -1].topk(top_k)
            chosen = draw((values.double() / rest.get("temperature", 1.0)).softmax(-1), uniform[step])
            token_ids = torch.cat([token_ids, ids.gather(1, chosen[:, None])], dim=1)
        return token_ids[:, -max_new_tokens:].tolist()

    right.generate = exactly  # type: ignore[method-assign]
    return right
