"""The diagnosis takes a wrong GPT-2 apart, and names the first stage that it can't explain."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.adapters.adapter import Adapter
from conformance.defects import DEFECTS, VARIANTS, CompleteGPT2, combined
from conformance.defects.catalogue import in_order, mistake_of
from conformance.defects.constants import Measured
from conformance.defects.curve import Curve, ReadCurve
from conformance.diagnosis.comparison import Comparison, defective, loading
from conformance.diagnosis.departure import first_departure
from conformance.diagnosis.diagnose import diagnosed
from conformance.diagnosis.known_to_show import FILE, shows, write_shows
from conformance.diagnosis.questions import LONG_PIECES, questions
from conformance.studies.diagnosis import questions_that_show
from tests.shared.comparisons import answers

# One of each family. All of them, and pairs by chance: python -m conformance.studies.diagnosis
SINGLE = (
    "square-proj-untransposed", "partial-load-accepted", "ln-eps-wrong-in-ln_1", "cache-not-reset",
    "eos-kept", "special-injection",
    "tf32-or-autocast", "top-k-kept", "argmax-in-bfloat16",
)  # fmt: skip
TOGETHER = (
    ("no-ln-f", "no-scale"),
    # Two in one question, where the second shows beside the first alone.
    ("ln-gain-plus-one", "ln-eps-1e-3-in-ln_f"),
    # What explains as much at first would need another mistake beside it.
    ("conv1d-untransposed-all", "ln-eps-1e-3-in-ln_2"),
    # A constant with a value of its own, and a differing head that is used alone.
    ("attention-scale=0.2", "gelu-erf", "head-of-its-own"),
    ("no-scale", "relu", "partial-load-accepted", "cache-aliased-branches", "eos-kept"),
)
PARTS_ALONE = {"attention alone", "MLP alone"}
HARMLESS = (
    "head-of-its-own", "centred-unembed",
    "topk-exactly-k", "context-end-refused", "config-scale-followed", "config-activation-followed",
)  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_a_known_defect_is_named(comparison: Comparison, name: str) -> None:
    told: list[str] = []
    subject = answers(comparison, name)
    diagnosis = diagnosed(comparison, subject, lambda text, **_: told.append(text))
    assert diagnosis
    assert not diagnosis.left
    (stage,) = diagnosis.stages
    number = len(comparison.questions)
    assert told[:number] == [f"{each} of {number} questions" for each in range(1, number + 1)]
    (found,) = told[number:]
    number = len(stage.explains)
    assert found == f"{number} of {number} wrong answers are explained by {stage.granted[0].id}"
    assert name in {grant.id for (grant,) in stage.alternatives}
    assert str(diagnosis).startswith("indistinguishable from: ")


@pytest.mark.parametrize("names", TOGETHER, ids="+".join)
def test_defects_at_once_are_all_named(comparison: Comparison, names: tuple[str, ...]) -> None:
    diagnosis = diagnosed(comparison, answers(comparison, *names))
    assert diagnosis
    assert not diagnosis.left
    assert {grant.id for grant in diagnosis.granted} == set(names)
    # A variant is granted, and is no mistake.
    named = {grant.id for stage in diagnosis.stages for grant in stage.granted}
    assert named == set(names) - VARIANTS.keys()


@pytest.mark.parametrize(
    "name", ["eos-kept", "last-token-without-cache", "digits-ascii", "token-biased"]
)
def test_it_is_known_in_which_questions_a_defect_shows(comparison: Comparison, name: str) -> None:
    assert shows().keys() == DEFECTS.keys()
    assert set(questions_that_show(comparison, name)) == shows()[name]


def test_the_questions_are_those_that_are_known(comparison: Comparison, tmp_path: Path) -> None:
    names = [question.name for question in comparison.questions]
    write_shows(tmp_path / "shows.json", names, shows())
    assert (tmp_path / "shows.json").read_text(encoding="utf-8") == FILE.read_text(encoding="utf-8")


def test_two_that_always_show_together_are_named(tmp_path: Path) -> None:
    names = ("block-of-128-lost", "empty-block-seen")
    asked = [each for each in questions() if each.name in {*LONG_PIECES, *PARTS_ALONE}]
    comparison = Comparison(tmp_path, torch.float32, asked)
    diagnosis = diagnosed(comparison, answers(comparison, *names))
    assert diagnosis
    assert not diagnosis.left
    assert {grant.id for grant in diagnosis.granted} == set(names)


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        ("softmax-dim-zero top-k-of-50-unasked", "top-k-of-50-unasked softmax-dim-zero"),
        (
            "marks-as-letters gelu-erf special-injection",
            "gelu-erf special-injection marks-as-letters",
        ),
        ("gelu-erf n-head-wrong", "gelu-erf n-head-wrong"),
        ("n-head=4 n-head-wrong", "n-head=4 n-head-wrong"),  # a number and a property
        # The mistake has no threshold for a top_k of 0.
        ("threshold-of-first-row topk-zero-is-off", "topk-zero-is-off threshold-of-first-row"),
    ],
)
def test_no_step_hides_another_that_it_could_go_on_to(names: str, ordered: str) -> None:
    mistakes = in_order([mistake_of(name) for name in names.split()])
    assert [each.id for each in mistakes] == ordered.split()


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_entry_has_no_diagnosis(comparison: Comparison, name: str) -> None:
    assert diagnosed(comparison, answers(comparison, name)) is None


@pytest.mark.parametrize(
    ("name", "value"), [("epsilon-of-ln_1", 3e-4), ("gelu-cubic", 0.05), ("wpe-factor", 0.7)]
)
def test_a_constant_is_read_with_all_its_digits(
    comparison: Comparison, name: str, value: float
) -> None:
    diagnosis = diagnosed(comparison, answers(comparison, f"{name}={value}"))
    assert diagnosis
    (measured,) = diagnosis.granted
    assert isinstance(measured, Measured)
    assert measured.constant.name == name
    assert measured.value == pytest.approx(value, rel=1e-9)
    assert not diagnosis.left


class UnknownActivation(CompleteGPT2):
    def activation(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.6 * x) + 0.1 * x.relu()


def test_an_unknown_activation_is_read_beside_other_mistakes(tmp_path: Path) -> None:
    parts = {"head alone", "embedding alone", "MLP of a width of its own", "two whole blocks"}
    asked = [each for each in questions() if each.name in parts | PARTS_ALONE]
    comparison = Comparison(tmp_path, torch.float32, asked, few=True)
    names = ("residual-from-normalised", "logits-factor=0.9")
    kind = type("Both", (combined(*names), UnknownActivation), {})
    diagnosis = diagnosed(comparison, comparison.answers(loading(kind)))
    assert diagnosis
    assert not diagnosis.left
    (curve,) = (grant for grant in diagnosis.granted if isinstance(grant, ReadCurve))
    found = {grant.id for stage in diagnosis.stages for grant in stage.granted}
    assert found == {*names, curve.id}
    values = curve.curve(torch.tensor([-1.0, 2.0], dtype=torch.float64)).tolist()
    assert values == pytest.approx([-0.1679816149, 2.1216685544], rel=1e-7)


def test_a_curve_is_read_again_from_its_file(comparison: Comparison, tmp_path: Path) -> None:
    """So the suite can run on a GPT-2 with it."""
    x = torch.linspace(-4, 4, 81, dtype=torch.float64)
    file = tmp_path / "curve.json"
    file.write_text(json.dumps({"x": x.tolist(), "y": x.relu().tolist()}))
    curve, relu = defective(f"activation-curve={file}"), defective("relu")
    (question,) = (each for each in comparison.questions if each.name == "MLP alone")
    assert comparison.alike(comparison.answers(curve), comparison.answers(relu), question)


def test_a_curve_goes_through_its_points_and_has_kinks_only_there() -> None:
    x = torch.linspace(-2, 3, 51, dtype=torch.float64)
    between = torch.linspace(-3, 4, 1001, dtype=torch.float64)
    inside = (between > -2) & (between < 3)
    assert torch.allclose(Curve(x, x.relu())(between), between.relu(), rtol=0, atol=1e-12)
    fifth = Curve(x, x**5 - x**2)(between[inside])
    assert torch.allclose(fifth, between[inside] ** 5 - between[inside] ** 2, rtol=0, atol=1e-9)


class SecondHeadLost(CompleteGPT2):
    """A defect outside the catalogue: in layer 3, head 1 contributes nothing."""

    def attention(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        self.layer = layer
        return super().attention(layer, x, mask)

    def merge(self, attended: Tensor) -> Tensor:
        if self.layer == 3:
            attended = attended * torch.tensor([1.0, 0.0, 1.0, 1.0]).view(4, 1, 1)
        return super().merge(attended)


class OddActivation(CompleteGPT2):
    def mlp(self, layer: int, x: Tensor) -> Tensor:
        return super().mlp(layer, x) * (1.001 if layer == 5 else 1.0)


class GainOff(CompleteGPT2):
    def final_norm(self, x: Tensor) -> Tensor:
        bias = self.weights["ln_f.bias"]
        return (super().final_norm(x) - bias) * 1.01 + bias


class HeadOff(CompleteGPT2):
    def head(self, x: Tensor) -> Tensor:
        return super().head(x) + torch.linspace(0, 1, self.config.vocab_size)


class RowsShuffled(CompleteGPT2):
    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        return super().embed(token_ids ^ 1, positions)


def adapter(load: Callable[..., Any]) -> Adapter:
    """Return an adapter of a class that cannot be imported."""
    made = Adapter("conformance.defects.complete", "cpu", torch.float32)
    made._load = load
    return made


@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        (SecondHeadLost, "block 3 attention"),
        (OddActivation, "block 5 MLP"),
        (GainOff, "final norm"),
        (RowsShuffled, "embedding"),
        (HeadOff, "head"),
        (CompleteGPT2, ""),
    ],
)
def test_the_first_stage_that_departs_is_named(kind: type[CompleteGPT2], stage: str) -> None:
    assert first_departure(adapter(kind.load)) == stage


def test_an_unknown_defect_has_no_name_but_a_stage(comparison: Comparison) -> None:
    subject = adapter(SecondHeadLost.load)
    diagnosis = diagnosed(comparison, comparison.answers(subject.load))
    assert diagnosis
    assert not diagnosis.stages
    assert "all layers" in diagnosis.left
    departs = first_departure(subject)
    said = str(replace(diagnosis, departs=departs))
    assert said.startswith("nothing known explains ")
    assert said.endswith("a probe first departs at: block 3 attention")


def test_what_is_known_is_named_beside_what_is_not(comparison: Comparison) -> None:
    class Both(SecondHeadLost, DEFECTS["bos-prepended"].kind):  # type: ignore[misc]
        pass

    diagnosis = diagnosed(comparison, comparison.answers(adapter(Both.load).load))
    assert diagnosis
    assert [grant.id for grant in diagnosis.granted] == ["bos-prepended"]
    assert str(diagnosis).startswith("explained in part by: bos-prepended; nothing known explains ")


@pytest.mark.parametrize("log_probabilities", [False, True])
def test_missing_methods_do_not_prevent_a_diagnosis(
    comparison: Comparison, log_probabilities: bool
) -> None:
    class LogitsOnly:
        def __init__(self, checkpoint: str, **options: Any) -> None:
            self.model = DEFECTS["gelu-erf"].kind.load(checkpoint, **options)

        def logits(self, token_ids: Tensor) -> Tensor:
            logits = self.model.logits(token_ids)
            return logits.log_softmax(-1) if log_probabilities else logits

    diagnosis = diagnosed(comparison, comparison.answers(adapter(LogitsOnly).load))
    assert diagnosis
    assert [grant.id for grant in diagnosis.granted] == ["gelu-erf"]
    assert not diagnosis.left
