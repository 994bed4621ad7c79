"""What each position sees, number by number (see `visibility`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from gpt2ref import GPT2Config

from .adapters.adapter import Adapter
from .checkpoints.tensors import write_checkpoint
from .conftest import Reading
from .probes import attention_weights as visibility
from .probes.experiment import COARSE, PROBE
from .probes.forward import FACTS
from .requirements import requirement
from .test_probes import COARSER

RIGHT = "position i sees 0..i, 1/(i+1) each"


@requirement("attention.visibility")
@pytest.mark.parametrize("layer", [0, -1], ids=["first-layer", "last-layer"])
def test_visibility(
    adapter: Adapter, probe_shape: GPT2Config, reading: Reading, layer: int
) -> None:
    config = visibility.VISIBILITY if probe_shape == PROBE else probe_shape
    layer %= config.n_layer
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), config, visibility.tensors(config, layer))
        logits = adapter.load(folder).logits(visibility.token_ids(config))
    weights = visibility.read(logits[0], config)
    truth = visibility.expected(config)
    if (visibility.off(weights, truth, config, adapter.precision) <= 1).all():
        reading(
            f"attention, layer {layer}",
            f"{RIGHT}, within {float((weights - truth).abs().max()):.1e}",
            RIGHT,
        )
        return
    wrong = visibility.first_wrong(weights, config, adapter.precision)
    reading(f"attention, layer {layer}", wrong, RIGHT)
    for fact in ("mask", "softmax"):
        if found := visibility.explained_by(weights, config, adapter.precision, fact):
            pytest.fail(f"reads {' or '.join(found)}; GPT-2 has {fact}: {FACTS[fact][0]}")
    for coarser in COARSE:
        if (visibility.off(weights, truth, config, coarser) <= 1).all():
            pytest.fail(COARSER.format(coarser, adapter.precision))
    pytest.fail(f"layer {layer}, {wrong}")
