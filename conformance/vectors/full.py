"""The cases of the published shape: 124 million weights by a rule and a seed, not by a file.

`rule.json`, in the place of a checkpoint's weights, has the rule of each tensor (see `generator`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from gpt2ref import GPT2Config

from ..checkpoints.tensors import write_checkpoint
from .case import Case, in_pieces, logits
from .checkpoints import SEED, Checkpoint, config_text
from .expecting import with_answers
from .generator import LOW_ROW, rules, token_ids, trained_like

NAME = "published-shape"
RULE = "rule.json"


def full_cases(config: GPT2Config) -> list[Case]:
    """Return the cases. Few tokens are fed, as the truth adds up every product in order."""
    ids = token_ids(config.vocab_size, 1, 6, seed=21)
    shown = tuple(range(0, config.vocab_size, max(1, config.vocab_size // 24)))
    return [
        Case("full-logits", ("parity.full-context",), "The published shape has these logits.",
             NAME, (logits(ids),), tokens=shown),
        Case("full-pieces", ("cache.steps",),
             "The published shape has the same logits one token at a time.",
             NAME, in_pieces(ids, [3, 1, 1, 1]), tokens=shown),
    ]  # fmt: skip


def full_files(config: GPT2Config) -> dict[str, dict[str, Any] | str]:
    """Return the contents of the files, by their names: of the checkpoint and of the cases."""
    files: dict[str, dict[str, Any] | str] = {
        f"checkpoints/{NAME}/config.json": config_text(Checkpoint(config, {})),
        f"checkpoints/{NAME}/{RULE}": {
            "seed": SEED,
            "tensors": [rule.to_dict() for rule in rules(config)],
            "row_0": {"factor": LOW_ROW, "tensors": ["wte.weight", "wpe.weight"]},
        },
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder / "checkpoints" / NAME, config, trained_like(config, SEED))
        for case in full_cases(config):
            files[f"cases/{case.id}.json"] = with_answers(
                case.to_dict(), case.refused, folder, mistaken=False
            )
    return files
