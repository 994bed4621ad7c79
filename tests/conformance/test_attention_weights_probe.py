"""Attention weights are read from logits: a right matrix passes, a wrong one is described."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from conformance import test_attention_weights as suite
from conformance.adapters.protocol import Judged
from conformance.outcomes import Failure
from conformance.probes.attention_weights import SMALL_SHAPE, AttentionWeights
from conformance.probes.designs import PROBE
from conformance.probes.experiment import Kind
from conformance.probes.gpt2 import PlainGPT2
from gpt2ref import GPT2, PUBLISHED_CONFIGS, GPT2Config, from_tensors, load_checkpoint
from tests.shared.blocks import block
from tests.shared.judged import judged_on_cpu
from tests.shared.masks import remasked

RIGHT = AttentionWeights.right_words
FIRST_POSITION = (
    f"position 0 sees 0..{SMALL_SHAPE.n_positions - 1} with 0.0625 each; GPT-2's sees 0 with 1."
)


@dataclass
class Wrong:
    """An adapter of the reference with something changed in it."""

    change: Callable[[GPT2], None]
    precision: torch.dtype = torch.float32  # in which it is judged
    computes_in: torch.dtype = torch.float32

    def load(self, checkpoint: str) -> Judged:
        model = load_checkpoint(checkpoint, dtype=self.computes_in)
        self.change(model)
        return judged_on_cpu(Logits(model))


class Logits:
    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        self.logits = torch.inference_mode()(logits)


class Mistaken:
    """An adapter of the plain forward pass with a mistake."""

    def __init__(self, kind: Kind, dtype: torch.dtype) -> None:
        self.kind, self.precision = kind, dtype

    def load(self, checkpoint: str) -> Judged:
        tensors = load_file(Path(checkpoint) / "model.safetensors")
        return judged_on_cpu(Logits(self.kind(tensors, SMALL_SHAPE, dtype=self.precision).logits))


def judged(adapter: Any, layer: int = -1) -> tuple[str, list[tuple[str, str, str]]]:
    """Return the failure as text, "" if there is none, and the readings."""
    readings: list[tuple[str, str, str]] = []
    try:
        suite.test_visibility(adapter, PROBE, lambda *reading: readings.append(reading), layer)
    except Failure as failure:
        return str(failure), readings
    return "", readings


def masked_by(layer: int, change: Callable[[Tensor], Tensor]) -> Callable[[GPT2], None]:
    """Give one layer another mask, bool [batch, head or 1, query, key]."""

    def changed(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return remasked(args, change)

    def register(model: GPT2) -> None:
        block(model, layer).attn.register_forward_pre_hook(changed)

    return register


def hides_the_first_from_the_last(mask: Tensor) -> Tensor:
    mask[..., -1, 0] = False
    return mask


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layer", [0, 1])
def test_the_weights_are_read(layer: int, dtype: torch.dtype) -> None:
    probe = AttentionWeights(layer=layer, dtype=dtype)
    model = PlainGPT2(probe.tensors(), probe.config, dtype=dtype)
    weights = probe.read(model.logits(probe.token_ids))
    truth = torch.ones(16, 16, dtype=torch.float64).tril() / torch.arange(1, 17)[:, None]
    torch.testing.assert_close(
        weights, truth.expand(2, -1, -1), rtol=10 * torch.finfo(dtype).eps, atol=0
    )
    assert probe.errors(weights).max() < 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_right_model_passes_and_its_reading_is_in_words(dtype: torch.dtype) -> None:
    found, readings = judged(Wrong(lambda _model: None, dtype, dtype))
    assert not found
    ((quantity, read, expected),) = readings
    assert (quantity, expected) == ("attention, layer 1", RIGHT)
    assert read.startswith(f"{RIGHT}, within ")
    assert float(read.rpartition(" ")[2]) < 10 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "defect",
    # The mask's last rows or columns are right where the context is full, as it is here. And no
    # token is 0.
    [name for name in suite.MISTAKES if not name.startswith(("mask-of-last-", "token-0-"))],
)
def test_a_known_defect_is_found_and_named(defect: str, dtype: torch.dtype) -> None:
    found, readings = judged(Mistaken(suite.MISTAKES[defect], dtype))
    assert found == f"reads {defect}; GPT-2 has {RIGHT}"
    assert readings[0][1] != RIGHT


def test_rotary_positions_are_found() -> None:
    def rotated(_module: Any, _args: Any, qkv: Tensor) -> Tensor:
        n = 2 * SMALL_SHAPE.n_embd
        turn = torch.polar(torch.ones(1), torch.arange(qkv.size(1)) / 10)
        pairs = torch.view_as_complex(qkv[..., :n].unflatten(-1, (-1, 2))) * turn[:, None]
        return torch.cat([torch.view_as_real(pairs).flatten(2), qkv[..., n:]], dim=-1)

    def rotate(model: GPT2) -> None:
        block(model, 0).attn.c_attn.register_forward_hook(rotated)

    found, _ = judged(Wrong(rotate), layer=0)
    assert found.startswith(
        "layer 0, head 0: position 1 sees 0..1 with weights 0.4978, 0.5022; "
        "GPT-2's sees 0..1 with 0.5"
    )


def test_a_wrong_mask_in_the_last_layer_alone_is_found_there() -> None:
    adapter = Wrong(masked_by(1, torch.ones_like))
    assert judged(adapter, layer=0)[0] == ""
    found, readings = judged(adapter, layer=1)
    assert found == f"reads no-causal-mask; GPT-2 has {RIGHT}"
    assert readings[0][0] == "attention, layer 1"
    assert readings[0][1].startswith(f"head 0: {FIRST_POSITION}")


def test_a_wrong_mask_in_one_head_is_reported_with_layer_and_head() -> None:
    def second_head(mask: Tensor) -> Tensor:
        return torch.cat([mask, torch.ones_like(mask)], dim=1)

    assert judged(Wrong(masked_by(1, second_head)), layer=0)[0] == ""
    found, _ = judged(Wrong(masked_by(1, second_head)), layer=1)
    assert found.startswith(f"layer 1, head 1: {FIRST_POSITION}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_mask_that_is_wrong_at_the_last_position_is_reported_there(dtype: torch.dtype) -> None:
    found, _ = judged(Wrong(masked_by(0, hides_the_first_from_the_last), dtype, dtype), layer=0)
    assert found.startswith("layer 0, head 0: position 15 sees 1..15 with 0.066")
    assert "; GPT-2's sees 0..15 with 0.0625 each. " in found


def test_uneven_attention_is_reported_with_its_weights() -> None:
    def twice_the_first(mask: Tensor) -> Tensor:
        bias = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
        bias[..., 0] += math.log(2)
        return bias

    found, _ = judged(Wrong(masked_by(0, twice_the_first)), layer=0)
    assert found.startswith(
        "layer 0, head 0: position 1 sees 0..1 with weights 0.6667, 0.3333; "
        "GPT-2's sees 0..1 with 0.5"
    )


def test_gaps_and_missing_attention_are_reported() -> None:
    def every_other(mask: Tensor) -> Tensor:
        return mask & (torch.arange(mask.size(-1)) % 2 == torch.arange(mask.size(-2))[:, None] % 2)

    found, _ = judged(Wrong(masked_by(0, every_other)), layer=0)
    assert found.startswith(
        "layer 0, head 0: position 1 sees 1 with 1; GPT-2's sees 0..1 with 0.5 each."
    )

    def two_layers(mask: Tensor) -> Tensor:
        mask[..., 4, 1:3] = False
        return mask

    found, _ = judged(Wrong(masked_by(0, two_layers)), layer=0)
    assert "position 4 sees 0, 3..4 with 0.3333 each; GPT-2's sees 0..4 with 0.2 each." in found

    def no_attention(model: GPT2) -> None:
        block(model, 0).attn.c_proj.weight.data.zero_()

    found, _ = judged(Wrong(no_attention), layer=0)
    assert "position 0 sees none of those that are read; GPT-2's sees 0 with 1." in found


def test_nan_is_reported() -> None:
    def nothing_left(mask: Tensor) -> Tensor:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
        mask[..., 3, :] = math.nan
        return mask

    found, _ = judged(Wrong(masked_by(1, nothing_left)))
    assert found.startswith(
        "layer 1, head 0: position 3 sees 0..15 with nan each; "
        "GPT-2's sees 0..3 with 0.25 each. inf times"
    )


def test_an_engine_of_lower_precision_is_distinguished_from_a_wrong_one() -> None:
    found, _ = judged(Wrong(lambda _model: None, torch.float32, torch.bfloat16))
    assert re.match(r"right to the rounding of torch.b?float16, but not of torch.float32: ", found)


@pytest.mark.parametrize("config", PUBLISHED_CONFIGS.values(), ids=PUBLISHED_CONFIGS)
def test_positions_and_readers_fit_into_a_published_shape(config: GPT2Config) -> None:
    at = AttentionWeights(config).positions
    assert at == sorted(set(at))
    assert [*range(9)] == at[:9]
    assert [*range(1015, 1024)] == at[-9:]
    assert 2 * len(at) * (config.n_head + 1) <= config.n_embd
    assert max(b - a for a, b in itertools.pairwise(at)) < 128


def test_a_published_shape_is_read_to_one_position_in_a_thousand() -> None:
    config = replace(GPT2Config(), n_layer=1, vocab_size=1400)
    probe = AttentionWeights(config)
    model = from_tensors(probe.tensors(), config, dtype=torch.float32)
    assert probe.expected[0, -1].tolist() == [1 / 1024] * len(probe.positions)
    with torch.inference_mode():
        assert probe.errors(probe.read(model(probe.token_ids))).max() < 0.5
        masked_by(0, hides_the_first_from_the_last)(model)
        errors = probe.errors(probe.read(model(probe.token_ids)))
    assert (errors[:, :-1] < 0.5).all()
    assert (errors[:, -1] > 2).all(), "also where the weight is 1/1023, not 1/1024"
