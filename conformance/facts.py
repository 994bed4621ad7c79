"""The facts that make a GPT-2, each with the ways it is known to be got wrong, and a forward pass for every choice.

`forward` is GPT-2 written out plainly, in any dtype, with a switch for each fact. Without switches it is the truth of the
probes (see `probes`): what a checkpoint's logits must be. With one it is what a certain mistake makes of them, so that a
probe can say which mistake it sees. It shares no code with `gpt2ref`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gpt2ref import GPT2Config

# Fact -> what GPT-2 has, then what else has been seen.
FACTS: dict[str, tuple[str, ...]] = {
    "activation": (
        "tanh-GELU", "erf-GELU", "sigmoid-GELU", "ReLU", "SiLU", "tanh-GELU with 0.44715 for 0.044715",
        "tanh-GELU with x^2 for x^3", "no activation",
    ),
    "epsilon": ("inside the root", "outside the root", "absent"),
    "variance": ("biased (divided by n_embd)", "unbiased (divided by n_embd - 1)"),
    "mean": ("subtracted", "kept (RMS norm)"),
    "norms": ("before attention and MLP", "after them, on the sum", "ln_1 and ln_2 exchanged"),
    "residual": ("of x", "of the normalised x", "absent"),
    "blocks": ("the MLP after attention", "the MLP beside attention"),
    "final norm": ("applied once", "absent", "applied twice"),
    "scale": ("1/sqrt(head width)", "1", "1/sqrt(n_embd)", "1/head width", "1/sqrt(n_head)", "1/sqrt(head width)/(layer + 1)"),
    "heads": ("n_head", "n_head / 2", "2 n_head", "1"),
    "qkv order": ("q, k, v", "k, q, v", "q, v, k", "v, k, q", "k, v, q", "v, q, k"),
    "qkv layout": ("three thirds", "q, k, v of one head after the other"),
    "head split": ("head h has channels h*width to (h+1)*width - 1", "head h has every n_head-th channel", "view without transpose"),
    "head merge": ("heads side by side", "view without transpose", "channels of the heads in turn"),
    "mask": (
        "each position sees itself and what came before", "none", "the next position is seen too", "inverted",
        "applied after the softmax", "future scores 0 instead of minus infinity", "the position itself is hidden",
    ),
    "softmax": ("over the keys", "over the queries", "over the heads"),
    "positions": ("0, 1, 2, ...", "from 1", "from 2", "all 0", "absent", "scaled by sqrt(n_embd)"),
    "tokens": ("as they are", "scaled by sqrt(n_embd)", "id + 1", "id - 1"),
    "layers": ("in order", "in the order of their names as text", "reversed", "the last one left out", "the first for all"),
    "lost": (
        "nothing", "wte row shift", "h.attn.c_attn.bias[query]", "h.attn.c_attn.bias[value]", "h.attn.c_proj.bias",
        "h.mlp.c_fc.bias", "h.mlp.c_proj.bias", "h.ln_1.weight", "h.ln_1.bias", "h.ln_2.weight", "h.ln_2.bias",
        "ln_f.weight", "ln_f.bias",
    ),
    "transposed": ("as GPT-2 has them", "h.attn.c_attn.weight", "h.attn.c_proj.weight", "h.mlp.c_fc.weight", "h.mlp.c_proj.weight"),
}  # fmt: skip
