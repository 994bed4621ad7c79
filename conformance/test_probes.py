"""Each fact of the architecture by itself, read out of the logits of a checkpoint made for it.

`probes.designs` says which checkpoint shows which fact. The mistakes that a probe looks for are the
defects of the catalogue: first those that its requirement must catch, then all others of the
forward pass.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import pytest

from gpt2ref import GPT2Config

from .adapters.adapter import Adapter
from .adapters.refusal import may_refuse
from .checkpoints.tensors import write_checkpoint
from .conftest import Reading, WriteCheckpoint
from .defects import defects_of, defects_of_facts
from .outcomes import Failure, NotApplicable, Variant
from .probes.activation_curve import ActivationCurve
from .probes.check import Observation, check_numbers, too_coarse
from .probes.designs import (
    CONSTANT_PROBES,
    EMBEDDING,
    FACT_PROBES,
    LARGE_SCORES,
    PROBE,
    Design,
)
from .probes.experiment import Experiment, with_constant
from .requirements import requirement

Observe = Callable[[Design], Observation]
one_experiment = lru_cache(maxsize=16)(Experiment)


@pytest.fixture(scope="session")
def observe(adapter: Adapter, probe_shape: GPT2Config, write: WriteCheckpoint) -> Observe:
    kinds = defects_of_facts()

    @cache
    def observation(design: Design) -> Observation:
        if probe_shape == PROBE:  # small enough to be kept, for the next adapter
            experiment = one_experiment(design, probe_shape, adapter.precision)
            folder = write(design.name, experiment.config, lambda: experiment.tensors)
            logits = adapter.load(folder).logits(experiment.token_ids)
            return Observation(experiment, logits, kinds)
        experiment = Experiment(design, probe_shape, adapter.precision)
        with tempfile.TemporaryDirectory() as once:  # 548 MB in the 124M shape: one at a time
            folder = write_checkpoint(Path(once), experiment.config, experiment.tensors)
            logits = adapter.load(folder).logits(experiment.token_ids)
            return Observation(experiment, logits, kinds)

    return observation


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=requirement(name)) for name in FACT_PROBES]
)
def test_fact(observe: Observe, probe_shape: GPT2Config, name: str) -> None:
    probe = FACT_PROBES[name]
    if probe.design.n_inner is not None and probe_shape != PROBE:
        raise NotApplicable("the published shapes have n_inner = 4 n_embd")
    observe(probe.design).check(defects_of(name), probe.expected)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=requirement(name)) for name in CONSTANT_PROBES]
)
def test_constant(observe: Observe, reading: Reading, name: str) -> None:
    probe = CONSTANT_PROBES[name]
    observation = observe(probe.design)
    experiment, logits = observation.experiment, observation.logits
    right = experiment.constant(probe.constant)
    one_percent = experiment.effect(with_constant(probe.constant, 1.01 * right))
    if one_percent <= 2 * experiment.allowed and experiment.dtype.itemsize >= 4:
        assert experiment.shift, "the probe would not see one per cent"
        raise too_coarse(experiment.shift, f"one per cent of the {probe.constant}")
    read = experiment.read(probe.constant, logits)
    kind = with_constant(probe.constant, read)
    allowed = experiment.allowed_in(experiment.dtype, kind)
    readable = experiment.distance(logits, kind) <= allowed
    if readable:
        reading(probe.constant, read, right)
    if observation.right:
        return
    if readable:
        raise Failure(
            f"{probe.constant}: {read:.3g}",
            expected=f"{right:.3g}",
            mistakes=observation.causes,
            own=True,
        )
    observation.check(defects_of(name), f"{right:.3g}")


@requirement("attention.large-scores")
def test_large_scores(observe: Observe) -> None:
    observation, own = observe(LARGE_SCORES), defects_of("attention.large-scores")
    if not observation.logits.isfinite().all():
        raise Failure(
            "the softmax overflows: logits are no numbers where all scores are alike, and large or "
            "far below zero",
            mistakes=tuple(own),
            own=True,
        )
    observation.check(own, "a softmax of differences")


@requirement("activation.curve")
def test_activation_curve(adapter: Adapter, reading: Reading, probe_shape: GPT2Config) -> None:
    probe = ActivationCurve(probe_shape, adapter.precision, defects_of("activation.curve"))
    check_numbers(adapter, probe, reading, defects_of_facts())


@requirement("head.raw")
def test_raw_logits(observe: Observe) -> None:
    observation = observe(EMBEDDING)
    # Half precision rounds these logits by more than a soft cap changes them, but not a shift.
    half = observation.experiment.dtype.itemsize < 4
    observation.check({} if half else defects_of("head.raw"), "ln_f's output times wte")
    if not observation.right:
        return
    shift = (observation.logits - observation.experiment.truth).mean(-1)
    largest = float(shift.abs().max())
    if largest > observation.experiment.allowed:
        centred = observation.logits.mean(-1).abs().max() < largest / 100
        kind = "so that their mean is zero" if centred else "by position"
        if observation.logits.logsumexp(-1).abs().max() < 1e-3:
            raise Variant(
                "log-probabilities, whose exponentials add up to 1: probabilities are GPT-2's; "
                "leave out the log_softmax to return raw logits"
            )
        raise Variant(
            f"logits are shifted {kind}, by up to {largest:.3g}: probabilities are GPT-2's, raw "
            "logits are not"
        )


@requirement("context.too-long")
def test_one_token_too_many(adapter: Adapter, probe_shape: GPT2Config) -> None:
    experiment = Experiment(EMBEDDING, probe_shape, adapter.precision)
    n = experiment.config.n_positions
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), experiment.config, experiment.tensors)
        judged = adapter.load(folder)
        token_ids = experiment.token_ids[:1, :1].expand(-1, n + 1)
        judged.logits(token_ids[:, 1:])  # as many as there are positions
    with may_refuse() as refusal:
        judged.logits(token_ids)
    if not refusal:
        raise Failure(f"{n + 1} tokens were accepted by a model of {n} positions")
