"""A question to an implementation, and its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..adapters.protocol import Judged
from ..adapters.refusal import mentions
from ..defects.steps import AnswerKind
from ..outcomes import NotApplicable

HEAD = frozenset({"head"})
NORM = HEAD | {"final norm"}
EMBEDDINGS = NORM | {"embedding"}
WITH_ATTENTION, WITH_MLP = EMBEDDINGS | {"attention"}, EMBEDDINGS | {"mlp"}
BLOCKS = WITH_ATTENTION | WITH_MLP
REFUSED, CRASHED = "refused", "crashed"
SEVERAL = "several"  # the answer where chance decides
FAILED = (REFUSED, CRASHED, SEVERAL)


@dataclass(frozen=True)
class Question:
    """A question, the checkpoint for it, and the dtype it is asked in (None: the one judged).

    `about`: words of which an error must have one to count as a refusal and not as a crash; empty
    where any error is a refusal. `kind`: what the answer is made of. `slow`: it is asked last, as
    an answer takes a fiftieth of a second or more. `parts`: the parts of a GPT-2 that the answer
    depends on. `otherwise`: the same asked in other ways, one after the other as long as there is
    an error or chance decides. So a mistake of one row or of temperature 0 hides no other.
    """

    name: str
    write: Callable[[Path], Path]
    ask: Callable[[Judged], Any]
    dtype: torch.dtype | None = None
    about: tuple[str, ...] = ()
    kind: AnswerKind = "logits"
    slow: bool = False
    parts: frozenset[str] = BLOCKS
    otherwise: tuple[Callable[[Judged], Any], ...] = ()


def answer(
    question: Question, load: Callable[..., Judged], folder: Path, dtype: torch.dtype
) -> Any:
    """Return logits, tokens or text; REFUSED or CRASHED for an error; None if not applicable.

    If it was asked in several ways, return a list of what each way gave.
    """
    given = []
    for ask in (question.ask, *question.otherwise):
        try:
            given.append(ask(load(folder, dtype=question.dtype or dtype)))
        except NotApplicable:
            return None
        except Exception as error:
            refused = not question.about or mentions(error, question.about)
            given.append(REFUSED if refused else CRASHED)
        if not (isinstance(given[-1], str) and given[-1] in FAILED):
            break
    return given if len(given) > 1 else given[0]
