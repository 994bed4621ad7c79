"""With `--probe-shape`, a GPT-2 with a published shape built in is judged in that shape alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.adapters.gpt2ref import load as load_reference
from conformance.checkpoints.tensors import blank
from conformance.defects import DEFECTS, defects_of, defects_of_facts
from conformance.probes.activation_curve import ActivationCurve
from conformance.probes.designs import ALL, DESIGNS, FACT_PROBES, PROBE, Design
from conformance.probes.experiment import Experiment
from conformance.probes.gpt2 import PlainGPT2
from gpt2ref import PUBLISHED_CONFIGS, GPT2Config
from tests.shared.judging import judge, section

ADAPTERS = "tests/conformance/test_probe_shape.py"  # this file
# For tests that are slow in a published shape.
SHALLOW = GPT2Config(vocab_size=97, n_positions=11, n_embd=32, n_layer=5, n_head=4)


def for_124m(load: Callable[..., Any]) -> Callable[..., Any]:
    def load_124m(checkpoint: str, **options: Any) -> Any:
        fields = json.loads((Path(checkpoint) / "config.json").read_text())
        if GPT2Config.from_dict(fields) != PUBLISHED_CONFIGS["gpt2"]:
            raise NotImplementedError("has the 124M shape built in")
        return load(checkpoint, **options)

    return load_124m


right, erf = for_124m(load_reference), for_124m(DEFECTS["gelu-erf"].kind.load)


def test_an_implementation_of_one_shape_is_judged_in_it() -> None:
    adapters = [f"{ADAPTERS}:right", f"{ADAPTERS}:erf"]
    chosen = "test_activation_curve or test_fact and (curve or heads or n-inner) or test_missing"
    options = ["--probe-shape=gpt2", *(f"--implementation={adapter}" for adapter in adapters)]
    run = judge("conformance/test_probes.py", "conformance/test_keys.py", "-k", chosen, *options)
    verdicts = [" ".join(section(run.stdout, adapter).split()) for adapter in adapters]
    for verdict in verdicts:
        assert "attention 1 passed" in verdict, run.stdout[-5000:]
        assert "keys.missing: not applicable has the 124M shape built in" in verdict
        assert "blocks.n-inner: not applicable the published shapes have" in verdict
    assert f"{adapters[0]}: no deviation from GPT-2 found." in verdicts[0]
    found = (
        "activation.curve: FAILED asked: The MLP's activation is GELU in its tanh form. "
        "found: reads gelu-erf;"
    )
    assert found in verdicts[1]
    assert f"FAILED conformance/test_probes.py::test_activation_curve[{adapters[1]}]" in run.stdout
    assert f"{adapters[1]}: NOT a right GPT-2." in verdicts[1]


def test_in_another_shape_its_requirements_are_not_applicable() -> None:
    adapter = f"{ADAPTERS}:right"
    run = judge(
        "conformance/test_probes.py", "conformance/test_keys.py", "--implementation", adapter
    )
    verdict = section(run.stdout, adapter)
    assert run.returncode == 0
    (reason,) = re.findall(r"^    (has the 124M shape built in .*)$", verdict, re.M)
    assert reason.endswith(
        "(the first checkpoint has n_layer=1, n_embd=8; --probe-shape takes another)"
    )
    assert f"{adapter}: nothing could be judged. " in verdict
    assert not re.search("passed|FAILED|failed|ERRORED|errored", verdict)


@pytest.mark.parametrize("size", PUBLISHED_CONFIGS)
def test_every_probe_has_exactly_the_published_config(size: str) -> None:
    for design in DESIGNS:
        if design.n_inner is None:  # the others are not asked of a published shape
            assert (
                Experiment(design, PUBLISHED_CONFIGS[size], torch.float32).config
                == PUBLISHED_CONFIGS[size]
            )


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_the_layers_beyond_the_designs_are_blank(design: Design) -> None:
    experiment = Experiment(design, SHALLOW, torch.float32)
    tensors, nothing = experiment.tensors, blank(experiment.config)
    assert {key: tensor.shape for key, tensor in tensors.items()} == {
        key: tensor.shape for key, tensor in nothing.items()
    }
    own = [
        key
        for key, tensor in tensors.items()
        if key.startswith("h.") and not torch.equal(tensor, nothing[key])
    ]
    assert {int(key.split(".")[1]) for key in own} == set(range(design.n_layer or SHALLOW.n_layer))


# A published shape, which has blank layers, is not asked for an MLP of another width.
@pytest.mark.parametrize(
    "design", [each for each in DESIGNS if each.n_inner is None], ids=lambda design: design.name
)
def test_the_truth_is_the_same_without_blank_layers(design: Design) -> None:
    """The right one, and every defect of the forward pass."""
    experiment = Experiment(design, SHALLOW, torch.float32)
    tensors, config = experiment.tensors, experiment.config
    kinds: list[type[PlainGPT2]] = [PlainGPT2, *defects_of_facts().values()]
    for kind in kinds:
        whole = kind(tensors, config, dtype=torch.float64).logits(experiment.token_ids)
        torch.testing.assert_close(experiment.forward(kind), whole, rtol=0, atol=0, equal_nan=True)


def test_mistakes_in_the_layers_are_named_in_a_shape_of_more_of_them() -> None:
    design, own = FACT_PROBES["blocks.layers"].design, defects_of("blocks.layers")
    experiment = Experiment(design, replace(PROBE, n_layer=24), torch.float32)
    for name, kind in own.items():
        wrong = experiment.forward(kind, dtype=torch.float32).double()
        assert experiment.explained_by(wrong, own) == [name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", PUBLISHED_CONFIGS)
def test_the_curve_is_read_in_the_published_widths(size: str, dtype: torch.dtype) -> None:
    config = replace(PUBLISHED_CONFIGS[size], n_layer=1)  # the others are blank
    curve = ActivationCurve(config, dtype)
    logits = PlainGPT2(curve.tensors(), config, dtype=dtype).logits(curve.token_ids)
    assert curve.right(curve.read(logits))


def test_the_small_shape_is_cut_to_the_layers_of_the_design() -> None:
    assert Experiment(ALL, PROBE, torch.float32).config == replace(PROBE, n_layer=2)
