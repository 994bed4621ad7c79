"""Causes explain failures: those that name them, those known of them, and those of all together."""

from __future__ import annotations

import json

import pytest

from conformance.defects import DEFECTS
from conformance.defects.catalogue import Mistake, id_with_number, with_number
from conformance.defects.constants import measured
from conformance.defects.numbered import NUMBERED
from conformance.diagnosis.diagnose import Diagnosis
from conformance.diagnosis.peeling import Stage
from conformance.verdict.causes import failures
from conformance.verdict.findings import FAILED, Finding, Result
from conformance.verdict.judgement import Judgement
from conformance.verdict.likely import likely_causes
from conformance.verdict.terminal import verdict_lines
from conformance.verdict.together import fail_too
from tests.shared.judging import ROOT

NO_SCALE, ERF = DEFECTS["no-scale"], DEFECTS["gelu-erf"]


def judgement_of(*granted: Mistake, **failed: Finding) -> Judgement:
    """Return a judgement in which these requirements, with _ for . and -, failed."""
    stages = tuple(Stage(((each,),), f"what shows {each.id}", ()) for each in granted)
    judgement = Judgement("any", diagnosis=Diagnosis(stages, granted[::-1]))
    for name, finding in failed.items():
        family, _, rest = name.partition("_")
        result = judgement.results.setdefault(f"{family}.{rest.replace('_', '-')}", Result())
        result.add(finding)
    return judgement


def failure(*mistakes: str, own: bool = False, test: str = "a test") -> Finding:
    return Finding(FAILED, "anything", mistakes=mistakes, own=own, test=test)


def test_a_cause_explains_what_names_it_and_what_it_is_known_to_fail() -> None:
    known = next(name for name in failures()["no-scale"] if name.startswith("parity."))
    family, _, name = known.partition(".")
    judgement = judgement_of(
        NO_SCALE,
        ERF,
        blocks_norms=failure("no-scale"),
        attention_scale=failure("no-scale", own=True),
        activation_curve=failure("gelu-erf", own=True),
        eos_middle=failure(),
        **{f"{family}_{name.replace('-', '_')}": failure()},
    )
    scale, erf = judgement.causes
    assert scale.id == "no-scale"
    # The requirement whose own fact it is comes first.
    assert scale.explains[0] == "attention.scale"
    assert set(scale.explains) == {"attention.scale", "blocks.norms", known}
    assert scale.finding is judgement.results["attention.scale"].decisive
    assert scale.question == "what shows no-scale"
    assert scale.places == ("the scale of the attention scores",)
    assert erf.explains == ["activation.curve"]
    assert judgement.unexplained == ["eos.middle"]
    assert ". 2 causes, 1 failure unexplained. " in judgement.sentence


def test_a_constant_explains_whole_logits() -> None:
    judgement = judgement_of(measured("epsilon=3e-4"), parity_float32=failure())
    (cause,) = judgement.causes
    assert cause.id == "epsilon=0.0003"
    assert cause.what == "The epsilon of every LayerNorm is 0.0003, and not 1e-05."
    assert cause.explains == ["parity.float32"]
    assert ". 1 cause, nothing unexplained. " in judgement.sentence


def test_a_cause_that_no_requirement_shows_is_named_with_what_shows_it() -> None:
    judgement = judgement_of(ERF, eos_middle=failure())
    lines = " ".join(" ".join(verdict_lines(judgement)).split())
    assert "cause: gelu-erf: Exact (erf) GELU" in lines
    assert "It explains no failure of its own; it was read from: what shows gelu-erf" in lines


def test_what_all_causes_fail_together_is_explained() -> None:
    test = "conformance/test_probes.py::test_fact[any-{}]"
    judgement = judgement_of(
        NO_SCALE,
        ERF,
        blocks_order=failure(test=test.format("blocks.order")),
        embedding_tokens=failure(test=test.format("embedding.tokens")),
    )
    assert judgement.unexplained == ["blocks.order", "embedding.tokens"]
    judgement.together = fail_too(judgement)
    assert judgement.together == {"blocks.order"}
    assert judgement.unexplained == ["embedding.tokens"]
    lines = " ".join(" ".join(verdict_lines(judgement)).split())
    assert "A GPT-2 with all these causes fails these too: blocks.order" in lines


def test_the_known_failures_are_those_of_the_kill_matrix() -> None:
    matrix = json.loads((ROOT / "docs/kill-matrix.json").read_text(encoding="utf-8"))
    assert failures() == {
        entry["id"]: [name for name, outcome in entry["outcomes"].items() if outcome == "failed"]
        for entry in matrix["entries"]
        if entry["kind"] == "defect"
    }, "python docs/generate.py"


@pytest.mark.parametrize("specification", ["no-such=1", "epsilon=", "epsilon=x"])
def test_a_constant_needs_a_known_name_and_a_number(specification: str) -> None:
    with pytest.raises(KeyError):
        measured(specification)


def test_a_number_that_a_test_read_takes_the_place_of_the_example() -> None:
    example = DEFECTS["repetition-penalty-unasked"]
    known = next(name for name in failures()[example.id] if name != "sampling.repetition")
    family, _, name = known.partition(".")
    failed = {
        "sampling_repetition": failure("repetition-penalty=1.3", own=True),
        f"{family}_{name.replace('-', '_')}": failure(),
    }
    for judgement in (judgement_of(example, **failed), judgement_of(**failed)):
        (cause,) = judgement.causes
        assert cause.id == "repetition-penalty=1.3"
        assert "divided by about 1.3" in str(cause.what)
        assert cause.source == example.source
        assert cause.explains == ["sampling.repetition", known]
        assert not judgement.unexplained


def test_what_a_named_cause_fails_too_is_explained() -> None:
    name = "test"  # as the function may be called that loads the implementation
    test = f"conformance/test_eos.py::test_middle[{name}]"
    judgement = judgement_of(
        eos_no_other=failure("max-new-tokens=2", own=True), eos_middle=failure(test=test)
    )
    judgement.adapter = name
    assert judgement.unexplained == ["eos.middle"]
    judgement.together = fail_too(judgement)
    assert not judgement.unexplained


def test_mistakes_with_a_number_are_entries_with_that_number() -> None:
    entry = with_number("min-new-tokens=7")
    assert entry.kind is not DEFECTS["min-new-tokens-of-20"].kind
    assert issubclass(entry.kind, DEFECTS["min-new-tokens-of-20"].kind)
    assert "fewer than 7 new tokens" in entry.what
    assert id_with_number("view", 300) == "view=300"
    assert id_with_number("view", 256) == "view-of-256"
    for name, numbered in NUMBERED.items():
        assert getattr(DEFECTS[numbered.example].kind, name.replace("-", "_")), name
        assert numbered.what.count("{}") == 1
    with pytest.raises(KeyError):
        with_number("view=x")


def test_a_defect_that_the_diagnosis_does_not_see_is_likely() -> None:
    """It fails the same requirements, and its own is among them."""
    alone = failures()["token-biased"]
    assert "eos.no-other" in alone
    judgement = judgement_of(
        ERF,
        activation_curve=failure("gelu-erf", own=True),
        **{name.replace(".", "_").replace("-", "_"): failure() for name in alone},
    )
    judgement.likely = likely_causes(judgement)
    _, likely = judgement.causes
    assert likely.likely
    assert "token-biased" in {likely.id, *likely.alternatives}
    assert set(likely.explains) == set(alone)
    assert not judgement.unexplained
    assert ". 2 causes, 1 of them likely, nothing unexplained. " in judgement.sentence
    assert any(line.strip().startswith("likely: token-biased") for line in verdict_lines(judgement))


def test_nothing_is_likely_where_the_diagnosis_left_something_open() -> None:
    judgement = judgement_of(eos_no_other=failure())
    assert likely_causes(judgement)
    judgement.diagnosis = Diagnosis((), left=("a plain file",))
    assert not likely_causes(judgement)
