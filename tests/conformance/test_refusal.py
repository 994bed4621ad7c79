"""Calls that may be refused, and calls that must be accepted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conformance.adapters.forms import ProtocolError
from conformance.adapters.protocol import BrokenAdapterError
from conformance.adapters.refusal import TEMPERATURE, TOP_K, accepted, may_refuse
from conformance.outcomes import Failure, NotApplicable, Variant
from tests.shared.judged import judged_on_cpu

NO_REFUSALS = [Failure("x"), NotApplicable("x"), Variant("x"), ProtocolError("x")]
NO_REFUSALS.append(BrokenAdapterError("x"))


def test_an_exception_of_the_implementation_is_a_refusal() -> None:
    with may_refuse() as refusal:
        raise ValueError("Temperature must be above 0")
    assert refusal
    assert str(refusal) == "ValueError: Temperature must be above 0"
    assert refusal.mentions(TEMPERATURE)
    assert not refusal.mentions(TOP_K)


def test_no_exception_is_no_refusal() -> None:
    with may_refuse() as refusal:
        pass
    assert not refusal
    assert not refusal.mentions(TEMPERATURE)


@pytest.mark.parametrize("error", NO_REFUSALS, ids=lambda error: type(error).__name__)
def test_outcomes_and_broken_answers_are_no_refusals(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, may_refuse():
        raise error
    assert raised.value is error
    with pytest.raises(type(error)) as raised, accepted("anything"):
        raise error
    assert raised.value is error


def test_a_refusal_of_what_must_be_accepted_is_a_failure() -> None:
    with (
        pytest.raises(Failure, match=r"^a batch is refused: ValueError: one row$"),
        accepted("a batch"),
    ):
        raise ValueError("one row")


class Strict:
    """Refuses temperature 0 by name, and otherwise returns top_k."""

    def generate(self, token_ids: torch.Tensor, **options: Any) -> list[list[int]]:
        if options["temperature"] == 0:
            raise ValueError("temperature has to be above 0")
        return [[options["top_k"]] for _ in token_ids]


def test_greedy_tokens_are_asked_for_by_top_k_where_temperature_0_is_refused() -> None:
    judged, prompts = judged_on_cpu(Strict()), torch.zeros(2, 1, dtype=torch.int64)
    assert judged.generate(prompts, max_new_tokens=1, temperature=0, top_k=7) == [[1], [1]]
    with pytest.raises(ValueError, match="temperature has to be above 0"):
        judged.generate(prompts, max_new_tokens=1, temperature=0, top_k=7, greedy_by_top_k=False)
    assert judged.generate(prompts, max_new_tokens=1, temperature=0.5, top_k=7) == [[7], [7]]


def test_what_an_implementation_does_not_have_is_not_applicable() -> None:
    judged = judged_on_cpu(Strict())
    with pytest.raises(NotApplicable, match=r"^the adapter has no step\(\)$"):
        judged.prefill(torch.zeros(1, 1, dtype=torch.int64))
