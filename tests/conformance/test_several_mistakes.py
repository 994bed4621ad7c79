"""Mistakes of one family, and constants beside defects, are named together; by chance, none is."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from torch import Tensor

from conformance.defects import CompleteGPT2, combined
from conformance.defects.catalogue import mistake_of
from conformance.defects.constants import CONSTANTS, Measured
from conformance.diagnosis.candidates import Candidates
from conformance.diagnosis.comparison import loading
from conformance.diagnosis.diagnose import Diagnosis, diagnosed
from conformance.diagnosis.peeling import Peeled, Peeling, Stage
from tests.shared.comparisons import comparison_of


def diagnosis_of(folder: Path, kind: type[CompleteGPT2], *asked: str) -> Diagnosis:
    comparison = comparison_of(folder, *asked)
    diagnosis = diagnosed(comparison, comparison.answers(loading(kind)))
    assert diagnosis
    return diagnosis


@pytest.mark.parametrize(
    "names",
    [
        "ln_1-bias-not-loaded ln_f-bias-not-loaded",
        "reshape-for-transpose-c_fc reshape-for-transpose-c_proj",
        "query-bias-missing value-bias-missing",
        "ln_1-weight-bias-exchanged ln_2-weight-bias-exchanged",
        "ln-eps-1e-3-in-ln_1 ln-eps-1e-3-in-ln_f",
    ],
)
def test_two_that_derive_from_one_class_are_had_together(tmp_path: Path, names: str) -> None:
    comparison = comparison_of(tmp_path, "faint embedding", "two whole blocks")
    first, second = map(mistake_of, names.split())
    both = comparison.of(first, second)
    for one in (comparison.of(first), comparison.of(second)):
        assert not all(comparison.alike(both, one, each) for each in comparison.questions)


def test_norms_without_biases_are_told_one_by_one(tmp_path: Path) -> None:
    names = {"ln_1-bias-not-loaded", "ln_2-bias-not-loaded", "ln_f-bias-not-loaded"}
    asked = ("head alone", "embedding alone", "attention alone", "MLP alone", "two whole blocks")
    diagnosis = diagnosis_of(tmp_path, combined(*sorted(names)), *asked)
    assert {grant.id for grant in diagnosis.granted} == names
    assert not diagnosis.left


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        # Three in attention. The heads are asked about without the biases.
        (
            "heads-split-by-view qkv-bias-missing attn-proj-bias-missing",
            ("attention without biases", "attention alone", "MLP alone"),
        ),
        # Blocks that share an MLP hide what activation it has, but not in a model of one block.
        ("gelu-erf mlp-shared", ("MLP alone", "faint embedding, MLP alone", "steps up to 64 keys")),
        # The row shows in the head alone beside the weight, and in no other way.
        (
            "ln_f-weight-not-loaded wte-row-before",
            ("head alone", "final norm of a loud embedding", "final norm alone", "embedding alone"),
        ),
        # The variance is read where no epsilon shows, and the epsilon beside its place.
        (
            "ln-std-plus-eps ln-eps-wrong",
            ("final norm of a loud embedding", "final norm alone", "embedding alone"),
        ),
    ],
)
def test_what_shows_together_is_told_apart(
    tmp_path: Path, names: str, asked: tuple[str, ...]
) -> None:
    diagnosis = diagnosis_of(tmp_path, combined(*names.split()), *asked)
    assert {grant.id for stage in diagnosis.stages for grant in stage.granted} == {*names.split()}
    assert not diagnosis.left


def test_a_mistake_that_a_later_one_hides_is_not_named(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path, "embedding alone", "two whole blocks")
    hidden, hiding = mistake_of("post-ln"), mistake_of("residual-from-normalised")
    peeling = Peeling(comparison, comparison.answers(loading(combined(hiding.id))))
    stages = tuple(
        Stage(((each,),), question.name, (question.name,))
        for each, question in zip((hidden, hiding), comparison.questions, strict=True)
    )
    found = peeling.needed(Peeled(stages, (hiding, hidden), ()))
    assert found == Peeled(stages[1:], (hiding,), ())


def test_a_die_may_show_a_mistake_beside_another(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path, "dice with {'temperature': 0.0}")
    (question,) = comparison.questions
    weight, row = mistake_of("ln_f-weight-not-loaded"), mistake_of("wte-row-before")
    assert comparison.mattering((row,), question) == ()
    assert comparison.mattering((weight, row), question) == (weight, row)


def test_a_window_of_any_width_is_read(tmp_path: Path) -> None:
    asked = ("attention alone", "MLP alone", "1024 tokens")
    diagnosis = diagnosis_of(tmp_path, combined("window=128"), *asked)
    assert [grant.id for grant in diagnosis.granted] == ["window=128"]
    assert diagnosis.granted[0].what == "Only the last 128 positions are seen."


def test_a_constant_is_read_beside_a_defect_that_shows_where_it_does(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path, "MLP alone")
    subject = comparison.answers(loading(combined("mlp-factor=0.5", "gelu-erf")))
    (question,) = comparison.questions
    (found,) = Candidates(comparison, subject).constants_beside((), question)
    assert {each.id for each in found} == {"mlp-factor=0.5", "gelu-erf"}


def test_an_epsilon_may_be_too_small_to_be_seen(tmp_path: Path) -> None:
    asked = ("faint embedding", "faint embedding, MLP alone", "faint embedding, attention alone")
    kind = combined("epsilon-of-blocks=1e-16", "epsilon-of-ln_f=1e-4")
    diagnosis = diagnosis_of(tmp_path, kind, *asked)
    found = {grant.id: grant.what for grant in diagnosis.granted}
    assert found.keys() == {"epsilon-of-blocks=0", "epsilon-of-ln_f=0.0001"}
    said = "The epsilon of ln_1, ln_2 is 0, or too small to be seen, and not 1e-05."
    assert found["epsilon-of-blocks=0"] == said


def test_the_class_of_a_constant_may_be_collected_at_any_time() -> None:
    constant, thresholds = Measured(CONSTANTS["gelu-cubic"], 0.05), gc.get_threshold()
    try:
        for often in range(2, 20):
            gc.set_threshold(often, 1)
            assert constant.steps == {"activation"}
    finally:
        gc.set_threshold(*thresholds)


def test_what_is_known_is_named_beside_what_does_not_show_in_each_answer(tmp_path: Path) -> None:
    class ThirdAsSecond(combined("partial-load-accepted")):  # type: ignore[misc]
        def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
            return super().block(min(layer, 1), x, mask)

    right = ("attention alone", "MLP alone", "two whole blocks", "a plain file")
    asked = ("all layers", "a file lacking ln_f.weight")
    diagnosis = diagnosis_of(tmp_path, ThirdAsSecond, *right, *asked)
    (stage,) = diagnosis.stages
    assert "partial-load-accepted" in {grant.id for (grant,) in stage.alternatives}
    assert diagnosis.left == ("all layers",)


def test_what_many_explain_as_well_is_not_named(tmp_path: Path) -> None:
    class Normed(CompleteGPT2):
        def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
            return self.normalise(super().embed(token_ids, positions), 1e-5)

    comparison = comparison_of(tmp_path, "final norm alone")
    peeling = Peeling(comparison, comparison.answers(loading(Normed)))
    (question,) = wrong = peeling.wrong
    blocks = peeling.candidates.blocks
    assert len(list(blocks((), question))) > 12
    assert peeling.stage((), question, wrong, blocks) is None
