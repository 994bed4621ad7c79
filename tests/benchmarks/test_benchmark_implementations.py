"""Each implementation generates what is asked for, and is timed in the loop that its users run."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.implementations import (
    IMPLEMENTATIONS,
    Implementation,
    TokenIds,
    implementation_class,
    missing_package,
)
from benchmarks.implementations.gpt2ref import Reference
from benchmarks.implementations.huggingface import HuggingFace
from benchmarks.plan import SEED, random_prompts
from benchmarks.sampling import Sampling
from benchmarks.weights import Weights
from conformance.checkpoints.tensors import Tensors, blank, trained_like, write_checkpoint
from gpt2ref import EOS, GPT2, GPT2Config, KVCache, sample
from gpt2ref.fast import cpu_steps
from gpt2ref.fast.compiled_step import CompiledStep, compiled_step
from tests.shared.benchmark_fakes import (
    CONFIG,
    CPU,
    GREEDY,
    NEW_TOKENS,
    SAMPLINGS,
    Clock,
    TickingClock,
    cell,
    generated,
    measurement,
)

HERE = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            missing_package(name) is not None, reason=f"not installed: {missing_package(name)}"
        ),
    )
    for name in IMPLEMENTATIONS
    if name != "gpt2ref-compiled" or shutil.which("cc")
]
# Those that are run on the CPU only, and not in float16: their names in a refusal
PARTIAL = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def load(name: str, folder: Path, config: GPT2Config, tensors: Tensors) -> Implementation:
    implementation = implementation_class(name)
    checkpoint = write_checkpoint(folder / "checkpoint", config, tensors)
    return implementation(
        implementation.convert(checkpoint, folder / "converted"), CPU, torch.float32
    )


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    weights = Weights(CONFIG, CPU, torch.float32, tensors=trained_like(CONFIG, seed=0))
    yield weights
    weights.free()


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("name", HERE)
def test_every_implementation_is_valid_in_every_kind_of_cell(
    weights: Weights, name: str, sampling: Sampling
) -> None:
    measured = measurement(
        weights.peer(name).implementation, cell(sampling, batch=3), TickingClock()
    )
    for _ in range(3):
        measured.generate()
    verdict = measured.verdict(weights.judge)
    assert verdict.valid, verdict.reason
    assert verdict.tokens_checked == 3 * 3 * NEW_TOKENS
    for generation in measured.generations:
        assert len(generation.timing.decode_seconds) == NEW_TOKENS - 1
    if measured.peer.implementation.foretold or sampling.greedy:
        first = measured.generations[0]
        implementation = weights.peer(name).implementation
        with implementation.turn():
            again = generated(implementation, first.prompts, sampling, seed=first.seed)
        assert again == first.new, "the same seed gave other tokens"


@pytest.mark.parametrize("name", HERE)
def test_eos_is_ignored(name: str, tmp_path: Path) -> None:
    config = GPT2Config(n_positions=40, n_embd=8, n_layer=1, n_head=1)
    tensors = blank(config) | {
        "ln_f.weight": torch.zeros(8),
        "ln_f.bias": torch.eye(8)[0],
    }  # the logits are wte[:, 0]
    tensors["wte.weight"][EOS, 0] = 50.0
    implementation = load(name, tmp_path, config, tensors)
    for sampling in (GREEDY, Sampling(1.0, 40)):
        assert generated(implementation, [[1, 2, 3]], sampling) == [[EOS] * NEW_TOKENS]


@pytest.mark.parametrize("name", HERE)
def test_no_implementation_has_a_default_top_k(name: str, tmp_path: Path) -> None:
    tensors = blank(CONFIG) | {"ln_f.weight": torch.zeros(32), "ln_f.bias": torch.eye(32)[0]}
    # Logits are nearly uniform, without ties.
    tensors["wte.weight"][:, 0] = torch.linspace(0.0, 0.1, CONFIG.vocab_size)
    implementation = load(name, tmp_path, CONFIG, tensors)
    [new] = generated(implementation, [[1]], Sampling(1.0, None), max_new_tokens=39)
    assert min(new) < CONFIG.vocab_size - 50  # chance of a false alarm: 20 ** -39


@pytest.mark.parametrize("name", [each for each in HERE if each.values[0] in PARTIAL])
def test_a_dtype_and_a_device_that_a_peer_lacks_are_refused_by_name(name: str) -> None:
    refusal = implementation_class(name).refusal
    assert refusal(CPU, torch.float32) is None
    for device, dtype, end in (
        (torch.device("cuda"), torch.float32, "not on cuda"),
        (CPU, torch.float16, "not in float16"),
    ):
        reason = str(refusal(device, dtype))
        assert reason.startswith(PARTIAL[name])
        assert reason.endswith(end)


@pytest.mark.parametrize("name", HERE)
def test_on_step_is_called_during_the_generation(weights: Weights, name: str) -> None:
    """If `on_step` were called afterwards, all time stamps would be those of the end."""
    seen: list[TokenIds] = []
    implementation = weights.peer(name).implementation

    class StopError(Exception):
        pass

    def on_step() -> None:
        seen.append([])
        if len(seen) == 3:
            raise StopError

    # CTranslate2 wraps what its callback raises.
    with (
        implementation.turn(),
        pytest.raises((StopError, RuntimeError)),
    ):
        implementation.generate(
            [[1, 2, 3]], GREEDY, max_new_tokens=NEW_TOKENS, seed=0, on_step=on_step
        )
    assert len(seen) == 3


def test_the_reference_is_timed_in_the_loop_that_sample_runs(weights: Weights) -> None:
    reference = weights.peer("gpt2ref").implementation
    assert isinstance(reference, Reference)
    prompts = random_prompts(CONFIG.vocab_size, batch=2, prompt_length=5)
    expected = sample(
        reference.model,
        prompts,
        max_new_tokens=NEW_TOKENS,
        temperature=0.7,
        top_k=40,
        seed=SEED,
        eos_token_id=None,
    )
    for name in ("gpt2ref", "gpt2ref-textbook"):
        assert generated(weights.peer(name).implementation, prompts, Sampling(0.7, 40)) == expected


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_only_the_step_of_the_compiled_implementation_is_compiled(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[CompiledStep | None] = []

    def recorded(model: GPT2, cache: KVCache) -> CompiledStep | None:
        steps.append(compiled_step(model, cache))
        return steps[-1]

    monkeypatch.setattr(cpu_steps, "compiled_step", recorded)
    for name in ("gpt2ref-compiled", "gpt2ref", "gpt2ref-compiled"):
        steps.clear()
        implementation = weights.peer(name).implementation
        with implementation.turn():
            generated(implementation, [[1, 2, 3]], GREEDY)
        assert [type(step) for step in steps] == [
            CompiledStep if name == "gpt2ref-compiled" else type(None)
        ]


@pytest.mark.parametrize(
    ("name", "fed"), [("gpt2ref", [5, 1, 1, 1]), ("gpt2ref-textbook", [5, 6, 7, 8])]
)
def test_only_the_textbook_feeds_all_tokens_again(
    weights: Weights, name: str, fed: list[int]
) -> None:
    implementation: Any = weights.peer(name).implementation
    seen: list[int] = []
    handle = implementation.model.transformer.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].size(1))
    )
    generated(implementation, [[1, 2, 3, 4, 5]], GREEDY, max_new_tokens=4)
    handle.remove()
    assert seen == fed


def test_the_static_cache_is_static_and_the_default_one_grows(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    for name in ("StaticCache", "DynamicCache"):
        cache = getattr(__import__("transformers"), name)
        original = cache.__init__

        def spy(
            self: Any, *args: Any, name: str = name, original: Any = original, **kwargs: Any
        ) -> None:
            made.append(name)
            original(self, *args, **kwargs)

        monkeypatch.setattr(cache, "__init__", spy)
    for name in ("huggingface", "huggingface-static"):
        generated(weights.peer(name).implementation, [[1, 2, 3]], GREEDY)
    assert made == ["DynamicCache", "StaticCache"]


def test_weights_are_loaded_once_and_given_back() -> None:
    clock = Clock()
    weights = Weights(
        CONFIG,
        CPU,
        torch.float32,
        tensors=trained_like(CONFIG, seed=0),
        clock=clock,
        synchronise=clock.synchronise,
    )
    clock.log.clear()
    peer = weights.peer("huggingface")
    assert isinstance(peer.implementation, HuggingFace)
    assert clock.log == ["read", "synchronise", "read"]
    assert weights.peer("huggingface") is peer
    assert peer.load_seconds == 0.0
    gone = [weakref.ref(peer.implementation.model), weakref.ref(weights.judge)]
    del peer
    weights.free()
    assert [model() for model in gone] == [None, None]
    assert not weights.checkpoint.exists()


@pytest.mark.parametrize("name", ["gpt2ref", "huggingface"])
def test_weights_have_the_requested_dtype(name: str) -> None:
    weights = Weights(CONFIG, CPU, torch.bfloat16, tensors=trained_like(CONFIG, seed=0))
    loaded: Any = weights.peer(name).implementation
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    assert isinstance(weights.judge, GPT2)
    assert weights.judge.dtype == torch.bfloat16
    weights.free()
