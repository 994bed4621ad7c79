"""Prompts of different lengths in one batch: padding is not attended to and has no position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpt2ref import EOS

from .adapters.adapter import Adapter
from .adapters.refusal import accepted
from .checkpoints.tensors import SMALL, random_token_ids
from .requirements import requirement
from .test_generation import check_tokens

LENGTHS = (3, 11, 1, 7)
PROMPTS = [
    row[:n]
    for row, n in zip(
        random_token_ids(SMALL, batch=4, time=11, seed=12).tolist(), LENGTHS, strict=True
    )
]


def check_ragged(adapter: Adapter, small: Path, prompts: Sequence[Sequence[int]]) -> None:
    judged = adapter.load(small)
    judged.generate_ragged(prompts[:1], max_new_tokens=2, temperature=0.0)
    with accepted("a batch of prompts of different lengths"):
        new = judged.generate_ragged(prompts, max_new_tokens=6, temperature=0.0)
    for row, prompt in enumerate(prompts):
        what = f"row {row}, of {len(prompt)} tokens beside others: "
        check_tokens(adapter, small, [prompt], [new[row]], 6, what)


@requirement("generation.ragged")
def test_ragged(adapter: Adapter, small: Path) -> None:
    check_ragged(adapter, small, PROMPTS)


@requirement("generation.ragged-eos")
def test_eos_in_a_ragged_prompt(adapter: Adapter, small: Path) -> None:
    with_eos = [PROMPTS[0][0], EOS, PROMPTS[0][2]]
    check_ragged(adapter, small, [with_eos, PROMPTS[1], [EOS, EOS], PROMPTS[3]])
