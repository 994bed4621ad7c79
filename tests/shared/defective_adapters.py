"""Adapters of wrong GPT-2s, and of broken ones: what the suite must catch, name, and tell apart."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gpt2ref
from conformance.adapters.gpt2ref import Reference
from conformance.adapters.gpt2ref import load as load_reference


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


def epsilon_1e_6(checkpoint: str, **options: Any) -> Reference:
    right = load_reference(checkpoint, **options)
    for module in right.model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
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
    return _with_weights(
        checkpoint, options, "attn.c_attn.weight", lambda w: w.t().reshape(w.shape)
    )


def position_not_offset(checkpoint: str, **options: Any) -> Reference:
    right = load_reference(checkpoint, **options)
    # Every piece of a sequence is taken for its beginning.
    right.model.transformer.wpe.register_forward_pre_hook(
        lambda _module, args: (args[0] - args[0][..., :1],)
    )
    return right


def ignores_missing(checkpoint: str, **options: Any) -> Reference:
    try:
        return load_reference(checkpoint, **options)
    except gpt2ref.CheckpointError:
        with torch.device("cpu"):
            return Reference(
                gpt2ref.GPT2(
                    gpt2ref.GPT2Config(n_positions=13, n_embd=24, n_layer=2, n_head=3)
                ).eval()
            )


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


class InBfloat16(LogitsOnly):
    """Computes in bfloat16, whatever it is asked for."""

    precision = "bfloat16"


def declares_bfloat16(checkpoint: str, **options: Any) -> InBfloat16:
    return InBfloat16(load_reference(checkpoint, **options | {"dtype": torch.bfloat16}))


def conceals_bfloat16(checkpoint: str, **options: Any) -> LogitsOnly:
    return LogitsOnly(load_reference(checkpoint, **options | {"dtype": torch.bfloat16}))


def declares_bfloat16_no_scale(checkpoint: str, **options: Any) -> InBfloat16:
    right = load_reference(checkpoint, **options | {"dtype": torch.bfloat16})
    for block in right.model.transformer.h:
        n_embd = block.attn.c_attn.weight.size(1)
        root = (n_embd // block.attn.n_head) ** 0.5
        block.attn.c_attn.weight[:n_embd] *= (
            root  # the queries, so that the division by it comes to nothing
        )
        block.attn.c_attn.bias[:n_embd] *= root
    return InBfloat16(right)
