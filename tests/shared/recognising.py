"""Recognise the GPT-2 of a file, and compare its logits with the reference's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from conformance.adapters.recognised.recognise import load_of, recognise
from conformance.adapters.recognised.written import Found
from conformance.checkpoints.tensors import random_token_ids, trained_like, write_checkpoint
from conformance.judging.oracle import check_logits, expected
from gpt2ref import GPT2Config

# Other sizes than those with which a model is recognised.
TINY = GPT2Config(n_positions=13, n_embd=24, n_layer=2, n_head=3)
TOKEN_IDS = random_token_ids(TINY, batch=2, time=7)


def write_tiny(folder: Path) -> str:
    return str(write_checkpoint(folder, TINY, trained_like(TINY, seed=1)))


def found_in(path: Path, text: str, name: str = "load") -> Found:
    """Write a file, and return what is recognised in it."""
    path.write_text(text, encoding="utf-8")
    found = recognise(str(path), name)
    assert found
    return found


def loaded(found: Found, checkpoint: str) -> Any:
    return load_of(found).load(checkpoint, device="cpu", dtype=torch.float32)


def check_right(mine: Any, checkpoint: str) -> None:
    """Check that the logits of a loaded adapter are GPT-2's, to the suite's allowed error."""
    truth, allowed = expected(checkpoint, TOKEN_IDS, torch.float32)
    check_logits(mine.logits(TOKEN_IDS).double(), truth, allowed, "a recognised model")
