"""Scripts with as many codes as tokens or positions: each code is a set of waves.

A number t has the code cos(2 pi (k t / period + m / 3)) for each harmonic k and m = 0, 1, 2. The
three phases add up to zero, so a code has mean zero, and a linear map turns the code of t into that
of t + n, for any n. Two codes have the inner product 1.5 * sum of cos(2 pi k (t - u) / period). The
harmonics were drawn until no two codes were close (the shares are below).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gpt2ref import EOS, GPT2Config

from .tensors import Tensors, blank

# Of 150 draws of ten from 1 to EOS / 2: other codes have at most 0.74 of a code's product with
# itself.
_OF_TOKENS = (443, 2160, 3262, 3558, 6515, 7177, 11199, 15187, 19289, 20263)
# Of 2000 draws of twelve from 1 to 511: at most 0.46.
_OF_POSITIONS = (18, 87, 151, 211, 237, 258, 313, 320, 358, 374, 405, 480)
# The largest logit of a successor is a third, and no other comes nearer to it than 0.08.
_SOFT = 1 / 64
_LOUD = 40.0  # the size of what is said; the code of the token just fed has size 1

SUCCESSOR = GPT2Config(n_embd=3 * len(_OF_TOKENS), n_layer=1, n_head=3)
ECHO = GPT2Config(n_embd=80, n_layer=1, n_head=2)
COUNTING = GPT2Config(n_embd=3 * len(_OF_POSITIONS), n_layer=1, n_head=3)
# The tokens of an echo.
WORDS = (0, 11, 13, 198, 262, 628, 1135, 2061, 4096, 9999, 20000, 31000, 40000, 50000, 50254, 50255)


def successor() -> Tensors:
    """Return a checkpoint in which token t is followed by t + 1, at any position.

    50255 is followed by 0: EOS is never said. Logits are small, so that a small bias for or against
    a token shows. The MLP makes the code of the successor: with a bias of 10 its units are where
    gelu(x) = x.
    """
    tensors, n_embd = blank(SUCCESSOR), SUCCESSOR.n_embd
    tensors["ln_f.weight"].fill_(_SOFT)
    tensors["wte.weight"][:EOS] = _codes(_OF_TOKENS, EOS, EOS)
    # A code has the variance 1/2, so ln_2 multiplies it by sqrt(2).
    turned = _turn(_OF_TOKENS, EOS, 1) * _LOUD / math.sqrt(2)
    tensors["h.0.mlp.c_fc.weight"][:, :n_embd] = torch.eye(n_embd)
    tensors["h.0.mlp.c_fc.bias"][:n_embd] = 10.0
    tensors["h.0.mlp.c_proj.weight"][:n_embd] = turned
    tensors["h.0.mlp.c_proj.bias"] = -10.0 * turned.sum(0)
    return tensors


def counting() -> Tensors:
    """Return a checkpoint in which a token that has row p of wpe is followed by token p.

    The tokens from n_positions on have an embedding of zero, and so no part in it.
    """
    tensors, n_positions = blank(COUNTING), COUNTING.n_positions
    codes = _codes(_OF_POSITIONS, n_positions, n_positions)
    tensors["wpe.weight"] = codes
    tensors["wte.weight"][:n_positions] = codes
    return tensors


def echo(distance: int) -> Tensors:
    """Return a checkpoint in which each new token is the one `distance` positions before it.

    The tokens are WORDS. The query at position p is the code of the position p + 1 - distance, and
    the score of that key is more than 40 above all others.
    """
    tensors, n_embd, n_positions = blank(ECHO), ECHO.n_embd, ECHO.n_positions
    first, last = 2 * len(WORDS), 2 * len(WORDS) + 3 * len(_OF_POSITIONS)
    for number, token in enumerate(WORDS):
        tensors["wte.weight"][token, 2 * number : 2 * number + 2] = torch.tensor([1.0, -1.0])
    tensors["wpe.weight"][:, first:last] = _codes(_OF_POSITIONS, n_positions, n_positions)
    tensors["ln_f.weight"].fill_(4.0)
    # A word and a position have the variance (2 + 18) / 80, so ln_1 doubles them.
    gain = 7.0 * math.sqrt(ECHO.head_width) / (1.5 * 2 * 2)
    c_attn, size = tensors["h.0.attn.c_attn.weight"], last - first
    c_attn[first:last, :size] = gain * _turn(_OF_POSITIONS, n_positions, 1 - distance)
    c_attn[first:last, n_embd : n_embd + size] = torch.eye(size)
    c_attn[:first, 2 * n_embd : 2 * n_embd + first] = torch.eye(first)
    tensors["h.0.attn.c_proj.weight"][:first, :first] = _LOUD / 2 * torch.eye(first)
    return tensors


def _codes(harmonics: tuple[int, ...], period: int, n: int) -> Tensor:
    """Return the codes of 0 to n - 1: float32 [n, 3 * harmonics]."""
    # The remainder first: the angle would lose digits as it grows.
    turns = torch.arange(n)[:, None] * torch.tensor(harmonics) % period / period
    phases = torch.arange(3) / 3
    return (2 * math.pi * (turns.double()[..., None] + phases)).cos().flatten(1).float()


def _turn(harmonics: tuple[int, ...], period: int, n: int) -> Tensor:
    """Return the matrix that multiplies the code of t from the right and gives that of t + n."""
    m = torch.arange(3)
    blocks = [
        2 / 3 * (2 * math.pi * (k * n % period / period + (m - m[:, None]) / 3)).cos()
        for k in harmonics
    ]
    return torch.block_diag(*blocks).float()
