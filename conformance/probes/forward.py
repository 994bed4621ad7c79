"""The facts that make a GPT-2, each with the ways it is known to be got wrong, and a forward pass for every choice.

`forward` is GPT-2 written out plainly, in any dtype, with a switch for each fact. Without switches it is the truth of the
probes (see `probes`): what a checkpoint's logits must be. With one it is what a certain mistake makes of them, so that a
probe can say which mistake it sees. It shares no code with `gpt2ref`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import Tensors


def tanh_gelu(x: Tensor, cubic: float = 0.044715, power: int = 3) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + cubic * x**power)))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh-GELU": tanh_gelu,
    "erf-GELU": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "sigmoid-GELU, x sigmoid(1.702 x)": lambda x: x * torch.sigmoid(1.702 * x),
    "ReLU": torch.relu,
    "SiLU": lambda x: x * torch.sigmoid(x),
    "tanh-GELU with 0.44715 for 0.044715": lambda x: tanh_gelu(x, cubic=0.44715),
    "tanh-GELU with x^2 for x^3": lambda x: tanh_gelu(x, power=2),
    "no activation": lambda x: x,
}

# Fact -> what GPT-2 has, then what else has been seen.
FACTS: dict[str, tuple[str, ...]] = {
    "activation": tuple(ACTIVATIONS),
    "epsilon": ("inside the root", "outside the root", "absent", "1e-6 in every norm"),
    "variance": ("biased, divided by n_embd", "unbiased, divided by n_embd - 1"),
    "mean": ("subtracted", "kept, as in RMS norm"),
    "norms": ("before attention and MLP", "after them, on the sum", "with ln_1 and ln_2 exchanged"),
    "residual": ("of x", "of the normalised x", "absent"),
    "blocks": ("the MLP after attention", "the MLP beside attention"),
    "branches": ("added as they are", "divided by sqrt(n_layer)", "divided by sqrt(2 n_layer)"),
    "final norm": ("applied once", "absent", "applied twice"),
    "scale": (
        "1/sqrt(head width)",
        "1",
        "1/sqrt(n_embd)",
        "1/head width",
        "1/sqrt(n_head)",
        "1/sqrt(head width)/(layer + 1)",
    ),
    "heads": ("n_head", "half of n_head", "twice n_head", "one"),
    "qkv order": ("q, k, v", "k, q, v", "q, v, k", "v, k, q", "k, v, q", "v, q, k"),
    "qkv layout": (
        "three thirds",
        "q, k, v of one head after the other",
        "q, k, v of one half of the heads after the other",
    ),
    "head split": (
        "neighbouring channels to a head",
        "every n_head-th channel to a head",
        "a view without a transpose",
    ),
    "head merge": (
        "heads side by side",
        "a view without a transpose",
        "the channels of the heads in turn",
    ),
    "mask": (
        "up to the position itself",
        "none",
        "one position too many",
        "inverted",
        "after the softmax",
        "future scores 0, not minus infinity",
        "the position itself hidden",
    ),
    "softmax": ("over the keys", "over the queries", "over the heads"),
    "positions": (
        "0, 1, 2, ...",
        "1, 2, 3, ...",
        "2, 3, 4, ...",
        "0, 0, 0, ...",
        "none",
        "scaled by sqrt(n_embd)",
    ),
    "tokens": ("as they are", "scaled by sqrt(n_embd)", "the row after", "the row before"),
    "layers": (
        "in order",
        "in the order of their names as text",
        "reversed",
        "without the last",
        "the first for all",
    ),
    "lost": ("nothing",),  # or a vector by its name, or "the query's part of h.attn.c_attn.bias"
    "transposed": ("nothing",),  # or any matrix of the blocks, by its name
}


def forward(
    tensors: Mapping[str, Tensor],
    config: GPT2Config,
    token_ids: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    mistakes: Mapping[str, str] | None = None,
    constants: Mapping[str, float] | None = None,
    shown: Tensor | None = None,
) -> Tensor:
    """Logits [batch, time, vocab] of a checkpoint's tensors, or of the tokens `shown` alone.

    `mistakes` says what is got wrong: fact -> what it is instead. `constants` gives other values to "epsilon of ln_1",
    "epsilon of ln_2", "epsilon of ln_f" and "attention scale".
    """
    choice = {fact: options[0] for fact, options in FACTS.items()} | dict(mistakes or {})
    choice |= {name: repr(value) for name, value in (constants or {}).items()}
    weights = _given({key: tensor.to(dtype) for key, tensor in tensors.items()}, choice)
    x = _embed(weights, config, token_ids, choice)
    for number, layer in enumerate(_layers(config.n_layer, choice["layers"])):
        block = {
            key.removeprefix(f"h.{layer}."): t
            for key, t in weights.items()
            if key.startswith(f"h.{layer}.")
        }
        x = _block(x, block, config, number, choice)
    for _ in range({"applied once": 1, "absent": 0, "applied twice": 2}[choice["final norm"]]):
        x = _norm(x, weights, "ln_f", config, choice)
    return x @ (weights["wte.weight"] if shown is None else weights["wte.weight"][shown]).t()


def _given(weights: Tensors, choice: Mapping[str, str]) -> Tensors:
    """The weights, less what is lost, and with a matrix in the wrong orientation."""
    lost, transposed = choice["lost"], choice["transposed"]
    n_layer = sum(key.endswith(".ln_1.weight") for key in weights)
    square = {"divided by sqrt(n_layer)": n_layer, "divided by sqrt(2 n_layer)": 2 * n_layer}.get(
        choice["branches"]
    )
    for key, tensor in weights.items():
        if square and ".c_proj." in key:
            weights[key] = tensor / math.sqrt(square)
        if _named(key, lost):
            weights[key] = (
                torch.ones_like(tensor) if key.endswith("weight") else torch.zeros_like(tensor)
            )
        if lost.startswith("the ") and _named(
            key, "h.attn.c_attn.bias"
        ):  # the query's, the key's or the value's part of it
            weights[key] = tensor.clone()
            weights[key].view(3, -1)[("query", "key", "value").index(lost.split("'")[0][4:])] = 0
        if _named(key, transposed):  # what nn.Linear makes of it when it is copied by shape
            weights[key] = tensor.reshape(tensor.shape[::-1]).t()
    return weights


def _named(key: str, name: str) -> bool:
    """Whether a tensor has this name: `h.mlp.c_fc.bias` is that of every block."""
    parts = key.split(".")
    return key == name or (parts[0] == "h" and ".".join(["h", *parts[2:]]) == name)


def _layers(n_layer: int, order: str) -> list[int]:
    layers = list(range(n_layer))
    return {
        "in order": layers,
        "in the order of their names as text": sorted(layers, key=str),
        "reversed": layers[::-1],
        "without the last": layers[:-1],
        "the first for all": [0] * n_layer,
    }[order]


def _embed(
    weights: Tensors, config: GPT2Config, token_ids: Tensor, choice: Mapping[str, str]
) -> Tensor:
    shift = {"the row after": 1, "the row before": -1}.get(choice["tokens"], 0)
    tokens = weights["wte.weight"][(token_ids + shift) % config.vocab_size]
    if choice["tokens"] == "scaled by sqrt(n_embd)":
        tokens = tokens * math.sqrt(config.n_embd)
    first = {"1, 2, 3, ...": 1, "2, 3, 4, ...": 2}.get(choice["positions"], 0)
    steps = torch.arange(token_ids.size(1)) * (choice["positions"] != "0, 0, 0, ...") + first
    positions = weights["wpe.weight"][steps % config.n_positions]
    if choice["positions"] == "scaled by sqrt(n_embd)":
        positions = positions * math.sqrt(config.n_embd)
    return tokens + positions * (choice["positions"] != "none")


def _block(
    x: Tensor, w: Tensors, config: GPT2Config, number: int, choice: Mapping[str, str]
) -> Tensor:
    first, second = (
        ("ln_2", "ln_1") if choice["norms"] == "with ln_1 and ln_2 exchanged" else ("ln_1", "ln_2")
    )
    if choice["norms"] == "after them, on the sum":
        x = _norm(x + _attention(x, w, config, number, choice), w, first, config, choice)
        return _norm(x + _mlp(x, w, choice), w, second, config, choice)
    normed = _norm(x, w, first, config, choice)
    after_attention = _kept(x, normed, choice) + _attention(normed, w, config, number, choice)
    if choice["blocks"] == "the MLP beside attention":
        return after_attention + _mlp(_norm(x, w, second, config, choice), w, choice)
    normed = _norm(after_attention, w, second, config, choice)
    return _kept(after_attention, normed, choice) + _mlp(normed, w, choice)


def _kept(x: Tensor, normed: Tensor, choice: Mapping[str, str]) -> Tensor:
    return {"of x": x, "of the normalised x": normed, "absent": torch.zeros_like(x)}[
        choice["residual"]
    ]


def _norm(
    x: Tensor, w: Mapping[str, Tensor], name: str, config: GPT2Config, choice: Mapping[str, str]
) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    unbiased = choice["variance"] != FACTS["variance"][0]
    variance = centred.pow(2).sum(-1, keepdim=True) / (config.n_embd - unbiased)
    if choice["mean"] != "subtracted":
        centred, variance = x, x.pow(2).mean(-1, keepdim=True)
    epsilon = float(choice.get(f"epsilon of {name}", config.layer_norm_epsilon))
    root = {
        "inside the root": (variance + epsilon).sqrt(),
        "outside the root": variance.sqrt() + epsilon,
        "absent": variance.sqrt(),
        "1e-6 in every norm": (variance + 1e-6).sqrt(),
    }[choice["epsilon"]]
    return centred / root * w[f"{name}.weight"] + w[f"{name}.bias"]


def _mlp(x: Tensor, w: Tensors, choice: Mapping[str, str]) -> Tensor:
    hidden = ACTIVATIONS[choice["activation"]](x @ w["mlp.c_fc.weight"] + w["mlp.c_fc.bias"])
    return hidden @ w["mlp.c_proj.weight"] + w["mlp.c_proj.bias"]


def _attention(
    x: Tensor, w: Tensors, config: GPT2Config, number: int, choice: Mapping[str, str]
) -> Tensor:
    n_head = {
        "half of n_head": config.n_head // 2,
        "twice n_head": 2 * config.n_head,
        "one": 1,
    }.get(choice["heads"], config.n_head)
    q, k, v = _split(
        x @ w["attn.c_attn.weight"] + w["attn.c_attn.bias"], n_head, choice
    )  # [batch, head, time, width]
    scale = {
        "1/sqrt(head width)": q.size(-1) ** -0.5,
        "1": 1.0,
        "1/sqrt(n_embd)": config.n_embd**-0.5,
        "1/head width": 1 / q.size(-1),
        "1/sqrt(n_head)": n_head**-0.5,
        "1/sqrt(head width)/(layer + 1)": q.size(-1) ** -0.5 / (number + 1),
    }[choice["scale"]]
    scale = float(choice.get("attention scale", scale))
    y = _weights(q @ k.transpose(-1, -2) * scale, choice) @ v
    merged = {
        "heads side by side": y.transpose(1, 2),
        "a view without a transpose": y,
        "the channels of the heads in turn": y.permute(0, 2, 3, 1),
    }[choice["head merge"]]
    return merged.reshape(x.shape) @ w["attn.c_proj.weight"] + w["attn.c_proj.bias"]


def _split(qkv: Tensor, n_head: int, choice: Mapping[str, str]) -> tuple[Tensor, Tensor, Tensor]:
    batch, time, three_widths = qkv.shape
    width = three_widths // 3 // n_head
    if choice["qkv layout"] == "three thirds":
        parts = qkv.split(three_widths // 3, dim=-1)
    else:
        groups = n_head if choice["qkv layout"] == "q, k, v of one head after the other" else 2
        parts = tuple(part.flatten(2) for part in qkv.view(batch, time, groups, 3, -1).unbind(3))
    heads = {
        "neighbouring channels to a head": lambda t: t.reshape(
            batch, time, n_head, width
        ).transpose(1, 2),
        "every n_head-th channel to a head": lambda t: t.reshape(
            batch, time, width, n_head
        ).permute(0, 3, 1, 2),
        "a view without a transpose": lambda t: t.reshape(batch, n_head, time, width),
    }[choice["head split"]]
    named = dict(zip(choice["qkv order"].split(", "), map(heads, parts), strict=True))
    return named["q"], named["k"], named["v"]


def _weights(scores: Tensor, choice: Mapping[str, str]) -> Tensor:
    """Attention weights from scores [batch, head, query, key]."""
    mask = choice["mask"]
    ones = torch.ones(scores.shape[-2:], dtype=torch.bool)
    seen = {
        "none": ones,
        "one position too many": ones.tril(1),
        "inverted": ones.triu(1),
        "the position itself hidden": ones.tril(-1),
    }.get(mask, ones.tril())
    dim = {"over the keys": -1, "over the queries": -2, "over the heads": 1}[choice["softmax"]]
    if mask == "after the softmax":
        return scores.softmax(dim) * seen
    hidden = 0.0 if mask == "future scores 0, not minus infinity" else torch.finfo(scores.dtype).min
    return scores.masked_fill(~seen, hidden).softmax(dim)
