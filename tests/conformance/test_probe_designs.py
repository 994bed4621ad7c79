"""Each probe finds the defects of its fact in the catalogue, and names no other."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from conformance.checkpoints.tensors import write_checkpoint
from conformance.defects import DEFECTS, defects_of, defects_of_facts
from conformance.judging.oracle import hugging_face_logits
from conformance.outcomes import Failure
from conformance.probes.activation_curve import GRID, ActivationCurve
from conformance.probes.check import Observation
from conformance.probes.designs import ALL, CONSTANT_PROBES, FACT_PROBES, PROBE, Design
from conformance.probes.experiment import Experiment, with_constant
from conformance.probes.gpt2 import PlainGPT2
from gpt2ref import GPT2Config, from_tensors

OF_FACTS = [
    pytest.param(probe.design, requirement, defect, id=f"{requirement}: {defect}")
    for requirement, probe in FACT_PROBES.items()
    for defect in defects_of(requirement)
]


@cache
def experiment(design: Design, dtype: torch.dtype = torch.float32) -> Experiment:
    return Experiment(design, PROBE, dtype)


def test_the_plain_forward_pass_is_hugging_faces(tmp_path: Path) -> None:
    whole = experiment(ALL)
    folder = write_checkpoint(tmp_path, whole.config, whole.tensors)
    theirs = hugging_face_logits(str(folder), whole.token_ids, torch.float64, "eager")
    torch.testing.assert_close(whole.truth, theirs, rtol=0, atol=1e-12)


def test_every_fact_has_a_probe_with_defects() -> None:
    for requirement in (*FACT_PROBES, *CONSTANT_PROBES):
        assert defects_of(requirement), requirement
    # Facts without a probe of the forward pass have a test of their own.
    rest = {DEFECTS[name].requirement for name in defects_of_facts()} - {
        *FACT_PROBES,
        *CONSTANT_PROBES,
    }
    assert rest == {
        "head.raw",
        "attention.large-scores",
        "attention.visibility",
        "transpose.attn.c_attn",
        "transpose.attn.c_proj",
        "transpose.mlp.c_fc",
        "transpose.mlp.c_proj",
    }


@pytest.mark.parametrize(("design", "requirement", "defect"), OF_FACTS)
def test_a_defect_is_found_by_its_probe_and_named(
    design: Design, requirement: str, defect: str
) -> None:
    probe, own = experiment(design), defects_of(requirement)
    wrong = probe.forward(own[defect], dtype=torch.float32).double()
    assert probe.distance(wrong) > 10 * probe.allowed
    assert probe.explained_by(wrong, own) == [defect]


@pytest.mark.parametrize(
    "defect",
    [
        "reshape-for-transpose-c_attn",
        "square-proj-untransposed",
        "reshape-for-transpose-c_fc",
        "reshape-for-transpose-c_proj",
    ],
)
def test_a_matrix_in_the_wrong_orientation_explains_what_it_spoils(defect: str) -> None:
    probe = experiment(ALL)
    wrong = probe.forward(DEFECTS[defect].kind, dtype=torch.float32).double()
    found = probe.explained_by(wrong, defects_of_facts())
    assert defect in found
    assert all(str(DEFECTS[name].requirement).startswith("transpose.") for name in found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "design",
    sorted({probe.design for probe in FACT_PROBES.values()}, key=str),
    ids=lambda design: design.name,
)
def test_a_right_implementation_is_within_what_is_allowed(
    design: Design, dtype: torch.dtype
) -> None:
    probe = experiment(design, dtype)
    right = from_tensors(probe.tensors, probe.config, dtype=dtype)(probe.token_ids).double()
    assert probe.distance(right) <= probe.allowed


@pytest.mark.parametrize("factor", [1e-3, 0.1, 0.98, 1.0, 1.02, 8.0, 100.0])
@pytest.mark.parametrize("requirement", CONSTANT_PROBES)
def test_a_constant_is_read_to_one_per_cent(requirement: str, factor: float) -> None:
    design, name = CONSTANT_PROBES[requirement]
    probe = experiment(design)
    value = probe.constant(name) * factor
    logits = probe.forward(with_constant(name, value), dtype=torch.float32).double()
    read = probe.read(name, logits)
    kind = with_constant(name, read)
    assert probe.distance(logits, kind) <= probe.allowed_in(torch.float32, kind)
    # An epsilon far below the input's variance has next to no effect. It is only distinguished
    # from 0.
    assert read == pytest.approx(
        value, rel=0.01 if factor > 0.01 or name == "attention scale" else 0.5
    )


@pytest.mark.parametrize("requirement", CONSTANT_PROBES)
def test_a_constant_is_read_out_of_log_probabilities(requirement: str) -> None:
    design, name = CONSTANT_PROBES[requirement]
    probe = experiment(design)

    def seen(factor: float) -> Observation:
        kind = with_constant(name, probe.constant(name) * factor)
        logits = probe.forward(kind, dtype=torch.float32).log_softmax(-1).double()
        return Observation(probe, logits, {})

    assert seen(1.0).right
    assert not seen(1.02).right
    assert probe.shift == 0, "each is judged by its own shift"


def test_a_shift_that_hides_mistakes_is_a_failure() -> None:
    """In float32 a logit of 100,000 is rounded to a hundredth."""
    probe = experiment(FACT_PROBES["layer-norm.variance"].design)
    seen = Observation(probe, probe.forward() + 1e5, {})
    with pytest.raises(Failure, match="shifted, by up to 1e\\+05, and rounded with it: ln-unb"):
        seen.check(defects_of("layer-norm.variance"), "the mean of squares")


def test_the_attention_scale_is_read_to_a_part_in_ten_thousand() -> None:
    design, name = CONSTANT_PROBES["attention.scale"]
    probe = experiment(design)
    read = probe.read(name, probe.forward(dtype=torch.float32).double())
    assert read == pytest.approx(PROBE.head_width**-0.5, rel=1e-4)


@pytest.mark.parametrize("name", ["right", *defects_of("activation.curve")])
def test_the_activation_curve_is_read_and_named(name: str) -> None:
    own = defects_of("activation.curve")
    curve = ActivationCurve(kinds=own)
    kind = own.get(name, PlainGPT2)
    values = curve.numbers_of(kind, torch.float32)
    assert curve.right(values, curve.numbers_of(kind))
    assert list(curve.explained_by(values, own)) == [name] * (name in own)
    if name in own:
        assert (curve.errors(values) > 10).any()
        assert curve.nearest(values) == name


@pytest.mark.parametrize("name", ["right", *defects_of("activation.curve")])
def test_the_activation_curve_is_read_out_of_log_probabilities(name: str) -> None:
    own = defects_of("activation.curve")
    curve = ActivationCurve(kinds=own).cut()
    model = own.get(name, PlainGPT2)(curve.tensors(), curve.config, dtype=torch.float32)
    logits = model.logits(curve.token_ids).log_softmax(-1)
    curve.shift = curve.shift_of(logits)
    assert list(curve.explained_by(curve.read(logits), own)) == [name] * (name in own)
    assert curve.right(curve.read(logits)) == (name == "right")


def test_the_activation_curve_is_that_of_torch() -> None:
    points = torch.tensor(GRID, dtype=torch.float32).double()
    curve = ActivationCurve()
    read = {name: curve.numbers_of(kind) for name, kind in defects_of("activation.curve").items()}
    for name, expected in {
        "gelu-erf": F.gelu(points),
        "relu": F.relu(points),
        "silu": F.silu(points),
    }.items():
        torch.testing.assert_close(read[name], expected, rtol=0, atol=1e-9)


def test_the_curve_has_sixty_points_and_the_tails() -> None:
    inside = [x for x in GRID if -6.001 < x < 6.001]
    assert len(inside) >= 60
    assert (min(GRID), max(GRID)) == (-20, 20)


def test_the_probes_run_in_the_published_shape() -> None:
    probe = Experiment(FACT_PROBES["attention.heads"].design, GPT2Config(), torch.float32)
    assert probe.config.n_embd == 768
    wrong = probe.forward(DEFECTS["n-head-wrong"].kind, dtype=torch.float32).double()
    assert probe.distance(wrong) > 10 * probe.allowed
