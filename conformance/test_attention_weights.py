"""Reads as numbers what each position sees (see `probes.attention_weights`)."""

from __future__ import annotations

import pytest

from gpt2ref import GPT2Config

from .adapters.adapter import Adapter
from .conftest import Reading
from .defects import defects_of, defects_of_facts
from .probes.attention_weights import AttentionWeights
from .probes.check import check_numbers
from .requirements import requirement

MISTAKES = defects_of("attention.mask", "attention.softmax", "attention.visibility")


@requirement("attention.visibility")
@pytest.mark.parametrize("layer", [0, -1], ids=["first-layer", "last-layer"])
def test_visibility(
    adapter: Adapter, probe_shape: GPT2Config, reading: Reading, layer: int
) -> None:
    probe = AttentionWeights(probe_shape, layer, adapter.precision, MISTAKES)
    check_numbers(adapter, probe, reading, defects_of_facts())
