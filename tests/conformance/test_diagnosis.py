"""A wrong GPT-2 is called by the name of the known defect that it is; one that nobody knows is told by where it departs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.adapters.adapter import Adapter
from conformance.defects import DEFECTS, EQUIVALENT, VARIANTS
from conformance.defects.parts import KeysValues, Parts
from conformance.diagnosis.diagnose import Rooms, diagnosed, first_departure, known

# One of each family. All of them, and pairs by chance: python -m conformance.studies.diagnosis
SINGLE = (
    "square-proj-untransposed", "partial-load-accepted", "ln-eps-wrong-in-ln_1", "cache-not-reset",
    "batch-frozen-at-first-call", "temperature-multiplied", "eos-kept", "special-injection", "tf32-or-autocast",
)  # fmt: skip
PAIRS = (("no-ln-f", "no-scale"), ("eos-any-row", "position-not-offset"))


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    return Rooms(tmp_path_factory.mktemp("rooms"), torch.float32)


@pytest.mark.parametrize("name", SINGLE)
def test_a_known_defect_is_called_by_its_name(rooms: Rooms, name: str) -> None:
    diagnosis = diagnosed(rooms, rooms.interview(known(name)))
    assert diagnosis
    assert (name,) in diagnosis.alike
    assert str(diagnosis).startswith("indistinguishable from: ")


@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_two_defects_at_once_are_called_by_both_names(rooms: Rooms, names: tuple[str, str]) -> None:
    diagnosis = diagnosed(rooms, rooms.interview(known(*names)))
    assert diagnosis
    assert tuple(sorted(names)) in diagnosis.alike


@pytest.mark.parametrize("name", [*EQUIVALENT, *VARIANTS])
def test_what_is_no_mistake_has_no_diagnosis(rooms: Rooms, name: str) -> None:
    assert diagnosed(rooms, rooms.interview(known(name))) is None


class SecondHeadLost(Parts):
    """A mistake that is in no catalogue: in layer 3, head 1 gives nothing."""

    def attention(
        self, layer: int, x: Tensor, mask: Tensor, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        self.layer = layer
        return super().attention(layer, x, mask, past)

    def merge(self, attended: Tensor) -> Tensor:
        if self.layer == 3:
            attended = attended * torch.tensor([1.0, 0.0, 1.0, 1.0]).view(4, 1, 1)
        return super().merge(attended)


class OddActivation(Parts):
    def mlp(self, layer: int, x: Tensor) -> Tensor:
        return super().mlp(layer, x) * (1.001 if layer == 5 else 1.0)


class GainOff(Parts):
    def final_norm(self, x: Tensor) -> Tensor:
        bias = self.weights["ln_f.bias"]
        return (super().final_norm(x) - bias) * 1.01 + bias


class HeadOff(Parts):
    def head(self, x: Tensor) -> Tensor:
        return super().head(x) + torch.linspace(0, 1, self.config.vocab_size)


class RowsShuffled(Parts):
    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        return super().embed(token_ids ^ 1, positions)


def adapter(parts: type[Parts]) -> Adapter:
    """An adapter of a class that is nowhere to be imported from."""
    made = Adapter("conformance.defects.parts:Parts", "cpu", torch.float32)
    made._load = parts  # type: ignore[assignment]
    return made


@pytest.mark.parametrize(
    ("parts", "stage"),
    [
        (SecondHeadLost, "block 3 attention"),
        (OddActivation, "block 5 MLP"),
        (GainOff, "final norm"),
        (RowsShuffled, "embedding"),
        (HeadOff, "head"),
        (Parts, ""),
    ],
)
def test_the_first_stage_that_departs_is_named(parts: type[Parts], stage: str) -> None:
    assert first_departure(adapter(parts)) == stage


def test_what_no_known_defect_is_like_is_said_to_be_so(rooms: Rooms) -> None:
    class Both(SecondHeadLost, DEFECTS["bos-prepended"].parts):  # type: ignore[name-defined, misc]
        pass

    subject = adapter(Both)
    diagnosis = diagnosed(rooms, rooms.interview(subject.load), subject)
    assert diagnosis
    assert not diagnosis.alike
    assert str(diagnosis).endswith("a probe first departs at: block 3 attention")


def test_an_answer_that_does_not_apply_tells_nothing(rooms: Rooms) -> None:
    class LogitsOnly:
        def __init__(self, checkpoint: str, **options: Any) -> None:
            self.logits = known("gelu-erf")(Path(checkpoint), options["dtype"]).logits

    diagnosis = diagnosed(rooms, rooms.interview(adapter(LogitsOnly).load))  # type: ignore[arg-type]
    assert diagnosis
    assert ("gelu-erf",) in diagnosis.alike
