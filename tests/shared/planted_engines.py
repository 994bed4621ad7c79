"""Engines that would seem fast if the benchmark believed them. Each plays one trick."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Thread
from typing import Any

from benchmarks.implementations import TokenIds
from benchmarks.implementations.gpt2ref import Reference

Report = Callable[[], None]


class RemembersAnswer(Reference):
    """Returns the answer that it gave to the first prompts of the same shape."""

    def generate(self, prompts: TokenIds, *setting: Any, on_step: Report, **more: Any) -> TokenIds:
        kept = self.__dict__.setdefault("kept", {})
        key = (len(prompts), len(prompts[0]))
        if key not in kept:
            kept[key] = super().generate(prompts, *setting, on_step=on_step, **more)
        else:
            for _ in kept[key][0]:
                on_step()
        return [list(row) for row in kept[key]]


class KeepsCacheByShape(Reference):
    """Continues the first prompts of the same shape, as with a cache that is not cleared."""

    def generate(self, prompts: TokenIds, *setting: Any, **more: Any) -> TokenIds:
        kept = self.__dict__.setdefault("kept", {})
        prompts = kept.setdefault((len(prompts), len(prompts[0])), prompts)
        return super().generate(prompts, *setting, **more)


class PrecomputesInThread(Reference):
    """Generates again in a thread when a call has returned, and answers the next call with that."""

    def generate(self, *asked: Any, on_step: Report, **more: Any) -> TokenIds:
        thread, ready = self.__dict__.pop("ready", (None, []))
        if thread is None:
            ready.append(super().generate(*asked, on_step=on_step, **more))
        else:
            thread.join()
            for _ in ready[0][0]:
                on_step()
        answer, following = ready[0], []

        def compute() -> None:
            following.append(Reference.generate(self, *asked, on_step=lambda: None, **more))

        self.ready = Thread(target=compute), following
        self.ready[0].start()
        return answer


class ReportsAtEnd(Reference):
    """Reports all tokens when the last one is computed."""

    def generate(self, *asked: Any, on_step: Report, **more: Any) -> TokenIds:
        rows = super().generate(*asked, on_step=lambda: None, **more)
        for _ in rows[0]:
            on_step()
        return rows


class SleepsFirst(Reference):
    """Computes all tokens, sleeps, and then reports them one after the other."""

    def generate(self, *asked: Any, on_step: Report, **more: Any) -> TokenIds:
        rows = super().generate(*asked, on_step=lambda: None, **more)
        time.sleep(0.02)
        for _ in rows[0]:
            time.sleep(1e-6)
            on_step()
        return rows


class ReportsGroups(Reference):
    """Computes tokens in order, and reports a `group` of them at once."""

    group = 4

    def generate(self, *asked: Any, on_step: Report, **more: Any) -> TokenIds:
        waiting = []

        def wait() -> None:
            waiting.append(on_step)
            if len(waiting) == self.group:
                self.report(waiting)

        rows = super().generate(*asked, on_step=wait, **more)
        self.report(waiting)
        return rows

    @staticmethod
    def report(waiting: list[Report]) -> None:
        while waiting:
            waiting.pop()()


class ReportsPairs(ReportsGroups):
    group = 2


class ReportsHalfAtEnd(Reference):
    """Reports the first half of the tokens when they are computed, and the others together."""

    def generate(self, *asked: Any, on_step: Report, **more: Any) -> TokenIds:
        half = more["max_new_tokens"] // 2
        left = [on_step] * half

        def report() -> None:
            if left:
                left.pop()()

        rows = super().generate(*asked, on_step=report, **more)
        for _ in range(len(rows[0]) - half):
            on_step()
        return rows


class ReportsFirst(Reference):
    """Reports all tokens, and computes them afterwards."""

    pause = 0.0  # seconds before each report
    more = 0.0  # seconds that a larger model would compute after them

    def generate(self, *asked: Any, on_step: Report, **more: Any) -> TokenIds:
        for _ in range(more["max_new_tokens"]):
            time.sleep(self.pause)
            on_step()
        time.sleep(self.more)
        return super().generate(*asked, on_step=lambda: None, **more)


class ReportsFirstSlowly(ReportsFirst):
    """Leaves as much time between the reports as a step would take."""

    pause, more = 0.002, 0.03


class ReportsOneStepEarly(Reference):
    """Reports a token when its step begins."""

    def generate(self, *asked: Any, on_step: Report, **more: Any) -> TokenIds:
        left = [on_step] * (more["max_new_tokens"] - 1)
        on_step()

        def report() -> None:
            if left:
                left.pop()()

        return super().generate(*asked, on_step=report, **more)


class ReportsTooFew(Reference):
    """Reports every second token only."""

    def generate(self, *asked: Any, on_step: Report, **more: Any) -> TokenIds:
        calls: list[None] = []

        def report() -> None:
            calls.append(None)
            if len(calls) % 2:
                on_step()

        return super().generate(*asked, on_step=report, **more)


# Engine -> what the reason for its invalid row says.
TRICKS: dict[type[Reference], str] = {
    RemembersAnswer: "round 1: the tokens are those of the warm-up, whose prompt was another",
    KeepsCacheByShape: "round 1: the tokens .* the warm-up.*: a kept ",
    PrecomputesInThread: "round 1: the tokens are those of the warm-up, whose prompt was another",
    ReportsAtEnd: "so the tokens were not computed in these steps",
    SleepsFirst: "so the tokens were not computed in these steps",
    ReportsGroups: "tokens were computed earlier than they were reported",
    ReportsPairs: "tokens were computed earlier than they were reported",
    ReportsHalfAtEnd: "tokens were computed earlier than they were reported",
    ReportsFirst: "so the tokens were not computed in these steps",
    ReportsFirstSlowly: "tokens were reported before they were computed",
    ReportsOneStepEarly: "its prompt was not computed in that time",
    ReportsTooFew: r"\[16\] new tokens in 8 steps, expected 16 in each of 1 rows",
}
