"""Faster decode steps. They choose the tokens that `generation.DecodeSteps` chooses."""

from __future__ import annotations

from ..generation import DecodeSteps
from ..model import GPT2
from .captured_step import CapturedDecodeSteps
from .cpu_steps import CPUDecodeSteps


def make_steps(
    model: GPT2,
    seeds: list[int],
    n_steps: int,
    temperature: float,
    top_k: int | None,
    vocab_size: int | None = None,
) -> DecodeSteps:
    """Make the fastest decode steps for the model's device."""
    kinds = {"cuda": CapturedDecodeSteps, "cpu": CPUDecodeSteps}
    make = kinds.get(model.device.type, DecodeSteps)
    return make(model, seeds, n_steps, temperature, top_k, vocab_size)
