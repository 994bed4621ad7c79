"""The questions of the diagnosis tell mistakes apart, and no right GPT-2 from another."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from conformance.adapters.protocol import Judged
from conformance.defects import DEFECTS, combined
from conformance.defects.catalogue import mistake_of
from conformance.defects.weights import OwnHead
from conformance.diagnosis.asking_tokens import ENDED, drawn
from conformance.diagnosis.comparison import Comparison, defective
from conformance.diagnosis.question import SEVERAL, Question
from tests.shared.comparisons import answers


def asked(comparison: Comparison, name: str) -> Question:
    (question,) = (each for each in comparison.questions if each.name == name)
    return question


@pytest.mark.parametrize(
    ("names", "question"),
    [
        # Temperature 0 fails, a batch fails, or each cached step does.
        (("right-pad-last-column", "temperature-zero-crash"), "a ragged batch"),
        (("slide-past-block-size", "eos-item-on-batch"), "a prompt past the context"),
        (("dropout-in-generate", "empty-cache-nan"), "a token with dropout"),
        # The temperature, the head, the layers or the size of the tokens are others.
        (("top-p-unasked", "temperature-multiplied"), "a die with rare faces"),
        (("argmax-in-bfloat16", "lm-head-stale-copy"), "its own largest logits"),
        (("last-row-moved-alone", "last-layer-shared"), "rows that end by chance"),
        (("left-pad-positions", "embedding-scaled"), "a ragged batch"),
        # With rounded logits, the even die shows neither from the other.
        (("top-k-of-50-unasked", "epsilon-cutoff-unasked"), "a die with a hundred faces"),
        # Both are about long texts.
        (("block-of-512-lost", "cache-of-512"), "steps up to 512 keys"),
        (("cache-of-512", "block-of-512-lost"), "steps after 512 keys"),
    ],
)
def test_a_mistake_shows_beside_another(
    comparison: Comparison, names: tuple[str, str], question: str
) -> None:
    first, second = (DEFECTS[name] for name in names)
    assert not comparison.alike(
        comparison.of(first, second), comparison.of(second), asked(comparison, question)
    )


@pytest.mark.parametrize(
    "name",
    # The last one divides by zero in float16.
    ["ln-eps-missing", "ln-eps-outside-sqrt", "qkv-order", "queries-keys-of-length-one"],
)
def test_a_draw_is_right_where_a_mistake_does_not_matter(comparison: Comparison, name: str) -> None:
    subject = answers(comparison, name)
    indifferent = [
        each
        for each in comparison.questions
        if each.kind == "tokens" and not comparison.mattering((mistake_of(name),), each)
    ]
    assert indifferent
    for question in indifferent:
        assert comparison.alike(comparison.right, subject, question), question.name


def test_a_tie_is_told_as_one_at_a_tiny_temperature(comparison: Comparison) -> None:
    # All tokens but the faces are tied for the largest logit, so chance decides.
    subject = answers(comparison, "ln-weight-bias-exchanged")
    assert subject[asked(comparison, "dice with temperature=1e-6")] == SEVERAL


def test_a_head_of_its_own_is_rounded_as_all_weights_are(comparison: Comparison) -> None:
    folder = str(comparison.checkpoint(asked(comparison, "a file with another head")))
    for names in itertools.permutations(["head-of-its-own", "dtype-changed-on-load"]):
        model = combined(*names).load(folder)
        assert isinstance(model, OwnHead)
        assert torch.equal(model.own_head, model.own_head.bfloat16().float())


def test_what_draws_from_the_global_generator_answers_alike_again(comparison: Comparison) -> None:
    drawing = replace(
        asked(comparison, "a plain file"), name="chance", ask=lambda _: torch.rand(2).tolist()
    )
    before = torch.get_rng_state()
    first = comparison.answers(defective())[drawing]
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert comparison.answers(defective())[drawing] == first


def throwing(*rows: list[int]) -> Judged:
    """Return an implementation that draws these rows, and then the same again."""

    class Thrower:
        def generate(self, prompts: Tensor, **_: Any) -> list[list[int]]:
            return [rows[number % len(rows)] for number in range(len(prompts))]

    return cast("Judged", Thrower())


@pytest.mark.parametrize(
    ("rows", "frequencies"),
    [
        ([[17, 300]], {17: 1, 300: 1}),  # all rows share their draws
        ([[17], [300]], {17: 8, 300: 8, ENDED: 16}),
        ([[17, 17], [300, 300]], {17: 8, 300: 8}),  # all steps do
        # The likeliest token of a die is often all that a row has.
        ([[17, 17]], {17: 32}),
        ([[17, 17], [17, 300]], {17: 24, 300: 8}),
    ],
)
def test_what_shares_a_draw_counts_as_one(
    rows: list[list[int]], frequencies: dict[int, int]
) -> None:
    assert drawn(throwing(*rows), rows=16, steps=2) == frequencies


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_right_one_answers_as_another_in_half_precision(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    comparison = Comparison(tmp_path, dtype)
    other = comparison.answers(defective())
    quick = [each for each in comparison.questions if each.kind == "logits" and not each.slow]
    assert [
        each.name for each in quick if not comparison.alike(comparison.right, other, each)
    ] == []
