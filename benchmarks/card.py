"""Say at the start what is measured, on what, and about how long it will take."""

from __future__ import annotations

import textwrap
from typing import Any

import torch

from .bars import shortened
from .implementations import IMPLEMENTATIONS, implementation_class
from .limits import Bandwidth, bytes_per_step, ceiling, parameters
from .plan import DTYPES, Cell, Plan

WIDTH = 80
NAMES = 12  # characters of the column
LONGEST_NAME = 40  # of an implementation

# Guesses of the time, before the first round. Nothing but the card depends on them.
STEPS_PER_TOKEN = 2  # an engine that reaches half of the limit
TOKENS_PER_STEP = 6  # so many tokens of a prompt take as long as a step that reads all weights
CALLS_OF_ADAPTERS = 3  # of several lengths, or without a cache
SECONDS_PER_PARAMETER = 40e-9  # to draw the weights, write them, and load them


def card(plan: Plan, conditions: dict[str, Any], bandwidth: Bandwidth) -> list[str]:
    """Return lines of at most 80 columns."""
    first = plan.cells[0]
    step = _step_bytes(plan, first)
    limit = ceiling(step, first.batch, bandwidth.bytes_per_second)
    on_cpu = plan.device.type == "cpu"
    threads = f", {_counted(torch.get_num_threads(), 'thread')}" if on_cpu else ""
    names = ", ".join(shortened(name, LONGEST_NAME) for name in plan.implementations)
    named = set(plan.implementations) <= set(IMPLEMENTATIONS)
    described = {
        "measured": f"{names}, in turns, on the same weights",
        **({"recognised": found} if (found := _found(plan)) else {}),
        "machine": f"{conditions.get('device_name', plan.device)}{threads}",
        "shapes": f"{_listed(plan.sizes)}; {_listed(plan.dtypes)}; batch {_listed(plan.batches)}; "
        f"prompt {_listed(plan.prompt_lengths)}; {plan.new_tokens} new tokens",
        "sampling": f"temperature {_listed(f'{each:g}' for each in plan.temperatures)}; "
        f"top-k {_listed(each or 'none' for each in plan.top_ks)}",
        "limit": f"{limit:,.1f} tokens/s for {first.size} in {first.dtype}, batch {first.batch}: "
        f"a step reads {step / 1e6:,.0f} MB, and the memory gives "
        f"{bandwidth.bytes_per_second / 1e9:.1f} GB/s",
        "time": f"about {words_for(guessed_seconds(plan, bandwidth))} for "
        f"{_counted(len(plan.cells), 'cell')} of "
        f"{_counted(len(plan.implementations), 'implementation')}, 1 + {plan.rounds} rounds"
        f"{'' if named else '; several times that for one without a cache'}",
    }
    lines = ["GPT-2's generation loop, in tokens per second"]
    for name, text in described.items():
        lines += textwrap.wrap(
            text,
            WIDTH,
            initial_indent=f"  {name:{NAMES}}",
            subsequent_indent=" " * (2 + NAMES),
            break_on_hyphens=False,
        )
    return lines


def _found(plan: Plan) -> str:
    """Return what was found out of models that come without an adapter."""
    adapters = [implementation_class(name).adapter for name in plan.implementations]
    found = [each.found.said for each in adapters if each is not None and each.found]
    return "; ".join(said.removeprefix("judging ") for said in found)


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))


def guessed_seconds(plan: Plan, bandwidth: Bandwidth) -> float:
    """Guess how long a run will take. It may be three times as long, or a third."""
    made = {cell.weights: parameters(cell.config) for cell in plan.cells}
    seconds = SECONDS_PER_PARAMETER * sum(made.values())
    turns = sum(
        1 if name in IMPLEMENTATIONS else CALLS_OF_ADAPTERS for name in plan.implementations
    )
    for cell in plan.cells:
        step = _step_bytes(plan, cell) / bandwidth.bytes_per_second
        fed = cell.batch * (2 * cell.prompt_length + plan.new_tokens)  # by it, and by the judge
        steps = STEPS_PER_TOKEN * plan.new_tokens + fed / TOKENS_PER_STEP
        seconds += turns * (1 + plan.rounds) * steps * step
    return seconds


def _step_bytes(plan: Plan, cell: Cell) -> int:
    return bytes_per_step(
        cell.config,
        itemsize=DTYPES[cell.dtype].itemsize,
        batch=cell.batch,
        prompt_length=cell.prompt_length,
        new_tokens=plan.new_tokens,
    )


def words_for(seconds: float) -> str:
    """Round a time to what a guess can say: `20 seconds`, `3 minutes`, `2 hours`."""
    if seconds < 55:
        return f"{max(10, 10 * round(seconds / 10))} seconds"
    unit, size = ("minute", 60) if seconds < 5400 else ("hour", 3600)
    return _counted(max(1, round(seconds / size)), unit)


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'s' * (count != 1)}"
