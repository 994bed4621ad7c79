"""Faster decode steps and products, which choose the tokens that the core chooses."""

from __future__ import annotations

from ..generation import DecodeSteps
from ..model import GPT2
from .captured_step import CapturedDecodeSteps
from .cpu_steps import CPUDecodeSteps
from .products import linear

__all__ = ["linear", "make_steps"]


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
