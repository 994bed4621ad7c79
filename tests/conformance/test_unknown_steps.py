"""A step that no entry of the catalogue has is read, and what lies beyond it is still named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conformance.defects import DEFECTS, CompleteGPT2
from conformance.defects.read import Read
from conformance.defects.read_attention import extended
from conformance.diagnosis import position_reading
from conformance.diagnosis.candidates import Candidates
from conformance.diagnosis.comparison import Comparison, defective, loading
from conformance.diagnosis.questions import questions

ASKED = {"embedding alone", "attention alone", "MLP alone", "two whole blocks"}
BESIDE = DEFECTS["gelu-erf"]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    asked = [question for question in questions() if question.name in ASKED]
    return Comparison(tmp_path_factory.mktemp("comparison"), torch.float32, asked)


def unknown_to(comparison: Comparison, kind: type[CompleteGPT2], shown_by: str) -> Read:
    """Return the step that is read of a GPT-2 that has a known mistake, too.

    A GPT-2 with both must answer all questions alike.
    """
    subject = comparison.answers(loading(type("Both", (kind, BESIDE.kind), {})))
    (question,) = (each for each in comparison.questions if each.name == shown_by)
    ((read,),) = Candidates(comparison, subject).unknown((BESIDE,), question)
    assert isinstance(read, Read)
    # As the suite is run on it.
    again = comparison.answers(defective(read.specification, BESIDE.id))
    for each in comparison.questions:
        assert comparison.alike(again, subject, each), each.name
    return read


Embedded = Callable[[CompleteGPT2, Tensor], Tensor]


def every_third_row(model: CompleteGPT2, positions: Tensor) -> Tensor:
    return model.weights["wpe.weight"][3 * positions % model.config.n_positions]


def half_way(model: CompleteGPT2, positions: Tensor) -> Tensor:
    wpe, half = model.weights["wpe.weight"], positions // 2
    return torch.where(positions[..., None] % 2 == 0, wpe[half], (wpe[half] + wpe[half + 1]) / 2)


def growing(model: CompleteGPT2, positions: Tensor) -> Tensor:
    return model.weights["wpe.weight"][positions] * (1 + 0.1 * positions[..., None])


def waves(model: CompleteGPT2, positions: Tensor) -> Tensor:
    width = model.config.n_embd
    angles = positions[..., None] / 5000 ** (torch.arange(0, width, 2) / width)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(model.dtype)


@pytest.mark.parametrize(
    ("embedded", "words"),
    [
        (every_third_row, "the rows 0: 0, 1: 3, 2: 6, 3: 9, 4: 12, ..."),
        (half_way, "the rows 0: 0, 1: 0.5 of 0 + 0.5 of 1, 2: 1, 3: 0.5 of 1 + 0.5 of 2, 4: 2"),
        (growing, "the rows 0: 0, 1: 1.1 of 1, 2: 1.2 of 2, 3: 1.3 of 3, 4: 1.4 of 4"),
        (waves, "the rows 0: none, 1: none, 2: none, 3: none, 4: none, ..."),
    ],
)
def test_unknown_positions_are_read(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, embedded: Embedded, words: str
) -> None:
    monkeypatch.setattr(position_reading, "N_POSITIONS", (16,))
    monkeypatch.setattr(position_reading, "WIDTHS", {24: 16})

    class Unknown(CompleteGPT2):
        def embed_positions(self, positions: Tensor) -> Tensor:
            return embedded(self, positions)

    read = unknown_to(comparison, Unknown, "embedding alone")
    assert read.id == "positions-read"
    assert words in read.what
    assert ("in no file" in read.what) == (embedded is waves)


Weights = Callable[[CompleteGPT2, Tensor, Tensor], Tensor]


def distances(scores: Tensor) -> Tensor:
    time, seen = scores.shape[-2:]
    return torch.arange(seen - time, seen)[:, None] - torch.arange(seen)


def hidden(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, float("-inf"))


def sloping(model: CompleteGPT2, scores: Tensor, mask: Tensor) -> Tensor:
    slopes = 0.1 * torch.arange(1, model.n_head + 1)[:, None, None]
    return hidden(scores - slopes * distances(scores), mask).softmax(-1)


def two_of_three(_model: CompleteGPT2, scores: Tensor, mask: Tensor) -> Tensor:
    seen = (torch.arange(scores.size(-1)) % 3 != 2) | (distances(scores) == 0)
    return hidden(scores, mask & seen).softmax(-1)


def capped(_model: CompleteGPT2, scores: Tensor, mask: Tensor) -> Tensor:
    return hidden(2 * torch.tanh(scores / 2), mask).softmax(-1)


def one_more(_model: CompleteGPT2, scores: Tensor, mask: Tensor) -> Tensor:
    weights = hidden(scores, mask).exp()
    return weights / (1 + weights.sum(-1, keepdim=True))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (sloping, "its keys: -3.9, -3.8, -3.7, ..., -0.2, -0.1, 0 (in head 0 of 4)."),
        (two_of_three, "its keys: 0, 0, hidden, ..., 0, hidden, 0."),
        (capped, "A score becomes -1.8103 at -3, -0.92423 at -1, -0.48984 at -0.5, "),
        (one_more, "1 is added to the sum of the exponentials."),
    ],
)
def test_unknown_attention_is_read(comparison: Comparison, weights: Weights, words: str) -> None:
    class Unknown(CompleteGPT2):
        def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
            return weights(self, scores, mask)

    read = unknown_to(comparison, Unknown, "attention alone")
    assert read.id == "attention-read"
    assert words in read.what


def test_a_bias_goes_on_with_the_distance() -> None:
    """A text may be longer than what was read."""
    distance = torch.arange(9)[:, None] - torch.arange(9)
    sloping = torch.where(distance < 0, float("-inf"), -0.25 * distance)
    window = torch.where((distance < 0) | (distance > 3), float("-inf"), 0.0)
    for bias in (sloping, window):
        assert torch.equal(extended(bias[:6, :6].double(), 9), bias.double())
    sinks = window.where(torch.arange(9) > 0, 0.0)  # the first key is always seen
    longer = extended(sinks[:6, :6].double(), 9)
    assert torch.equal(longer[:6, :6], sinks[:6, :6].double())
    assert torch.equal(longer[6:].isfinite(), (distance >= 0)[6:])


def test_rotated_queries_are_not_explained(comparison: Comparison) -> None:
    class Rotated(CompleteGPT2):
        def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
            turned = torch.polar(torch.ones(1), torch.arange(q.size(2)) / 10)[:, None]
            q, k = (torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turned for x in (q, k))
            return super().scores(
                torch.view_as_real(q).flatten(-2), torch.view_as_real(k).flatten(-2), layer
            )

    subject = comparison.answers(loading(Rotated))
    (question,) = (each for each in comparison.questions if each.name == "attention alone")
    assert not comparison.alike(subject, comparison.right, question)
    assert not [*Candidates(comparison, subject).unknown((), question)]
