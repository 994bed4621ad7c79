"""Mistakes of generation are named with the numbers that are read, and others are not named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conformance.adapters.adapter import Adapter
from conformance.checkpoints.harmonics import SUCCESSOR, successor
from conformance.checkpoints.tensors import write_checkpoint
from conformance.naming import Named
from conformance.naming.ends import end_id, most_new_tokens, passed_over, passed_over_id
from conformance.naming.penalties import penalty
from conformance.naming.restrictions import restriction

RIGHT = "conformance.defects.complete"


def adapter_of(mistake: str) -> Adapter:
    name = mistake if mistake == RIGHT else f"conformance.defects:{mistake}"
    return Adapter(name, "cpu", torch.float32)


def ids(named: Named | None) -> tuple[str, ...]:
    return named.mistakes if named else ()


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("min-new-tokens=1", "no text has fewer than 1 new tokens"),
        ("min-new-tokens=70", "no text has fewer than 70 new tokens"),
        ("min-length=5", "no text with its prompt has fewer than 5 tokens"),
    ],
)
def test_it_is_read_for_how_long_eos_is_passed_over(
    mistake: str, words: str, tmp_path: Path
) -> None:
    named = passed_over(adapter_of(mistake), tmp_path)
    assert named is not None
    assert words in named.words
    assert named.mistakes == (mistake,)


@pytest.mark.parametrize("mistake", [RIGHT, "eos-first-unseen", "eos-not-wired", "eos-any-row"])
def test_eos_that_is_not_passed_over_is_not_said_to_be(mistake: str, tmp_path: Path) -> None:
    assert passed_over(adapter_of(mistake), tmp_path) is None


@pytest.mark.parametrize(
    ("mistake", "read"),
    [
        ("max-new-tokens=6", lambda judged: most_new_tokens(judged, 6, 20)),
        ("end-id=1000", lambda judged: end_id(judged, 1000)),
        ("stops-at-blank-line", lambda judged: end_id(judged, 628)),
        ("token-biased", lambda judged: passed_over_id(judged, 31415)),
    ],
)
def test_an_early_end_is_named_and_no_other_is(
    mistake: str, read: Callable[..., Named | None], tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, SUCCESSOR, successor())
    for each in (mistake, RIGHT, "max-new-tokens=2", "end-id=20003"):
        found = ids(read(adapter_of(each).load(folder)))
        assert found == ((mistake,) if each == mistake else ())


@pytest.mark.parametrize(
    "mistake",
    ["repetition-penalty=1.3", "presence-penalty=0.5", "frequency-penalty=0.02", "n-grams-blocked"],
)
def test_a_penalty_is_read(mistake: str, tmp_path: Path) -> None:
    assert ids(penalty(adapter_of(mistake), tmp_path)) == (mistake,)


@pytest.mark.parametrize("mistake", [RIGHT, "eos-not-wired", "top-k=40"])
def test_no_penalty_is_read_where_there_is_none(mistake: str, tmp_path: Path) -> None:
    assert penalty(adapter_of(mistake), tmp_path) is None


@pytest.mark.parametrize(
    "mistake", ["top-k=40", "top-p=0.97", "min-p=0.02", "epsilon-cutoff-unasked"]
)
def test_a_restriction_of_the_draw_is_read(mistake: str, tmp_path: Path) -> None:
    assert ids(restriction(adapter_of(mistake), tmp_path)) == (mistake,)
