"""Which known defect an implementation behaves exactly like: both are asked the same questions (see `interview`).

If none answers as it does, two at once are tried, of different families. If there is none either, the stages of the model
are looked at one by one, each by a checkpoint in which it alone can be wrong.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from ..adapters.adapter import Adapter
from ..adapters.protocol import Judged
from ..checkpoints.tensors import Tensors, blank, trained_like, write_checkpoint
from ..defects import DEFECTS, VARIANTS, combined
from ..defects.parts import Parts
from ..judging.oracle import FACTOR, FLOOR_ULPS, error
from ..probes.experiment import PROBE, SEED
from ..probes.forward import forward
from .questions import Question, answer, largest, questions, same

Load = Callable[..., Judged]


@dataclass
class Interview:
    """An implementation's answers, each asked for when it is first looked at."""

    load: Load
    rooms: Rooms
    dtype: torch.dtype
    answers: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, question: Question) -> Any:
        if question.name not in self.answers:
            self.answers[question.name] = answer(
                question, self.load, self.rooms.checkpoint(question), self.dtype
            )
        return self.answers[question.name]


class Rooms:
    """Where interviews are held: the questions, their checkpoints, and what rounding may do to an answer."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.folder, self.dtype = folder, dtype
        self.questions = list(questions())
        self.right = self.interview()
        self.variants = [self.interview(known(name)) for name in VARIANTS]
        self.exact = Interview(known(), self, torch.float64)
        self._known: dict[tuple[str, ...], Interview] = {}
        self._folders: dict[str, Path] = {}
        self._rounding: dict[str, float] = {}

    def interview(self, load: Load | None = None) -> Interview:
        return Interview(load or known(), self, self.dtype)

    def known(self, *defects: str) -> Interview:
        return self._known.setdefault(defects, self.interview(known(*defects)))

    def checkpoint(self, question: Question) -> Path:
        key = repr(question.write)
        if key not in self._folders:
            self._folders[key] = question.write(self.folder / str(len(self._folders)))
        return self._folders[key]

    def alike(self, a: Interview, b: Interview, question: Question) -> bool:
        """Whether two give the same answer; a question that one of them can't be asked tells nothing."""
        first, second = a[question], b[question]
        return first is None or second is None or same(first, second, self.rounding(question))

    def rounding(self, question: Question) -> float:
        """By how much two right answers may differ, relative to the largest number in them.

        As for parity (see `oracle`): a multiple of the error that a sound implementation makes in the dtype.
        """
        if question.name not in self._rounding:
            eps = torch.finfo(question.dtype or self.dtype).eps
            measured = max(
                _relative_differences(self.right[question], self.exact[question]), default=0.0
            )
            self._rounding[question.name] = 2 * FACTOR * max(measured, FLOOR_ULPS * eps)
        return self._rounding[question.name]


def known(*defects: str) -> Load:
    """A right implementation, or one with these defects."""
    parts = combined(*defects) if defects else Parts
    return lambda folder, dtype: Judged(cast("Any", parts(str(folder), dtype=dtype)), "cpu")


def _relative_differences(a: Any, b: Any) -> Iterator[float]:
    if isinstance(a, torch.Tensor):
        yield largest(a - b) / max(largest(b), 1e-300)
    elif isinstance(a, list):
        for x, y in zip(a, b, strict=False):  # tokens, of which a near tie may make more or fewer
            yield from _relative_differences(x, y)


@dataclass(frozen=True)
class Diagnosis:
    """`alike`: known defects that answer as the implementation does, each a name or two names. `departs`: else, where."""

    alike: tuple[tuple[str, ...], ...]
    departs: str = ""

    def __str__(self) -> str:
        if self.alike:
            return f"indistinguishable from: {', or '.join(' with '.join(names) for names in self.alike)}"
        if self.departs:
            return f"no known defect, nor two of them, behaves like it; a probe first departs at: {self.departs}"
        return "no known defect, nor two of them, behaves like it; each stage of the model by itself is right"


def diagnose(adapter: Adapter) -> Diagnosis | None:
    """None if every question is answered rightly."""
    with tempfile.TemporaryDirectory() as folder:
        rooms = Rooms(Path(folder), adapter.precision)
        return diagnosed(rooms, rooms.interview(adapter.load), adapter)


def diagnosed(rooms: Rooms, subject: Interview, adapter: Adapter | None = None) -> Diagnosis | None:
    unlike = [
        question for question in rooms.questions if not rooms.alike(subject, rooms.right, question)
    ]
    # Where it does as a variant does, nothing is wrong, and nothing to be learned of what is.
    declared = [
        question
        for question in unlike
        if any(rooms.alike(subject, each, question) for each in rooms.variants)
    ]
    wrong = [question for question in unlike if question not in declared]
    if not wrong:
        return None
    ordered = wrong + [question for question in rooms.questions if question not in unlike]
    single: list[tuple[str, ...]] = [
        (name,)
        for name in DEFECTS
        if all(rooms.alike(subject, rooms.known(name), each) for each in ordered)
    ]
    alike = single or list(dict.fromkeys(_pairs(rooms, subject, wrong, ordered)))
    return Diagnosis(tuple(alike), "" if alike or adapter is None else first_departure(adapter))


def _pairs(
    rooms: Rooms, subject: Interview, wrong: Sequence[Question], ordered: Sequence[Question]
) -> Iterator[tuple[str, ...]]:
    """Two defects of different families, at least one of which explains a wrong answer by itself."""
    step = max(1, len(wrong) // 8)
    looked_at = wrong[::step]

    def explained(name: str) -> list[Question]:
        interview = rooms.known(name)
        return [
            question
            for question in looked_at
            if rooms.alike(subject, interview, question)
            and not rooms.alike(interview, rooms.right, question)
        ]

    for name in DEFECTS:
        if not (own := explained(name)):
            continue
        rest = [question for question in ordered if question not in own] + own
        for other in DEFECTS:
            if DEFECTS[other].family != DEFECTS[name].family:
                both = rooms.interview(known(*sorted((name, other))))
                if all(rooms.alike(subject, both, question) for question in rest):
                    yield tuple(sorted((name, other)))


# Stages.


def stages() -> Iterator[tuple[str, Tensors]]:
    """Checkpoints of PROBE's shape in which one stage after another comes in; what came before has been found right."""
    given, nothing = trained_like(PROBE, SEED), blank(PROBE)
    head = nothing | {"wte.weight": given["wte.weight"], "ln_f.weight": torch.zeros(PROBE.n_embd)}
    yield "head", head | {"ln_f.bias": given["ln_f.bias"]}
    # The tokens that are fed have one and the same row, and there are no positions: which row is taken does not matter.
    uniform = given["wte.weight"].clone()
    uniform[:1000] = uniform[1000]
    norm = {"ln_f.weight": given["ln_f.weight"], "ln_f.bias": given["ln_f.bias"]}
    yield "final norm", nothing | norm | {"wte.weight": uniform}
    embedding = (
        nothing | norm | {"wte.weight": given["wte.weight"], "wpe.weight": given["wpe.weight"]}
    )
    yield "embedding", embedding
    for layer, part in itertools.product(range(PROBE.n_layer), ("attention", "MLP")):
        names = ("ln_1", "attn") if part == "attention" else ("ln_2", "mlp")
        own = {
            key: t
            for key, t in given.items()
            if key.startswith(tuple(f"h.{layer}.{name}." for name in names))
        }
        yield f"block {layer} {part}", embedding | own


def first_departure(adapter: Adapter) -> str:
    """The first stage whose logits are not GPT-2's; empty if all are."""
    token_ids = torch.arange(2 * 9).view(2, 9) * 50
    for name, tensors in stages():
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), PROBE, tensors)
            try:
                logits = adapter.load(folder).logits(token_ids)
            except Exception:
                return f"{name} (it is refused)"
        truth = forward(tensors, PROBE, token_ids)
        rounded = forward(tensors, PROBE, token_ids, dtype=adapter.precision).double()
        floor = FLOOR_ULPS * torch.finfo(adapter.precision).eps * float(truth.abs().max())
        if error(logits, truth).max() > max(FACTOR * float(error(rounded, truth).max()), floor):
            return name
    return ""
