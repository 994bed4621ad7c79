"""Mistakes of the catalogue in transformers' GPT-2: patches of a loaded model, by their ids.

They share no code with the catalogue's entries: each is a hook, or a part that is replaced, in
terms of transformers' modules and options. So they show whether the diagnosis names a mistake in
code that nobody here wrote. Attention must be transformers' own (`attn_implementation="eager"`).
"""

from __future__ import annotations

from . import attention, cache, generation, layers, stack
from .parts import Patch

PATCHES: dict[str, Patch] = (
    layers.PATCHES | attention.PATCHES | stack.PATCHES | cache.PATCHES | generation.PATCHES
)
