"""A block, a bias of the head and a step that no entry has are read, beside other mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from conformance.defects import CompleteGPT2, combined
from conformance.defects.catalogue import mistake_of
from conformance.defects.read_block import RIGHT, other_blocks
from conformance.defects.read_n_head import ReadNHead
from conformance.diagnosis import position_reading
from conformance.diagnosis.comparison import Comparison, loading
from conformance.diagnosis.diagnose import diagnosed
from conformance.diagnosis.head_reading import read_head
from conformance.diagnosis.solving import Subject
from tests.shared.comparisons import comparison_of

BLOCKS = ("embedding alone", "attention alone", "MLP alone", "two whole blocks")
HEAD = ("head alone", "MLP alone")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return comparison_of(tmp_path_factory.mktemp("comparison"), *BLOCKS)


def named(comparison: Comparison, kind: type[CompleteGPT2], *names: str) -> dict[str, str]:
    """Return what is said of a GPT-2 that has mistakes of these names, too: id -> words."""
    subject = comparison.answers(loading(type("Both", (kind, combined(*names)), {})))
    diagnosis = diagnosed(comparison, subject)
    assert diagnosis
    assert not diagnosis.left
    return {grant.id: grant.what for stage in diagnosis.stages for grant in stage.granted}


class SecondFromNormalised(CompleteGPT2):
    def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(layer, self.norm(x, f"h.{layer}.ln_1"), mask)
        normed = self.norm(x, f"h.{layer}.ln_2")
        return normed + self.mlp(layer, normed)


class Sandwich(CompleteGPT2):
    def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.norm(self.attention(layer, x, mask), f"h.{layer}.ln_1")
        return x + self.norm(self.mlp(layer, x), f"h.{layer}.ln_2")


class OneNorm(CompleteGPT2):
    def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm(x, f"h.{layer}.ln_1")
        return x + self.attention(layer, normed, mask) + self.mlp(layer, normed)


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        (SecondFromNormalised, "y = x + attention(ln_1(x)) and returns ln_2(y) + mlp(ln_2(y))."),
        (Sandwich, "y = x + ln_1(attention(x)) and returns y + ln_2(mlp(y))."),
    ],
)
def test_an_unknown_block_is_read_beside_another_mistake(
    comparison: Comparison, kind: type[CompleteGPT2], formula: str
) -> None:
    found = named(comparison, kind, "gelu-erf")
    assert found.keys() == {"block-read", "gelu-erf"}
    assert found["block-read"].endswith(f"It computes {formula}")


def test_a_block_of_two_known_mistakes_is_told_as_these(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path, *BLOCKS, "MLP of a width of its own")
    assert named(comparison, OneNorm, "gelu-erf").keys() == {
        "ln_1-for-both", "parallel-residual", "gelu-erf"
    }  # fmt: skip


def test_a_block_is_made_again_from_its_specification() -> None:
    for block in other_blocks()[::60]:
        assert type(block).of(block.specification) == block
    with pytest.raises(KeyError):
        RIGHT.of("block-read=attention.before.x.x")


def test_the_right_block_is_that_of_gpt2(comparison: Comparison) -> None:
    right = comparison.answers(loading(RIGHT.kind))
    assert RIGHT not in other_blocks()
    assert diagnosed(comparison, right) is None


def test_an_unknown_bias_of_the_head_is_read_beside_another_mistake(tmp_path: Path) -> None:
    class Biased(CompleteGPT2):
        def head(self, x: Tensor) -> Tensor:
            bias = torch.linspace(-1, 1, self.config.vocab_size, dtype=torch.float64)
            return super().head(x) + bias.to(x) / self.config.n_embd

    found = named(comparison_of(tmp_path, *HEAD), Biased, "gelu-erf")
    assert found.keys() == {"head-bias-read", "gelu-erf"}
    said = "The head has a bias that is in no file: -0.125, -0.125, -0.125, ..., at most 0.125"
    assert found["head-bias-read"].startswith(said)


def test_a_bias_that_changes_is_not_read(tmp_path: Path) -> None:
    class Random(CompleteGPT2):
        def head(self, x: Tensor) -> Tensor:
            return super().head(x) + torch.randn(self.config.vocab_size).to(x)

    assert read_head(Subject(loading(Random), (), lambda: tmp_path)) is None


class Elu(CompleteGPT2):
    def activation(self, x: Tensor) -> Tensor:
        return torch.nn.functional.elu(x)


@pytest.mark.parametrize(
    "other",
    [
        # The curve alone explains no answer, as each MLP reads what the other norm gives.
        "ln_1-for-both",
        "biases-missing",
    ],
)
def test_an_unknown_activation_is_read_beside_another_mistake(tmp_path: Path, other: str) -> None:
    asked = ("attention alone", "MLP alone", "MLP of a width of its own")
    comparison = comparison_of(tmp_path, *asked)
    assert named(comparison, Elu, other).keys() == {"activation-curve", other}


def test_a_block_is_read_although_entries_explain_some_answers(tmp_path: Path) -> None:
    """With nothing in the branches, it is the same as the residual of the normed stream."""
    asked = ("final norm of a loud embedding", "final norm alone", *BLOCKS)
    comparison = comparison_of(tmp_path, *asked)
    kind = type("Both", (SecondFromNormalised, Elu), {})
    assert named(comparison, kind).keys() == {"block-read", "activation-curve"}


class Waving(CompleteGPT2):
    def embed_positions(self, positions: Tensor) -> Tensor:
        width = self.config.n_embd
        angles = positions[..., None] / 5000 ** (torch.arange(width) / width)
        return angles.sin().to(self.dtype)


@pytest.mark.parametrize(("other", "asked"), [("gelu-erf", ["MLP alone"]), ("rms-norm", [])])
def test_unknown_positions_are_read_although_the_norm_is_asked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str, asked: list[str]
) -> None:
    """The question about the final norm has no positions, so it is answered otherwise, too."""
    monkeypatch.setattr(position_reading, "N_POSITIONS", (16,))
    monkeypatch.setattr(position_reading, "WIDTHS", {24: 16})
    comparison = comparison_of(tmp_path, "final norm alone", "embedding alone", *asked)
    assert named(comparison, Waving, other).keys() == {"positions-read", other}


def test_a_number_of_heads_shows_where_the_config_has_another(tmp_path: Path) -> None:
    """Four are right in the probes' shape."""

    class FourHeads(CompleteGPT2):
        n_head = 4

    comparison = comparison_of(tmp_path, *BLOCKS, "a plain file")
    assert named(comparison, FourHeads).keys() == {"n-head=4"}
    assert mistake_of("n-head=4") == ReadNHead(4)
    for wrong in ("n-head=", "n-head=0", "n-head=2.5"):
        with pytest.raises(KeyError):
            combined(wrong)
