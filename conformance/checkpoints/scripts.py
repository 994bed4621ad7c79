"""Checkpoints that say what we choose: generation programmed by weights.

The words of a script are codes, +1 in one residual dimension and -1 in the next, so that they are orthogonal to each
other and have mean zero. The final LayerNorm scales whatever code is largest in the residual stream to a fixed length,
and the tied head reads it back: with width 64 and gain 4 the chosen token's logit is 45, every other token's below 2.
The chance of another token, at temperature 1 and over the whole vocabulary, is 50257 e^-43 < 2e-14 a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from gpt2ref import GPT2Config

from .tensors import DICE, Tensors, blank

SCRIPT = GPT2Config(n_positions=32, n_embd=64, n_layer=2, n_head=4)
INDUCTION = GPT2Config(n_positions=32, n_embd=128, n_layer=2, n_head=2)
_LOUD = 40.0  # a script's word beside the embedding of the token just fed, which is 1
_GAP = 32.0  # between attention scores: all other positions together have a weight below 31 e^-32 < 4e-13
_CODE = torch.tensor([1.0, -1.0])


def _with_words(
    tokens: Sequence[int], config: GPT2Config = SCRIPT, room: int = SCRIPT.n_embd // 2
) -> tuple[Tensors, dict[int, int]]:
    """A checkpoint whose head reads the codes of the given tokens; token -> its first dimension."""
    tensors = blank(config)
    tensors["ln_f.weight"].fill_(4.0)
    words = {token: 2 * index for index, token in enumerate(dict.fromkeys(tokens))}
    if len(words) > room:
        raise ValueError(f"{len(words)} different tokens, a script has room for {room}")
    for token, dim in words.items():
        tensors["wte.weight"][token, dim : dim + 2] = _CODE
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


_ROOM = (INDUCTION.n_embd // 2 - INDUCTION.n_positions) // 3  # words
_BEFORE, _TWO_BEFORE, _POSITIONS = (
    2 * _ROOM,
    4 * _ROOM,
    6 * _ROOM,
)  # the first dimensions of the other codes


def induction(tokens: Sequence[int]) -> Tensors:
    """A pair of the given tokens is followed by what followed it before. In one text no pair may have two followers.

    Head h of layer 0 writes the word 1 + h positions before, or the first word, as a code of its own: that position has
    the score _GAP, and the next position, which the mask hides, twice that. In layer 1 the query is the word and the word
    before, the key the words one and two before: where the first are the same the score is _GAP higher, where the second
    are 2 _GAP, so that a wrong word before misleads. The value is the word, written _LOUD: its logit is 64, others' below 2.
    """
    tensors, words = _with_words(tokens, INDUCTION, _ROOM)
    for head in range(INDUCTION.n_head):
        _look_back(tensors, head, words.values())
    query = _GAP * math.sqrt(INDUCTION.head_width)
    for dim in words.values():
        _read(tensors, "h.1", "q", dim, dim, query)
        _read(tensors, "h.1", "k", dim, _BEFORE + dim)
        _read(tensors, "h.1", "q", dim + 1, _BEFORE + dim, 2 * query)
        _read(tensors, "h.1", "k", dim + 1, _TWO_BEFORE + dim)
        _read(tensors, "h.1", "v", dim, dim)
        tensors["h.1.attn.c_proj.weight"][dim, dim : dim + 2] = _LOUD * _CODE
    return tensors


def _look_back(tensors: Tensors, head: int, words: Iterable[int]) -> None:
    first, query = head * INDUCTION.head_width, _GAP * math.sqrt(INDUCTION.head_width)
    for position in range(INDUCTION.n_positions):
        dim = _POSITIONS + 2 * position
        tensors["wpe.weight"][position, dim : dim + 2] = _CODE
        _read(tensors, "h.0", "k", first + position, dim)
        _read(tensors, "h.0", "q", first + max(position - 1 - head, 0), dim, query)
        if position + 1 < INDUCTION.n_positions:
            _read(tensors, "h.0", "q", first + position + 1, dim, 2 * query)
    for dim in words:
        _read(tensors, "h.0", "v", first + dim, dim)
        written = (_BEFORE, _TWO_BEFORE)[head] + dim
        tensors["h.0.attn.c_proj.weight"][first + dim, written : written + 2] = _CODE


def _read(
    tensors: Tensors, layer: str, part: str, channel: int, dim: int, gain: float = 1.0
) -> None:
    """This channel of queries, keys or values is the gain where there is the code of this dimension.

    After ln_1 a code is (+s, -s), s = sqrt(n_embd / 4) in layer 0, with the codes of a word and a position, and
    sqrt(n_embd / 8) in layer 1, with those of two more words.
    """
    n_embd = INDUCTION.n_embd
    s = math.sqrt(n_embd / {"h.0": 4, "h.1": 8}[layer])
    tensors[f"{layer}.attn.c_attn.weight"][dim : dim + 2, "qkv".index(part) * n_embd + channel] = (
        _CODE * gain / (2 * s)
    )


# Of a die: tokens of all parts of the vocabulary, the first and the last before EOS included; two of them tied.
FACES = {50255: 2.0, 17: 1.25, 0: 0.5, 31000: 0.5, 1024: -0.5}
NEVER = -100.0  # a logit: e^-100, times 50,257 tokens, is no chance at all


def dice(logits: Mapping[int, float], offset: float = 0.0) -> Tensors:
    """The next token's logits are the given ones, exactly, whatever the context; every other token's are NEVER.

    The offset is added to all of them: to their probabilities it makes no difference.

    The final LayerNorm's gain is zero and its bias the first unit vector, so the logits are wte[:, 0].
    """
    tensors = blank(DICE)
    tensors["ln_f.weight"].zero_()
    tensors["ln_f.bias"][0] = 1.0
    tensors["wte.weight"][:, 0] = NEVER
    for token, logit in logits.items():
        tensors["wte.weight"][token, 0] = logit
    tensors["wte.weight"][:, 0] += offset
    return tensors
