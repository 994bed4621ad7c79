"""The checkpoints that the questions are asked with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gpt2ref import EOS, GPT2Config

from ..checkpoints.scripts import NEVER, dice
from ..checkpoints.tensors import (
    DICE,
    Tensors,
    blank,
    trained_like,
    write_checkpoint,
    write_sparse_checkpoint,
)
from ..probes.designs import PROBE, Design
from ..probes.experiment import Experiment
from .asking import SMALLEST


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
    """Write a checkpoint in which EOS often has the largest logit.

    Its embedding is so long that its logit is far above or below all others. Under most mistakes,
    too, some rows end before others.
    """
    tensors = trained_like(SMALLEST, seed=4)
    tensors["wte.weight"][EOS] *= 6.0
    return write_checkpoint(folder, SMALLEST, tensors)


def loud_positions(folder: Path) -> Path:
    """Write a checkpoint in which a position matters, even beside tokens that are scaled."""
    return changed(lambda t: t | {"wpe.weight": 8 * t["wpe.weight"]}, folder)


def unending(folder: Path) -> Path:
    """Write a checkpoint of 256 positions in which EOS never has the largest logit."""
    shape = replace(DICE, n_positions=256)
    tensors = dice({17: 1.0, 300: 0.0})
    wpe = torch.zeros(shape.n_positions, shape.n_embd)
    return write_checkpoint(folder, shape, tensors | {"wpe.weight": wpe})


def even_die(folder: Path) -> Path:
    """Write a checkpoint whose next token is any but EOS, the first ones a little likelier."""
    tensors = blank(DICE)
    tensors["ln_f.weight"].zero_()
    tensors["ln_f.bias"][0] = 1.0
    tensors["wte.weight"][:, 0] = torch.linspace(0.01, 0.0, DICE.vocab_size)
    tensors["wte.weight"][EOS, 0] = NEVER
    return write_checkpoint(folder, DICE, tensors)
