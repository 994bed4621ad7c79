"""Checkpoints that say what we choose: generation programmed by weights.

The words of a script are codes, +1 in one residual dimension and -1 in the next, so that they are orthogonal to each
other and have mean zero. The final LayerNorm scales whatever code is largest in the residual stream to a fixed length,
and the tied head reads it back: with width 64 and gain 4 the chosen token's logit is 45, every other token's below 2.
The chance of another token, at temperature 1 and over the whole vocabulary, is 50257 e^-43 < 2e-14 a step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from gpt2ref import GPT2Config

from .checkpoints import DICE, Tensors, blank

SCRIPT = GPT2Config(n_positions=32, n_embd=64, n_layer=2, n_head=4)
_LOUD = 40.0  # a script's word beside the embedding of the token just fed, which is 1


def _with_words(tokens: Sequence[int]) -> tuple[Tensors, dict[int, int]]:
    """A checkpoint whose head reads the codes of the given tokens; token -> its first dimension."""
    tensors = blank(SCRIPT)
    tensors["ln_f.weight"].fill_(4.0)
    words = {token: 2 * index for index, token in enumerate(dict.fromkeys(tokens))}
    if len(words) > SCRIPT.n_embd // 2:
        raise ValueError(f"{len(words)} different tokens, a script has room for {SCRIPT.n_embd // 2}")
    for token, dim in words.items():
        tensors["wte.weight"][token, dim : dim + 2] = torch.tensor([1.0, -1.0])
    return tensors, words


def by_position(tokens: Sequence[int]) -> Tensors:
    """The token at position p is followed by tokens[p], whatever it is."""
    tensors, words = _with_words(tokens)
    for position, token in enumerate(tokens):
        dim = words[token]
        tensors["wpe.weight"][position, dim : dim + 2] = torch.tensor([_LOUD, -_LOUD])
    return tensors


def chain(followers: Mapping[int, int]) -> Tensors:
    """Each token is followed by followers[token], wherever it stands: one MLP unit of the first block a token.

    After ln_2 the code of the token is (+s, -s), s = sqrt(n_embd / 2). Its unit gets 20 - 10, every other unit -10,
    and gelu(10) = 10, gelu(-10) = 0 to 1e-22.
    """
    tensors, words = _with_words([*followers, *followers.values()])
    s = math.sqrt(SCRIPT.n_embd / 2)
    for unit, (token, follower) in enumerate(followers.items()):
        tensors["h.0.mlp.c_fc.weight"][words[token], unit] = 10.0 / s
        tensors["h.0.mlp.c_fc.weight"][words[token] + 1, unit] = -10.0 / s
        tensors["h.0.mlp.c_fc.bias"][unit] = -10.0
        tensors["h.0.mlp.c_proj.weight"][unit, words[follower]] = _LOUD / 10.0
        tensors["h.0.mlp.c_proj.weight"][unit, words[follower] + 1] = -_LOUD / 10.0
    return tensors


NEVER = -100.0  # a logit: e^-100, times 50,257 tokens, is no chance at all


def dice(logits: Mapping[int, float]) -> Tensors:
    """The next token's logits are the given ones, exactly, whatever the context; every other token's are NEVER.

    The final LayerNorm's gain is zero and its bias the first unit vector, so the logits are wte[:, 0].
    """
    tensors = blank(DICE)
    tensors["ln_f.weight"].zero_()
    tensors["ln_f.bias"][0] = 1.0
    tensors["wte.weight"][:, 0] = NEVER
    for token, logit in logits.items():
        tensors["wte.weight"][token, 0] = logit
    return tensors
