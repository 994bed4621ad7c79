"""The checkpoints that the questions are asked with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gpt2ref import EOS, GPT2Config

from ..checkpoints.scripts import NEVER
from ..checkpoints.tensors import (
    DICE,
    Tensors,
    blank,
    trained_like,
    write_checkpoint,
    write_sparse_checkpoint,
)
from ..defects import CompleteGPT2
from ..probes.designs import PROBE, Design
from ..probes.experiment import Experiment
from .asking import IDS, SMALLEST


def designed(design: Design, folder: Path) -> Path:
    experiment = Experiment(design, PROBE, torch.float32)
    return write_checkpoint(folder, experiment.config, experiment.tensors)


def plain(folder: Path, config: GPT2Config = SMALLEST) -> Path:
    return write_checkpoint(folder, config, trained_like(config, seed=4))


def wide(folder: Path) -> Path:
    """Write a checkpoint as wide as gpt2-large, with one layer."""
    return write_sparse_checkpoint(folder, replace(SMALLEST, n_embd=1280, n_head=20, n_layer=1))


def changed(change: Callable[[Tensors], Tensors], folder: Path) -> Path:
    return write_checkpoint(folder, SMALLEST, change(trained_like(SMALLEST, seed=4)))


def with_fields(fields: dict[str, Any], folder: Path) -> Path:
    return write_checkpoint(folder, SMALLEST, trained_like(SMALLEST, seed=4), fields)


def script(tensors: Tensors, config: GPT2Config, folder: Path) -> Path:
    return write_checkpoint(folder, config, tensors)


def ending(folder: Path) -> Path:
    """Write a checkpoint whose first row of IDS ends after one token, before the other rows do.

    EOS and the second token that would follow that row have changed places in the vocabulary.
    """
    tensors = trained_like(SMALLEST, seed=4)
    right = CompleteGPT2(tensors, SMALLEST, dtype=torch.float32)
    second = right.generate(IDS[:1], max_new_tokens=2, temperature=0.0)[0][1]
    wte = tensors["wte.weight"]
    wte[[EOS, second]] = wte[[second, EOS]]
    return write_checkpoint(folder, SMALLEST, tensors)


def even_die(folder: Path) -> Path:
    """Write a checkpoint whose next token is any but EOS, the first ones a little likelier."""
    tensors = blank(DICE)
    tensors["ln_f.weight"].zero_()
    tensors["ln_f.bias"][0] = 1.0
    tensors["wte.weight"][:, 0] = torch.linspace(0.01, 0.0, DICE.vocab_size)
    tensors["wte.weight"][EOS, 0] = NEVER
    return write_checkpoint(folder, DICE, tensors)
