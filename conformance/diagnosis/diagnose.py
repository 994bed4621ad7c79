"""Finds the mistakes of a wrong implementation (see `peeling`), and says what they leave open."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch

from ..adapters.adapter import Adapter
from ..defects.catalogue import Mistake
from .comparison import Answers, Comparison, comparison_in
from .departure import first_departure
from .peeling import Peeling, Said, Stage, unheard


@dataclass(frozen=True)
class Diagnosis:
    """The mistakes of an implementation, as far as they are known.

    `stages`: what was found, in the order in which it was found. `granted`: all mistakes and
    variants in it, the last one first. `left`: the questions whose answers nothing explains.
    `departs`: the first stage of the model that is wrong, if nothing explains what is left of the
    logits.
    """

    stages: tuple[Stage, ...]
    granted: tuple[Mistake, ...] = ()
    left: tuple[str, ...] = ()
    departs: str = ""

    def __str__(self) -> str:
        found = ", and ".join(
            ", or ".join(" with ".join(grant.id for grant in each) for each in stage.alternatives)
            for stage in self.stages
        )
        if found and not self.left:
            return f"indistinguishable from: {found}"
        asked = f"{len(self.left)} of the answers"
        rest = f"nothing known explains {asked}" + (" that are left" if found else "")
        if found:
            rest = f"explained in part by: {found}; {rest}"
        if self.departs:
            return f"{rest}; a probe first departs at: {self.departs}"
        return f"{rest} (to: {'; '.join(self.left[:3])}{', ...' if len(self.left) > 3 else ''})"


def diagnose(adapter: Adapter, said: Said = unheard) -> Diagnosis | None:
    """Return the diagnosis, or None if every question is answered rightly.

    `said` is called with what there is to say meanwhile.
    """
    comparison, n_threads = comparison_in(adapter.precision), torch.get_num_threads()
    torch.set_num_threads(1)  # the models are small
    try:
        diagnosis = diagnosed(comparison, comparison.answers(adapter.load), said)
    finally:
        torch.set_num_threads(n_threads)
    if diagnosis is None or not diagnosis.left:
        return diagnosis
    about_logits = {each.name for each in comparison.questions if each.kind == "logits"}
    if not about_logits & set(diagnosis.left):
        return diagnosis
    return replace(diagnosis, departs=first_departure(adapter))


_ONE_AT_A_TIME = threading.Lock()  # as they share the answers of a comparison


def diagnose_beside(adapter: Adapter, said: Said = unheard) -> Future[Diagnosis | None]:
    """Diagnose in a thread, while other processes run the tests. An interrupt does not wait."""
    future: Future[Diagnosis | None] = Future()

    def run() -> None:
        with _ONE_AT_A_TIME:
            try:
                future.set_result(diagnose(adapter, said))
            except Exception as error:
                future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def diagnosed(comparison: Comparison, subject: Answers, said: Said = unheard) -> Diagnosis | None:
    """Return the mistakes of the subject, or None if it answers as GPT-2 or a variant does."""
    found = Peeling(comparison, subject, said).peel()
    stages = tuple(stage for stage in found.stages if not stage.is_variant)
    return Diagnosis(stages, found.granted, found.left) if stages or found.left else None
