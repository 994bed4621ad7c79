"""The steps of CompleteGPT2, by what they can change."""

from __future__ import annotations

from typing import Literal

AnswerKind = Literal["logits", "tokens", "text"]

TEXT = frozenset({"encode", "decode"})
SAMPLER = frozenset({"check", "generators", "uniform", "next_token", "probabilities", "draw"})
LOOP = frozenset(
    {"generate", "generate_ragged", "ends_at_once", "ends", "next_logits", "padding", "crop"}
)
LOADING = frozenset({"configure", "read", "convert", "state_dict"})
# The steps that treat tokens fed one by one differently from tokens fed at once.
FEEDING = frozenset({"prefill", "step", "extend", "positions", "mask"})


def can_change(steps: frozenset[str], kind: AnswerKind) -> bool:
    """Return whether an entry that overrides these steps can change an answer of this kind.

    A wrong sampler can't change a logit, and a wrong tokenizer can't change a token.
    """
    if kind == "text":
        return bool(steps & TEXT)
    return not steps <= (TEXT if kind == "tokens" else TEXT | SAMPLER | LOOP)
