"""Reads an unknown bias of the head, whatever else is known to be wrong beside it.

With a final norm whose weight and bias are zero, nothing else is left in the logits.
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import blank, write_checkpoint
from ..defects.read_head import ReadHead
from .position_reading import WIDTHS
from .solving import Subject

LEAST = 1e-9  # a largest logit below this is rounding


def read_head(subject: Subject) -> ReadHead | None:
    """Return the bias of the head, or None if it can't be read, or there is none."""
    biases: dict[str, Tensor] = {}
    for width in WIDTHS:
        bias = _bias(subject, width)
        if bias is None:
            return None
        biases[str(width)] = bias
    if max(float(bias.abs().max()) for bias in biases.values()) < LEAST:
        return None
    file = subject.new_folder() / "head.safetensors"
    save_file(biases, file)
    return ReadHead(file)


def _bias(subject: Subject, width: int) -> Tensor | None:
    """Return float64 [vocab_size], or None for an error, or if each load has another."""
    config = GPT2Config(n_positions=8, n_embd=width, n_layer=1, n_head=2)
    nothing = {"ln_f.weight": torch.zeros(width), "ln_f.bias": torch.zeros(width)}
    folder = write_checkpoint(subject.new_folder(), config, blank(config) | nothing)
    read = []
    for _ in range(2):
        try:
            logits = subject.load(folder, dtype=torch.float64).logits(torch.tensor([[5]]))
        except Exception:  # another mistake may be in the way
            return None
        read.append(logits[0, 0] - logits[0, 0].mean())  # a shift is no bias
    return read[0] if read[0].isfinite().all() and torch.equal(*read) else None
