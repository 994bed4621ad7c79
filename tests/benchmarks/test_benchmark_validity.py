"""Right tokens pass, and wrong ones fail."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.implementations import TokenIds
from benchmarks.plan import SEED, random_prompts
from benchmarks.sampling import Sampling
from benchmarks.validity import drawn, judge
from conformance.checkpoints.tensors import trained_like
from conformance.judging import textbook
from gpt2ref import GPT2, from_tensors
from tests.shared.benchmark_fakes import (
    CONFIG,
    NEW_TOKENS,
    SAMPLINGS,
    Clock,
    Costly,
    cell,
    measurement,
    right_tokens,
)

PROMPTS = random_prompts(CONFIG.vocab_size, batch=1, prompt_length=5)


@pytest.fixture(scope="module")
def reference() -> GPT2:
    return from_tensors(trained_like(CONFIG, seed=0), CONFIG)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_verdict_agrees_with_the_textbook(reference: GPT2, sampling: Sampling) -> None:
    expected = textbook.generate(
        reference,
        PROMPTS[0],
        n_positions=CONFIG.n_positions,
        max_new_tokens=NEW_TOKENS,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        seed=SEED,
        eos_token_id=None,
    )
    assert judge(reference, PROMPTS, [expected], sampling, SEED) == (True, None, NEW_TOKENS, 0)


def test_a_draw_is_admitted_exactly_when_the_textbook_makes_it() -> None:
    logits = 3 * torch.randn(
        200, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    uniform = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for sampling in (Sampling(1.0, None), Sampling(0.7, 3), Sampling(1.3, 8), Sampling(1.0, 12)):
        settings: dict[str, Any] = {"temperature": sampling.temperature, "top_k": sampling.top_k}
        expected = [
            textbook.next_token(row.tolist(), float(u), **settings)
            for row, u in zip(logits, uniform, strict=True)
        ]
        for token_id in range(12):
            admitted = drawn(logits, torch.full((200,), token_id), uniform, sampling, error=0.0)
            assert admitted.tolist() == [token == token_id for token in expected]


def test_rounding_excuses_the_other_side_of_a_boundary_and_no_more() -> None:
    logits = torch.zeros(1, 4, dtype=torch.float64)  # boundaries at 0.25, 0.5, 0.75
    uniform = torch.tensor([0.501], dtype=torch.float64)  # just beyond token 1
    admitted = [
        bool(drawn(logits, torch.tensor([i]), uniform, Sampling(1.0, None), error=0.01))
        for i in range(4)
    ]
    assert admitted == [False, True, True, False]


@pytest.mark.parametrize("foretold", [True, False])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_wrong_tokens_are_invalid(reference: GPT2, sampling: Sampling, foretold: bool) -> None:
    wrong = [
        [(7919 * token_id + 13) % CONFIG.vocab_size for token_id in row]
        for row in right_tokens(reference, PROMPTS, sampling, SEED)
    ]
    verdict = judge(reference, PROMPTS, wrong, sampling, SEED if foretold else None)
    assert not verdict.valid
    assert verdict.reason


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_one_wrong_token_is_invalid(reference: GPT2, sampling: Sampling) -> None:
    new = right_tokens(reference, PROMPTS, sampling, SEED)
    new[0][5] = (new[0][5] + 100) % CONFIG.vocab_size
    verdict = judge(reference, PROMPTS, new, sampling, SEED)
    assert not verdict.valid
    assert "row 0, new token 5" in str(verdict.reason)


def test_a_wrong_token_later_than_the_first_round_is_found(reference: GPT2) -> None:
    clock = Clock()

    class Careless(Costly):
        """Its last token is wrong in the third call."""

        calls = 0

        def generate(self, *arguments: Any, **options: Any) -> TokenIds:
            self.calls += 1
            rows = super().generate(*arguments, **options)
            rows[0][-1] = (rows[0][-1] + (self.calls == 3)) % CONFIG.vocab_size
            return rows

    measured = measurement(Careless.of(clock, [1.0] * NEW_TOKENS, reference), cell(), clock)
    measured.generate()
    measured.generate()
    assert measured.result(reference)["valid"]
    measured.generate()
    reason = measured.result(reference)["reason"]
    assert reason.startswith(f"round 2: row 0, new token {NEW_TOKENS - 1}: ")
