"""The classic faults of samplers, each caught by the requirement that is about it, and a right sampler by none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conformance import test_sampling as suite
from conformance.checkpoints import DICE, write_checkpoint
from conformance.protocol import Judged
from conformance.scripts import dice
from gpt2ref import GPT2, load_checkpoint
from gpt2ref.sampling import draw


class Sampler:
    """The textbook's loop on a right model, with a fault in its sampler (or, as "none", without)."""

    def __init__(self, model: GPT2, fault: str) -> None:
        self.model = model
        self.fault = fault

    def logits(self, token_ids: Tensor) -> Tensor:
        return self.model(token_ids)

    def generate(
        self, token_ids: Tensor, *, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None, seed: int = 0
    ) -> list[list[int]]:
        time = token_ids.size(1)
        generator = torch.Generator().manual_seed(seed)
        if self.fault == "seed ignored":
            generator.seed()
        if self.fault == "global generator":
            generator = torch.default_generator
            torch.manual_seed(seed)
        for _ in range(max_new_tokens):
            if self.fault == "reseeded each step":
                generator.manual_seed(seed)
            logits = self.model.head(self.model.transformer(token_ids)[:, -1]).double()
            draws = 1 if self.fault == "rows share a draw" else len(logits)
            uniform = torch.rand(draws, generator=generator, dtype=torch.float64).expand(len(logits))
            chosen = logits.argmax(-1) if temperature == 0 else draw(self.probabilities(logits, temperature, top_k), uniform)
            token_ids = torch.cat([token_ids, chosen[:, None]], dim=1)
        rows = token_ids[:, time:].tolist()
        return [row[: row.index(50256)] if 50256 in row else row for row in rows]

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        """[batch, vocab]; `draw` normalises them, as torch.multinomial does."""
        k = min(top_k or logits.size(-1), logits.size(-1))
        match self.fault:
            case "temperature ignored":
                temperature = 1.0
            case "temperature multiplied":
                temperature = 1 / temperature
            case "temperature after the softmax":
                return logits.softmax(-1) / temperature * (logits >= logits.topk(k).values[:, -1:])
            case "one token more":
                k = min(k + 1, logits.size(-1))
            case "ties cut off":
                values, ids = logits.topk(k)
                return torch.zeros_like(logits).scatter(1, ids, (values / temperature).softmax(-1))
            case "softmax over the batch":
                return logits.softmax(0)
        if k < logits.size(-1):
            logits = logits.masked_fill(logits < logits.topk(k).values[:, -1:], float("-inf"))
        return (logits / temperature).softmax(-1)


# Fault -> the test of conformance/test_sampling.py that must fail, and its arguments.
FAULTS: dict[str, tuple[Callable[..., None], tuple[float | int | None, ...]]] = {
    "temperature ignored": (suite.test_distribution, (0.5, None)),
    "temperature multiplied": (suite.test_distribution, (0.5, None)),
    "temperature after the softmax": (suite.test_distribution, (0.5, 2)),
    "softmax over the batch": (suite.test_distribution, (0.5, None)),
    "one token more": (suite.test_top_k_support, ()),
    "ties cut off": (suite.test_top_k_ties, (3,)),
    "rows share a draw": (suite.test_independent_draws, ()),
    "reseeded each step": (suite.test_independent_draws, ()),
    "seed ignored": (suite.test_seed, ()),
    "global generator": (suite.test_global_generator_is_left_alone, ()),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GPT2:
    return load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("dice"), DICE, dice(suite.FACES)))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(model: GPT2, fault: str) -> None:
    test, arguments = FAULTS[fault]
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test(Judged(Sampler(model, fault), "cpu"), *arguments)


@pytest.mark.parametrize(("test", "arguments"), dict.fromkeys(FAULTS.values()))
def test_a_right_sampler_passes_the_same_test(
    model: GPT2, test: Callable[..., None], arguments: tuple[float | int | None, ...]
) -> None:
    test(Judged(Sampler(model, "none"), "cpu"), *arguments)
