"""The probes see every mistake that they know, call it by its name, and see none where there is none."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from conformance.checkpoints.tensors import write_checkpoint
from conformance.judging.oracle import hugging_face_logits
from conformance.probes import activation_curve as curve
from conformance.probes.experiment import (
    ALL,
    CONSTANT_PROBES,
    FACT_PROBES,
    MATRICES,
    PROBE,
    VECTOR_PROBES,
    Design,
    Experiment,
    known_mistakes,
    told,
)
from conformance.probes.forward import ACTIVATIONS, FACTS, forward
from gpt2ref import GPT2Config, from_tensors

MISTAKES_OF_FACTS = [
    pytest.param(design, fact, choice, id=f"{name}: {choice}")
    for name, (fact, design) in FACT_PROBES.items()
    for choice in FACTS[fact][1:]
] + [
    pytest.param(design, "lost", vector, id=f"{name}: {vector}")
    for name, (vectors, design) in VECTOR_PROBES.items()
    for vector in vectors
]


@cache
def experiment(design: Design, dtype: torch.dtype = torch.float32) -> Experiment:
    return Experiment(design, PROBE, dtype)


def test_the_plain_forward_pass_is_hugging_faces(tmp_path: Path) -> None:
    whole = experiment(ALL)
    folder = write_checkpoint(tmp_path, whole.config, whole.tensors)
    theirs = hugging_face_logits(str(folder), whole.token_ids, torch.float64, "eager")
    torch.testing.assert_close(whole.truth, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("design", "fact", "choice"), MISTAKES_OF_FACTS)
def test_a_mistake_is_seen_by_its_probe_and_named(design: Design, fact: str, choice: str) -> None:
    probe = experiment(design)
    wrong = probe.forward(dtype=torch.float32, mistakes={fact: choice}).double()
    assert probe.distance(wrong) > 10 * probe.allowed
    own = [mistake for mistake in known_mistakes() if fact in mistake]
    assert probe.explained_by(wrong, own) == [told({fact: choice})]


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_matrix_in_the_wrong_orientation_explains_what_it_spoils(matrix: str) -> None:
    probe = experiment(ALL)
    wrong = probe.forward(dtype=torch.float32, mistakes={"transposed": matrix}).double()
    assert probe.explained_by(wrong, known_mistakes()) == [f"{matrix} not transposed"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "design", sorted({design for _, design in FACT_PROBES.values()}, key=str), ids=lambda d: d.name
)
def test_a_right_implementation_is_within_what_is_allowed(
    design: Design, dtype: torch.dtype
) -> None:
    probe = experiment(design, dtype)
    right = from_tensors(probe.tensors, probe.config, dtype=dtype)(probe.token_ids).double()
    assert probe.distance(right) <= probe.allowed


@pytest.mark.parametrize("factor", [1e-3, 0.1, 0.98, 1.0, 1.02, 8.0, 100.0])
@pytest.mark.parametrize(("name", "design"), CONSTANT_PROBES.values(), ids=CONSTANT_PROBES)
def test_a_constant_is_read_to_one_per_cent(name: str, design: Design, factor: float) -> None:
    probe = experiment(design)
    value = probe.constant(name) * factor
    logits = probe.forward(dtype=torch.float32, constants={name: value}).double()
    read = probe.read(name, logits)
    assert probe.distance(logits, constants={name: read}) <= probe.allowed_in(
        torch.float32, {name: read}
    )
    # An epsilon far below the variance of the input has next to no effect, and is told from zero, no more.
    assert read == pytest.approx(
        value, rel=0.01 if factor > 0.01 or name == "attention scale" else 0.5
    )


def test_the_attention_scale_is_read_to_a_part_in_ten_thousand() -> None:
    name, design = CONSTANT_PROBES["attention.scale"]
    probe = experiment(design)
    read = probe.read(name, probe.forward(dtype=torch.float32).double())
    assert read == pytest.approx(PROBE.head_width**-0.5, rel=1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_activation_curve_is_read_and_named(name: str) -> None:
    token_ids = torch.tensor([[curve.TOKEN]])
    logits = forward(
        curve.tensors(), curve.CURVE, token_ids, dtype=torch.float32, mistakes={"activation": name}
    )
    values = curve.read(logits[0, 0])
    assert (values - curve.expected(name)).abs().le(curve.allowed(torch.float32)).all()
    assert curve.nearest(values) == name
    if name != "tanh-GELU":
        assert (values - curve.expected()).abs().gt(10 * curve.allowed(torch.float32)).any()


def test_the_curve_has_sixty_points_and_the_tails() -> None:
    inside = [x for x in curve.GRID if -6.001 < x < 6.001]
    assert len(inside) >= 60
    assert (min(curve.GRID), max(curve.GRID)) == (-20, 20)


def test_the_probes_run_in_the_published_shape() -> None:
    shape = GPT2Config()
    probe = Experiment(FACT_PROBES["attention.heads"][1], shape, torch.float32)
    assert probe.config.n_embd == 768
    wrong = probe.forward(dtype=torch.float32, mistakes={"heads": "half of n_head"}).double()
    assert probe.distance(wrong) > 10 * probe.allowed
