"""Comparisons of fewer questions than all, and the answers of a wrong GPT-2 to be diagnosed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from conformance.defects.catalogue import mistake_of
from conformance.diagnosis.comparison import Answers, Comparison
from conformance.diagnosis.questions import questions


def comparison_of(folder: Path, *asked: str) -> Comparison:
    """Return a comparison with the questions of these names."""
    of = [question for question in questions() if question.name in asked]
    assert len(of) == len(asked)
    return Comparison(folder, torch.float32, of, few=True)


def answers(comparison: Comparison, *names: str) -> Answers:
    """Return the answers of a GPT-2 with these entries, as if nobody knew that it has them."""
    return replace(comparison.new(*map(mistake_of, names)), granted=())
