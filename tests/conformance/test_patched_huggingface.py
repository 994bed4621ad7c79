"""The diagnosis names a mistake that sits in transformers' GPT-2, code that nobody here wrote.

All patches: python -m conformance.studies.patched_huggingface
"""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch

from conformance.defects import DEFECTS
from conformance.diagnosis.comparison import Comparison
from conformance.studies import patched_huggingface
from conformance.studies.diagnosis import peeled
from conformance.studies.huggingface_patches import PATCHES
from conformance.studies.patched_huggingface import Patched, seen_and_named

# The adapter's name for the cache is an old one in the newest versions.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

# Those that are asked here, so that this is quick: the probes, and a few of each other kind.
OTHERS = (
    "head alone", "final norm alone", "pieces of (2, 1, 3)", "a step past the end", "greedy",
    "top_k=1 of each row", "rows that end", "dice with top_k=1",
)  # fmt: skip
QUICK = (
    "gelu-erf",
    "no-ln-f",  # it makes all logits of the dice equal
    "qkv-order",
    "position-not-offset",
    "topk-off-by-one",
    "eos-kept",
)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    comparison = Comparison(tmp_path_factory.mktemp("comparison"), torch.float32)
    comparison.questions = [
        each for each in comparison.questions if each.name in OTHERS or each.name.endswith("alone")
    ]
    return comparison


@pytest.fixture(scope="module")
def patched() -> Patched:
    return Patched()


def test_each_patch_is_an_entry_of_the_catalogue() -> None:
    assert PATCHES.keys() <= DEFECTS.keys()


def test_patches_are_of_most_families() -> None:
    families = Counter(DEFECTS[name].family for name in PATCHES)
    assert len(families) >= 18
    assert families.total() >= 155


@pytest.mark.parametrize("name", QUICK)
def test_a_patch_is_named(comparison: Comparison, patched: Patched, name: str) -> None:
    found = peeled(comparison, patched.load(name))
    assert seen_and_named(found, (name,)), found


def test_without_a_patch_nothing_is_found(comparison: Comparison, patched: Patched) -> None:
    found = peeled(comparison, patched.load())
    assert not found.left
    assert not found.stages
    assert not seen_and_named(found, ("gelu-erf",))


def test_an_unknown_patch_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["patched_huggingface", "gelu-erf", "nothing"])
    with pytest.raises(SystemExit):
        patched_huggingface.main()
    assert "IDS: no patch nothing; there are gelu-erf, " in capsys.readouterr().err
