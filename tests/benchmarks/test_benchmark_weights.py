"""The weights of the benchmarks never give EOS, so no engine has to be told to ignore it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks.limits import Bandwidth
from benchmarks.measurement import Measurement
from benchmarks.plan import SEED, SIZES
from benchmarks.seeds import UnseenSeeds
from benchmarks.weights import EOS_BIAS, EOS_EMBEDDING, Tensors, Weights, never_eos
from conformance.checkpoints.tensors import trained_like
from gpt2ref import EOS, GPT2, GPT2Config, from_tensors, sample
from gpt2ref.sampling import choose
from tests.shared.benchmark_fakes import CONFIG, CPU, NEW_TOKENS, Clock, Costly, cell, loaded

SMALL = GPT2Config(n_positions=40, n_embd=32, n_layer=2, n_head=2)
HOT = 100.0  # the highest temperature for which weights.py promises something


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return never_eos(trained_like(SMALL, seed=3))


@pytest.fixture(scope="module")
def model(tensors: Tensors) -> GPT2:
    return from_tensors(tensors, SMALL)


@torch.inference_mode()
def logits_of(model: GPT2, seed: int = 0) -> Tensor:
    token_ids = torch.randint(EOS, (8, 30), generator=torch.Generator().manual_seed(seed))
    return model(token_ids).flatten(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_logit_of_eos_is_a_constant(tensors: Tensors, dtype: torch.dtype) -> None:
    cast = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    logits = logits_of(from_tensors(cast, SMALL, dtype=dtype))
    expected = torch.tensor(-EOS_BIAS * EOS_EMBEDDING, dtype=dtype)
    assert torch.equal(logits[:, EOS], expected.expand(len(logits)))


def test_the_other_logits_do_not_depend_on_what_eos_needs(tensors: Tensors) -> None:
    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    changed["ln_f.bias"][0] = 0.0
    with_it, without = (logits_of(from_tensors(each, SMALL)) for each in (tensors, changed))
    assert torch.equal(with_it[:, :EOS], without[:, :EOS])
    assert with_it[:, :EOS].std(0).mean() > 1  # they depend on the input, as those of a trained one


def test_the_largest_draw_is_not_eos_at_the_highest_temperature(model: GPT2) -> None:
    """EOS is the last token, so the largest uniform number would be the first to draw it."""
    logits = logits_of(model)
    uniform = torch.full((len(logits),), 1 - 2.0**-53, dtype=torch.float64)
    assert EOS not in choose(logits, uniform, temperature=HOT, top_k=None)


def test_eos_is_never_drawn(model: GPT2) -> None:
    """Each row has a seed of its own."""
    prompts = [[number] for number in range(100)]
    rows = sample(model, prompts, max_new_tokens=12, temperature=HOT, top_k=None, seed=0)
    assert [len(row) for row in rows] == [12] * 100


@pytest.mark.parametrize("size", ["tiny", "gpt2"])
def test_the_bound_of_the_derivation_holds(size: str) -> None:
    """The logit of token 0 is a lower bound of the largest: see weights.py."""
    tensors = trained_like(SIZES[size], SEED)
    width = SIZES[size].n_embd
    gain, bias = tensors["ln_f.weight"].abs().max(), tensors["ln_f.bias"].norm()
    bound = tensors["wte.weight"][0].norm() * (gain * math.sqrt(width) + bias)
    assert bound < 0.018 * width


def test_the_weights_that_are_measured_are_these() -> None:
    weights = Weights(SMALL, CPU, torch.float32)
    logits = logits_of(weights.judge)
    weights.free()
    assert bool((logits[:, EOS] == -EOS_BIAS * EOS_EMBEDDING).all())


class DrawsEos(UnseenSeeds):
    """Draws the number of EOS: the first token of a prompt is its number, modulo the vocabulary."""

    def draw(self, vocab_size: int, batch: int) -> int:  # noqa: ARG002
        return EOS


def test_eos_is_in_no_prompt() -> None:
    clock = Clock()
    own = Measurement(
        loaded(Costly()),
        cell(),
        SMALL,
        NEW_TOKENS,
        synchronise=clock.synchronise,
        bandwidth=lambda: Bandwidth(1e9, "sum"),
        seeds=DrawsEos(),
    )
    _, [prompt] = own._draw()
    assert prompt[0] == 0


def test_a_smaller_vocabulary_has_no_eos() -> None:
    changed = never_eos(trained_like(CONFIG, seed=0))
    assert changed["wte.weight"].shape == (CONFIG.vocab_size, CONFIG.n_embd)
    assert not changed["wte.weight"][:, 0].any()
