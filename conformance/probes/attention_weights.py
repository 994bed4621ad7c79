"""What each position sees, read as numbers: the attention matrix of every head of a layer.

Attention is in one layer alone, and there each query and each key is all SAME, by c_attn's bias: all scores are equal, and
the mask alone decides. Each position that is read has a code in wpe, +LOUD in one channel and -LOUD in the next, which ln_1
makes +-sqrt(n_embd / 2) but for epsilon. c_attn makes of the code of position p a value in channel p of each head, and of
any other code 0, so that channel p of a head's output is the weight that it gives to p, times that value. c_proj writes it
to a pair of residual channels of its own, + and -, so that the mean stays zero. One reader token a pair has +1/2 and -1/2
there as its embedding. Its logit is the weight, but for the final LayerNorm, which is undone exactly; a mean that is off by
rounding is so in both channels alike, and falls out. Every number in the checkpoint is a power of two, which no dtype rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import Tensors, blank
from .forward import FACTS, forward

LOUD, SAME = 32.0, 0.5
TOKEN, FIRST_READER = 5, 1000
PAIR = torch.tensor([1.0, -1.0])

VISIBILITY = GPT2Config(n_positions=16, n_embd=96, n_layer=2, n_head=2)


def positions(config: GPT2Config) -> list[int]:
    """Those that are read: all if there is room, else a third of them first, a third last, and the others between."""
    room = min(config.n_positions, config.head_width, config.n_embd // (2 * (config.n_head + 1)))
    edge, last = room // 3, config.n_positions
    between = torch.linspace(edge, last - edge - 1, room - 2 * edge).round().int().tolist()
    return [*range(edge), *between, *range(last - edge, last)]


def value(config: GPT2Config) -> float:
    """Of a code's channels after ln_1, and so of a position's value."""
    return LOUD / math.sqrt(2 * LOUD**2 / config.n_embd + config.layer_norm_epsilon)


def gain(config: GPT2Config) -> float:
    """Of value and c_proj together. The squares of what the first position writes, once a head, add up to about 2 LOUD^2."""
    return float(
        2 ** round(math.log2(LOUD * math.sqrt(2 / config.n_head) / value(config)))
    ) * value(config)


def token_ids(config: GPT2Config) -> Tensor:
    """int64 [1, n_positions]: a token whose embedding is zero, at every position."""
    return torch.full((1, config.n_positions), TOKEN)


def tensors(config: GPT2Config, layer: int) -> Tensors:
    made, read = blank(config), positions(config)
    made[f"h.{layer}.attn.c_attn.bias"][: 2 * config.n_embd] = SAME
    for code, position in enumerate(read):
        made["wpe.weight"][position, 2 * code : 2 * code + 2] = LOUD * PAIR
        for head in range(config.n_head):
            reader = head * len(read) + code
            channel, pair = head * config.head_width + code, 2 * (len(read) + reader)
            made[f"h.{layer}.attn.c_attn.weight"][
                2 * code : 2 * code + 2, 2 * config.n_embd + channel
            ] = PAIR / 2
            made[f"h.{layer}.attn.c_proj.weight"][channel, pair : pair + 2] = (
                gain(config) / value(config) * PAIR
            )
            made["wte.weight"][FIRST_READER + reader, pair : pair + 2] = PAIR / 2
    return made


def read(logits: Tensor, config: GPT2Config) -> Tensor:
    """The weights [head, query, key] of the positions that are read, float64, from the logits [time, vocab].

    A logit is r = v / s with v = gain w, where s^2 = (2 LOUD^2 + 2 sum v^2) / n_embd + epsilon is the variance of the
    residual stream. With sum v^2 = s^2 sum r^2 this gives s^2, and with it w = r s / gain.
    """
    at, n = positions(config), config.n_embd
    readers = logits[at, FIRST_READER : FIRST_READER + config.n_head * len(at)].double()
    # Less the logit of a token whose embedding is zero, so that it does not matter whether logits are centred.
    r = readers - logits[at, FIRST_READER - 1 : FIRST_READER].double()  # [query, head and key]
    rest = (1 - 2 * r.pow(2).sum(-1, keepdim=True) / n).clamp(min=1e-12)
    weights = r * ((2 * LOUD**2 / n + config.layer_norm_epsilon) / rest).sqrt() / gain(config)
    return weights.view(len(at), config.n_head, len(at)).transpose(0, 1)


def expected(config: GPT2Config) -> Tensor:
    """1 / (i + 1) for the i + 1 positions up to i, of which only those that are read are seen here: [head, query, key]."""
    at = torch.tensor(positions(config), dtype=torch.float64)
    return (1 / (at[:, None] + 1)).where(at <= at[:, None], 0.0).expand(config.n_head, -1, -1)


def off(weights: Tensor, truth: Tensor, config: GPT2Config, dtype: torch.dtype) -> Tensor:
    """Errors in multiples of what is allowed: some roundings of the weight itself, and one of the code beside it, as int8
    rounds a whole row in steps of its largest number.

    `read` takes s from all of a row's logits: their error comes back as the (sum v^2 / LOUD^2)-fold in each weight.
    """
    beside = gain(config) / LOUD
    carried = 1 + (beside * truth).pow(2).sum((0, 2), keepdim=True)[0]  # [query, 1]
    allowed = torch.finfo(dtype).eps * (8 * truth + 1 / beside) * carried
    return (weights - truth).abs().nan_to_num(nan=math.inf) / allowed


def explained_by(weights: Tensor, config: GPT2Config, dtype: torch.dtype, fact: str) -> list[str]:
    """The mistakes of a fact that give just these weights, whatever the layer: the blank ones are left out."""
    n_readers = config.n_head * len(positions(config))
    alone = replace(config, n_layer=1, vocab_size=FIRST_READER + n_readers)
    made, ids = tensors(alone, 0), token_ids(alone)

    def mistaken(mistakes: Mapping[str, str]) -> Tensor:
        return read(forward(made, alone, ids, mistakes=mistakes)[0], alone)

    return [
        f"{fact}: {choice}"
        for choice in FACTS[fact][1:]
        if (off(weights, mistaken({fact: choice}), config, dtype) <= 1).all()
    ]


def first_wrong(weights: Tensor, config: GPT2Config, dtype: torch.dtype) -> str:
    """The first position that sees what it should not, or otherwise than it should, in a sentence."""
    truth = expected(config)
    errors = off(weights, truth, config, dtype)
    query, head = (errors > 1).any(-1).t().nonzero()[0].tolist()
    at, times = positions(config)[query], float(errors[head, query].max())
    sees = _told(
        weights[head, query], config, off(weights, 0 * truth, config, dtype)[head, query] > 1
    )
    should = _told(truth[head, query], config, truth[head, query] > 0)
    return f"head {head}: position {at} sees {sees}; GPT-2's sees {should}. {times:.3g} times as far off as is allowed"


def _told(weights: Tensor, config: GPT2Config, seen: Tensor) -> str:
    """0..3 with 0.25 each. Positions that are not read are taken for seen between two that are."""
    runs: list[list[int]] = []
    for number, position in enumerate(positions(config)):
        if seen[number]:
            if number == 0 or not seen[number - 1]:
                runs.append([position, position])
            runs[-1][1] = position
    if not runs:
        return "none of those that are read"
    numbers = [f"{float(weight):.4g}" for weight in weights[seen]]
    if len(set(numbers)) == 1:
        told = numbers[0] + " each" * (len(numbers) > 1)
    else:
        told = "weights " + ", ".join(numbers[:6]) + ", ..." * (len(numbers) > 6)
    return (
        ", ".join(f"{first}..{last}" if first < last else str(first) for first, last in runs)
        + f" with {told}"
    )
