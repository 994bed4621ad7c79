"""A case: a checkpoint, calls, and which requirements they decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..diagnosis.question import BLOCKS

Call = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A case, before its answers are known.

    `requirements`: those that it decides, the main one first. `calls`: what is asked of the loaded
    checkpoint, in turn (docs/vectors.md). `refused`: an error is expected. `words`: an error counts
    as a refusal only if it has one of these. `parts`: those of a GPT-2 that decide the answers.
    `tokens`: the tokens whose logits are compared; None for all.
    """

    id: str
    requirements: tuple[str, ...]
    sentence: str
    checkpoint: str
    calls: tuple[Call, ...]
    parts: frozenset[str] = BLOCKS
    refused: bool = False
    words: tuple[str, ...] = ()
    tokens: tuple[int, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the case's file, without the answers."""
        return {
            "id": self.id,
            "requirements": list(self.requirements),
            "sentence": self.sentence,
            "checkpoint": f"checkpoints/{self.checkpoint}",
            "parts": sorted(self.parts),
            "calls": [dict(call) for call in self.calls],
            "tokens": None if self.tokens is None else list(self.tokens),
            "refusal_words": list(self.words),
        }


def logits(token_ids: list[list[int]], positions: list[int] | None = None) -> Call:
    """Return the call that asks for logits. `positions`: those that are compared; None for all."""
    return {"do": "logits", "token_ids": token_ids, "positions": positions}


def prefill(token_ids: list[list[int]], positions: list[int] | None = None) -> Call:
    return {"do": "prefill", "token_ids": token_ids, "positions": positions}


def step(token_ids: list[list[int]], after: int, positions: list[int] | None = None) -> Call:
    """Return the call that goes on from the cache which the call number `after` returned."""
    return {"do": "step", "token_ids": token_ids, "after": after, "positions": positions}


def generate(token_ids: list[list[int]], max_new_tokens: int, **options: Any) -> Call:
    defaults: Call = {"temperature": 0.0, "top_k": None, "seed": 7}
    defaults |= {"uniforms": None, "frequencies": False}
    prompts = {"token_ids": token_ids, "max_new_tokens": max_new_tokens}
    return {"do": "generate"} | prompts | defaults | options


def ragged(token_ids: list[list[int]], max_new_tokens: int) -> Call:
    return generate(token_ids, max_new_tokens) | {"do": "generate_ragged"}


def in_pieces(token_ids: list[list[int]], sizes: list[int]) -> tuple[Call, ...]:
    """Return the calls that feed a sequence in pieces, each from the cache of the one before."""
    calls, start = list[Call](), 0
    for number, size in enumerate(sizes):
        piece = [row[start : start + size] for row in token_ids]
        calls.append(step(piece, number - 1) if number else prefill(piece))
        start += size
    return tuple(calls)
