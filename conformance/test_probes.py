"""Every fact of the architecture by itself, read out of the logits of a checkpoint made for it (see `probes`)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpt2ref import GPT2Config

from .adapters.adapter import Adapter
from .adapters.protocol import ProtocolError
from .checkpoints.tensors import write_checkpoint
from .conftest import Reading, WriteCheckpoint
from .outcomes import Variant
from .probes import activation_curve as curve
from .probes.experiment import (
    COARSE,
    CONSTANT_PROBES,
    EMBEDDING,
    FACT_PROBES,
    LARGE_SCORES,
    NARROW,
    PROBE,
    SQUARE,
    SQUARES,
    VECTOR_PROBES,
    Design,
    Experiment,
    known_mistakes,
    told,
)
from .probes.forward import ACTIVATIONS, FACTS
from .requirements import requirement

COARSER = "right to the rounding of {0}, but not of {1}: an adapter of an engine that computes in less declares its precision"


@dataclass
class Observation:
    experiment: Experiment
    logits: Tensor  # that the implementation gave

    @cached_property
    def causes(self) -> list[str]:
        """All known mistakes that explain the logits."""
        return self.experiment.explained_by(self.logits, known_mistakes())


Observe = Callable[[Design], Observation]
one_experiment = lru_cache(maxsize=16)(Experiment)


@pytest.fixture(scope="session")
def observe(adapter: Adapter, probe_shape: GPT2Config, write: WriteCheckpoint) -> Observe:
    @cache
    def observation(design: Design) -> Observation:
        if probe_shape == PROBE:  # small enough to be kept, for the next adapter
            experiment = one_experiment(design, probe_shape, adapter.precision)
            folder = write(design.name, experiment.config, lambda: experiment.tensors)
            return Observation(experiment, adapter.load(folder).logits(experiment.token_ids))
        experiment = Experiment(design, probe_shape, adapter.precision)
        with tempfile.TemporaryDirectory() as once:  # 548 MB in the 124M shape: one at a time
            folder = write_checkpoint(Path(once), experiment.config, experiment.tensors)
            return Observation(experiment, adapter.load(folder).logits(experiment.token_ids))

    return observation


def check(observation: Observation, own: Iterable[Mapping[str, str]], expected: str) -> None:
    """Fails unless the logits are GPT-2's; then with the mistakes of its own fact, or else any, that explain them."""
    __tracebackhide__ = True
    experiment, logits, own = observation.experiment, observation.logits, list(own)
    shows = {told(mistake): experiment.effect(mistake) / experiment.allowed for mistake in own}
    if experiment.dtype.itemsize >= 4:
        assert not (unseen := [name for name, ratio in shows.items() if ratio <= 10]), (
            f"the probe would not see {unseen}"
        )
    elif own and max(shows.values()) <= 2:
        pytest.skip(
            f"not applicable: in {experiment.dtype} it can't be told from {', '.join(shows)}"
        )
    distance = experiment.distance(logits)
    if distance <= experiment.allowed:
        return
    if found := experiment.explained_by(logits, own):
        pytest.fail(f"reads {' or '.join(found)}; GPT-2 has {expected}")
    if observation.causes:
        pytest.fail(
            f"can't be read; the logits are exactly those of another mistake: {' or '.join(observation.causes)}"
        )
    if coarser := experiment.coarser_precision(logits):
        pytest.fail(COARSER.format(coarser, experiment.dtype))
    times = f"{distance / experiment.allowed:.3g} times the allowed {experiment.allowed:.1e}"
    pytest.fail(
        f"{experiment.design.name}: logits are {distance:.1e} off, {times}, and no single known mistake gives them"
    )


@pytest.mark.parametrize(
    ("fact", "design"),
    [
        pytest.param(*row, id=row[0].replace(" ", "-"), marks=requirement(name))
        for name, row in FACT_PROBES.items()
    ],
)
def test_fact(observe: Observe, fact: str, design: Design) -> None:
    check(
        observe(design), [{fact: choice} for choice in FACTS[fact][1:]], f"{fact}: {FACTS[fact][0]}"
    )


@pytest.mark.parametrize(
    ("vectors", "design"),
    [pytest.param(*row, id=name, marks=requirement(name)) for name, row in VECTOR_PROBES.items()],
)
def test_vectors(observe: Observe, vectors: tuple[str, ...], design: Design) -> None:
    check(
        observe(design),
        [{"lost": vector} for vector in vectors],
        "every vector of the checkpoint in use",
    )


@pytest.mark.parametrize(
    ("name", "design"),
    [pytest.param(*row, id=name, marks=requirement(name)) for name, row in CONSTANT_PROBES.items()],
)
def test_constant(observe: Observe, reading: Reading, name: str, design: Design) -> None:
    observation = observe(design)
    experiment, logits = observation.experiment, observation.logits
    right = experiment.constant(name)
    one_percent = experiment.effect(constants={name: 1.01 * right})
    assert one_percent > 2 * experiment.allowed or experiment.dtype.itemsize < 4, (
        "the probe would not see one per cent"
    )
    read = experiment.read(name, logits)
    readable = experiment.distance(logits, constants={name: read}) <= experiment.allowed_in(
        experiment.dtype, {name: read}
    )
    if readable:
        reading(name, read, right)
    if experiment.distance(logits) <= experiment.allowed:
        return
    if readable:
        pytest.fail(f"reads {name}: {read:.3g}; GPT-2 has {right:.3g}")
    check(observation, [], f"{right:.3g}")


@requirement("attention.large-scores")
def test_large_scores(observe: Observe) -> None:
    observation = observe(LARGE_SCORES)
    if not observation.logits.isfinite().all():
        pytest.fail(
            "the softmax overflows: logits are no numbers where all scores are large, or far below zero, and alike"
        )
    check(observation, [], "a softmax of differences")


@requirement("activation.curve")
def test_activation_curve(adapter: Adapter, reading: Reading, probe_shape: GPT2Config) -> None:
    config = curve.CURVE if probe_shape == PROBE else probe_shape
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), config, curve.tensors(config))
        logits = adapter.load(folder).logits(torch.tensor([[curve.TOKEN]]))
    values = curve.read(logits[0, 0], config)
    points = torch.tensor(curve.GRID)
    reading(
        "activation",
        torch.stack([points, values], -1).tolist(),
        torch.stack([points, curve.expected()], -1).tolist(),
    )
    error = (values - curve.expected()).abs().nan_to_num(nan=torch.inf)
    if (error <= curve.allowed(adapter.precision)).all():
        return
    for name in ACTIVATIONS:
        if ((values - curve.expected(name)).abs() <= curve.allowed(adapter.precision)).all():
            pytest.fail(f"reads activation: {name}; GPT-2 has activation: tanh-GELU")
    for coarser in COARSE:
        if (error <= curve.allowed(coarser)).all():
            pytest.fail(COARSER.format(coarser, adapter.precision))
    worst = int((error / curve.allowed(adapter.precision)).argmax())
    pytest.fail(
        f"at {curve.GRID[worst]:.4g} the activation is {float(values[worst]):.6g}, should be "
        f"{float(curve.expected()[worst]):.6g}. None that is known is like it; nearest is {curve.nearest(values)}"
    )


@requirement("blocks.n-inner")
def test_n_inner(observe: Observe, probe_shape: GPT2Config) -> None:
    if probe_shape != PROBE:
        pytest.skip("not applicable: the published shapes have n_inner = 4 n_embd")
    check(observe(NARROW), [], "the n_inner of its config")


@requirement("transpose.square")
def test_square_matrices(observe: Observe, probe_shape: GPT2Config) -> None:
    if probe_shape != PROBE:
        pytest.skip("not applicable: the published shapes have n_inner = 4 n_embd")
    check(
        observe(SQUARE),
        [{"transposed": matrix} for matrix in SQUARES],
        "every matrix multiplying from the right",
    )


@requirement("head.raw")
def test_raw_logits(observe: Observe) -> None:
    observation = observe(EMBEDDING)
    check(observation, [], "ln_f's output times wte")
    shift = (observation.logits - observation.experiment.truth).mean(-1)
    if shift.abs().max() > observation.experiment.allowed:
        kind = (
            "so that their mean is zero"
            if observation.logits.mean(-1).abs().max() < shift.abs().max() / 100
            else "by position"
        )
        raise Variant(
            f"logits are shifted {kind}, by up to {float(shift.abs().max()):.3g}: probabilities are GPT-2's, raw logits are not"
        )


@requirement("context.too-long")
def test_one_token_too_many(adapter: Adapter, probe_shape: GPT2Config) -> None:
    experiment = Experiment(EMBEDDING, probe_shape, adapter.precision)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), experiment.config, experiment.tensors)
        judged = adapter.load(folder)
        token_ids = experiment.token_ids[:1, :1].expand(-1, experiment.config.n_positions + 1)
        judged.logits(token_ids[:, 1:])  # as many as there are positions
    try:
        judged.logits(token_ids)
    except ProtocolError:  # a program that fell over has refused nothing
        raise
    except Exception:
        return
    pytest.fail(
        f"{token_ids.size(1)} tokens were accepted by a model of {experiment.config.n_positions} positions"
    )
