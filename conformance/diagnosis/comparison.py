"""Compares the answers of implementations: asked the same questions, do two say the same?"""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..adapters.protocol import Judged
from ..defects import VARIANTS, CompleteGPT2, combined
from ..defects.catalogue import Entry, Mistake, with_mistakes
from ..defects.steps import THROUGH_LOGITS, can_change
from ..judging.oracle import FACTOR, FLOOR_ULPS
from .asking import SHOWN, numbers_of
from .asking_tokens import Frequencies
from .known_to_show import shows
from .question import BLOCKS, NORM, Question, answer
from .questions import questions
from .token_questions import DIE

Load = Callable[..., Judged]
# An epsilon of 1e-12 differs from none by 1e-11 of the logits, which nobody needs to tell apart.
# Float32 in the place of float64 differs by 1e-8 and more.
LEAST = 1e-10
GLOBAL_SEED = 20


@dataclass
class Answers:
    """The answers of an implementation. Each is asked for when it is first needed.

    `granted`: its mistakes, if it is the catalogue's. `load_shown`: what loads it so that it
    computes only the logits that are compared, if that is possible.
    """

    load: Load
    comparison: Comparison
    dtype: torch.dtype
    granted: tuple[Mistake, ...] = ()
    load_shown: Load | None = None
    given: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, question: Question) -> Any:
        matter = self.comparison.mattering(self.granted, question)
        if len(matter) < len(self.granted):
            return self.comparison.of(*matter)[question]
        if question.name not in self.given:
            checkpoint = self.comparison.checkpoint(question)
            load = (question.kind == "logits" and self.load_shown) or self.load
            # Some draw from the global generator, with dropout for one. So it has the same seed.
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                torch.manual_seed(GLOBAL_SEED)
                self.given[question.name] = answer(question, load, checkpoint, self.dtype)
        return self.given[question.name]


class Comparison:
    """The questions, their checkpoints, and how far rounding may move an answer.

    `right` has the answers of a right GPT-2 in the dtype, `variants` those of each variant.
    """

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        asked: Iterable[Question] | None = None,
        *,
        few: bool = False,
    ) -> None:
        """Compare answers to the suite's questions, or to those that are `asked`.

        `few`: whether they are some of the suite's, which compare the logits of SHOWN alone.
        """
        self.folder, self.dtype = folder, dtype
        self.questions = list(questions() if asked is None else asked)
        self._few = few or asked is None
        self.right = self.new()
        self.variants = [self.answers(defective(name)) for name in VARIANTS]
        self._exact = replace(self.right, dtype=torch.float64, given={})
        self._of: dict[tuple[str, ...], Answers] = {(): self.right}
        self._checkpoints: dict[Callable[[Path], Path], Path] = {}  # by what writes them
        self._rounding: dict[str, float] = {}

    def answers(self, load: Load) -> Answers:
        return Answers(load, self, self.dtype)

    def of(self, *granted: Mistake) -> Answers:
        """Return the answers of a GPT-2 with these mistakes; they are kept.

        The first has a step that two override. Raises TypeError if no class can have them all.
        """
        names = tuple(grant.specification for grant in granted)
        if names not in self._of:
            self._of[names] = self.new(*granted)
        return self._of[names]

    def forget(self) -> None:
        """Drop the answers of GPT-2s with several mistakes, which few implementations share."""
        self._of = {names: answers for names, answers in self._of.items() if len(names) < 2}

    def new(self, *granted: Mistake) -> Answers:
        """Return what `of` does, without keeping it."""
        kind = with_mistakes(*granted)
        # A head of its own may need all logits. A constant is a factor of each.
        whole = any("head" in grant.steps and isinstance(grant, Entry) for grant in granted)
        few = (
            None
            if whole or not self._few
            else loading(type(kind.__name__, (kind,), {"shown": SHOWN}))
        )
        return Answers(loading(kind), self, self.dtype, granted, few)

    def known_to_show(self) -> Mapping[str, frozenset[str]]:
        """Return the names of the questions in which each defect is known to show."""
        return shows()

    def mattering(self, granted: tuple[Mistake, ...], question: Question) -> tuple[Mistake, ...]:
        """Return the mistakes that may change the answer to a question.

        A sampler is asked with a die. Most mistakes of loading and of the forward pass leave its
        logits as they are, beside the others.
        """
        matter = tuple(each for each in granted if can_change(each.steps, question.kind))
        if question.kind != "tokens" or question.parts & BLOCKS > NORM:
            return matter
        # In half precision a mistake may overflow that does not matter otherwise.
        die = replace(DIE, name=f"{DIE.name}, {question.dtype}", dtype=question.dtype)
        for each in matter:
            rest = tuple(other for other in matter if other != each)
            if each.steps <= THROUGH_LOGITS and self.alike(self.of(*matter), self.of(*rest), die):
                matter = rest
        return matter

    def checkpoint(self, question: Question) -> Path:
        """Write the checkpoint of a question, unless it is there. Questions may share one."""
        if question.write not in self._checkpoints:
            self._checkpoints[question.write] = question.write(self.new_folder())
        return self._checkpoints[question.write]

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def alike(self, a: Answers, b: Answers, question: Question) -> bool:
        """Return whether two answers are the same, or one cannot be had."""
        first = a[question]
        if first is None:  # the other is not asked for
            return True
        second = b[question]
        return second is None or same(first, second, self.rounding(question))

    def rounding(self, question: Question) -> float:
        """Return by how much two right answers may differ, relative to the largest number in them.

        It is a multiple of the error that a sound implementation makes in the dtype, as for parity
        (see `oracle`).
        """
        if question.kind != "logits":
            return 0.0
        if question.name not in self._rounding:
            eps = torch.finfo(question.dtype or self.dtype).eps
            differences = _relative_differences(self.right[question], self._exact[question])
            measured = max(differences, default=0.0)
            allowed = 2 * FACTOR * max(measured, FLOOR_ULPS * eps)
            self._rounding[question.name] = max(allowed, LEAST)
        return self._rounding[question.name]


@lru_cache(maxsize=2)
def comparison_in(dtype: torch.dtype) -> Comparison:
    """Return the comparison in a dtype. The implementations of a run share its answers."""
    folder = tempfile.mkdtemp()
    comparison = Comparison(Path(folder), dtype)
    weakref.finalize(comparison, shutil.rmtree, folder)  # at exit, too
    return comparison


def defective(*names: str) -> Load:
    """Return what loads a GPT-2 with these entries of the catalogue; a right one without any."""
    return loading(combined(*names) if names else CompleteGPT2)


def loading(kind: type[CompleteGPT2]) -> Load:
    return lambda folder, dtype: Judged(cast("Any", kind.load(str(folder), dtype=dtype)), "cpu")


def same(a: Any, b: Any, rounding: float) -> bool:
    """Return whether two answers are the same: logits to rounding, drawn tokens to chance."""
    if isinstance(a, Frequencies) and isinstance(b, Frequencies):
        n = sum(a.values())
        return n == sum(b.values()) and all(
            _frequency_same(a[token], b[token], n) for token in a | b
        )
    if (x := numbers_of(a)) and (y := numbers_of(b)):
        return _near(x.centred, y.centred, rounding * max(x.largest, y.largest))
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y, rounding) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def relative_difference(a: Any, b: Any) -> float:
    """Return the largest difference of two answers in logits, relative to the largest number."""
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return max(map(relative_difference, a, b), default=math.inf)
    if not (x := numbers_of(a)) or not (y := numbers_of(b)):
        return math.inf
    if x.centred.shape != y.centred.shape or not x.centred.isfinite().all():
        return math.inf
    return max(_relative_differences(x, y))


def _near(a: Tensor, b: Tensor, most: float) -> bool:
    if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
        return False
    a, b = (each.nan_to_num(posinf=0, neginf=0) for each in (a, b))
    return bool(((a - b).abs() <= most).all())


def _frequency_same(a: int, b: int, n: int) -> bool:
    """Compare two binomials of n draws.

    A difference beyond five standard deviations has a chance below 1e-6.
    """
    p = (a + b) / (2 * n)
    return abs(a - b) <= 5 * math.sqrt(2 * n * p * (1 - p)) + 1


def _relative_differences(a: Any, b: Any) -> Iterator[float]:
    if (x := numbers_of(a)) and (y := numbers_of(b)):
        yield float((x.centred - y.centred).abs().max()) / max(y.largest, 1e-300)
    elif isinstance(a, list):
        for x, y in zip(a, b, strict=False):  # tokens: a near tie may make more or fewer of them
            yield from _relative_differences(x, y)
