"""Checkpoints that generate chosen tokens: the weights are the program.

The words of a script are codes, +1 in one residual dimension and -1 in the next, so they are
orthogonal to each other and have mean zero. The final LayerNorm scales the largest code in the
residual stream to a fixed length, and the tied head reads it back: with width 64 and gain 4 the
chosen token's logit is 45, and that of every other token below 2. At temperature 1 and over the
whole vocabulary, the chance of another token is 50257 e^-43 < 2e-14 for each step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from gpt2ref import GPT2Config

from .tensors import DICE, Tensors, blank

SCRIPT = GPT2Config(n_positions=32, n_embd=64, n_layer=2, n_head=4)
INDUCTION = GPT2Config(n_positions=32, n_embd=128, n_layer=2, n_head=2)
_LOUD = 40.0  # the size of a word; the embedding of the token just fed has size 1
# The difference of attention scores: all other positions together weigh 31 e^-32 < 4e-13 at most.
_GAP = 32.0
_CODE = torch.tensor([1.0, -1.0])


def _with_words(
    tokens: Sequence[int], config: GPT2Config = SCRIPT, room: int = SCRIPT.n_embd // 2
) -> tuple[Tensors, dict[int, int]]:
    """Return a checkpoint whose head reads the codes of the tokens, and each code's dimension."""
    tensors = blank(config)
    tensors["ln_f.weight"].fill_(4.0)
    words = {token: 2 * index for index, token in enumerate(dict.fromkeys(tokens))}
    if len(words) > room:
        raise ValueError(f"{len(words)} different tokens, a script has room for {room}")
    for token, dim in words.items():
        tensors["wte.weight"][token, dim : dim + 2] = _CODE
    return tensors, words


def by_position(tokens: Sequence[int]) -> Tensors:
    """Return a checkpoint in which any token at position p is followed by tokens[p]."""
    tensors, words = _with_words(tokens)
    for position, token in enumerate(tokens):
        dim = words[token]
        tensors["wpe.weight"][position, dim : dim + 2] = torch.tensor([_LOUD, -_LOUD])
    return tensors


def chain(followers: Mapping[int, int]) -> Tensors:
    """Return a checkpoint in which each token is followed by followers[token] at any position.

    One MLP unit of the first block does it for each token. After ln_2 the code of the token is
    (+s, -s), s = sqrt(n_embd / 2). Its unit gets 20 - 10, every other unit -10, and gelu(10) = 10,
    gelu(-10) = 0 to 1e-22.
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
# The first dimensions of the other codes.
_BEFORE, _TWO_BEFORE, _POSITIONS = 2 * _ROOM, 4 * _ROOM, 6 * _ROOM


def induction(tokens: Sequence[int]) -> Tensors:
    """Return a checkpoint in which a pair of tokens is followed by what followed it before.

    In one text no pair may have two followers. Head h of layer 0 writes the word 1 + h positions
    before, or the first word, as a code of its own: that position has the score _GAP, and the next
    position, which the mask hides, twice that. In layer 1 the query is the word and the word
    before, the key the words one and two before. Where the first are the same the score is _GAP
    higher, where the second are 2 _GAP, so a wrong word before misleads. The value is the word,
    written _LOUD: its logit is 64, and that of every other word below 2.
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
    """Make a channel of queries, keys or values the gain where the code of a dimension is.

    After ln_1 a code is (+s, -s): s = sqrt(n_embd / 4) in layer 0, with the codes of a word and a
    position, and sqrt(n_embd / 8) in layer 1, with those of two more words.
    """
    n_embd = INDUCTION.n_embd
    s = math.sqrt(n_embd / {"h.0": 4, "h.1": 8}[layer])
    tensors[f"{layer}.attn.c_attn.weight"][dim : dim + 2, "qkv".index(part) * n_embd + channel] = (
        _CODE * gain / (2 * s)
    )


# A die's tokens and logits: from all parts of the vocabulary, with the first token and the last one
# before EOS. Two of them are tied.
FACES = {50255: 2.0, 17: 1.25, 0: 0.5, 31000: 0.5, 1024: -0.5}
NEVER = -100.0  # the logit of every other token: e^-100 times 50,257 tokens is no chance at all


def dice(logits: Mapping[int, float], offset: float = 0.0) -> Tensors:
    """Return a checkpoint whose next token has exactly these logits in any context.

    Every other token has NEVER. The offset is added to all logits, which changes no probability.
    The final LayerNorm's gain is zero and its bias the first unit vector: logits are wte[:, 0].
    """
    tensors = blank(DICE)
    tensors["ln_f.weight"].zero_()
    tensors["ln_f.bias"][0] = 1.0
    tensors["wte.weight"][:, 0] = NEVER
    tensors["wte.weight"][list(logits), 0] = torch.tensor(list(logits.values()))
    tensors["wte.weight"][:, 0] += offset
    return tensors
