"""Read and check the options `--bench-...`, before any work."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import pytest
import torch

from .implementations import DEFAULT, IMPLEMENTATIONS, implementation_class, missing_package
from .implementations.adapter import COMMAND
from .plan import DTYPES, SIZES, Plan
from .sampling import FULL_TEMPERATURES, FULL_TOP_KS, SHORT_TEMPERATURES, SHORT_TOP_KS, TopK
from .suite import part

Value = TypeVar("Value")

LARGEST_TOP_K = min(config.vocab_size for config in SIZES.values())


def _axis(help: str) -> dict[str, Any]:
    return {
        "action": "append",
        "metavar": "VALUE[,VALUE...]",
        "help": f"{help}; several with commas, or given again",
    }


# Name -> the arguments of argparse. The prefix `bench-` keeps them apart from the conformance
# suite's.
OPTIONS: dict[str, dict[str, Any]] = {
    "size": _axis(f"{', '.join(SIZES)} (default: gpt2)"),
    "implementation": _axis(
        f"{', '.join(IMPLEMENTATIONS)}, or as the conformance suite takes one: a Python file or "
        "module, its :Class or :function, or 'command: program', which may have commas "
        f"(default: {', '.join(DEFAULT)})"
    ),
    "dtype": _axis(f"{', '.join(DTYPES)} (default: float32)"),
    "batch": _axis("rows generated at once (default: 1)"),
    "prompt-length": _axis(
        "tokens of the prompt, the depth at which decoding is timed (default: 32)"
    ),
    "temperature": _axis(
        "numbers from 0, which is greedy (default: 0,1, or all four of the full grid)"
    ),
    "top-k": _axis("numbers from 1, or none (default: none,40, or all five of the full grid)"),
    "full-grid": {
        "action": argparse.BooleanOptionalAction,
        "help": "all 20 cells of temperature x top-k instead of 4 (default: on CUDA)",
    },
    "device": {"help": "cpu, cuda or cuda:N (default: CUDA if there is one)"},
    "new-tokens": {
        "help": "tokens generated in each row, at least 2 (default: 128 on CUDA, 32 on the CPU)"
    },
    "rounds": {"help": "timed generations of each row (default: 10 on CUDA, 5 on the CPU)"},
}


def read_plan(options: Mapping[str, Any]) -> Plan:
    """Return the plan that the options ask for.

    `options` maps names, with `_` for `-` and without `--bench-`, to texts, to lists of texts for
    an axis, or to None for the default. Raises ValueError, which names the option, its value and
    what is allowed.
    """
    device = _device(options["device"])
    on_cuda = device.type == "cuda"
    full = on_cuda if options["full_grid"] is None else options["full_grid"]

    if options["full_grid"] and options["temperature"] and options["top_k"]:
        raise ValueError(
            "--bench-full-grid with --bench-temperature and --bench-top-k: expected one of the two "
            "at most"
        )
    axis = partial(_axis_values, options)
    count = partial(_count_or_default, options)
    plan = Plan(
        sizes=axis("size", ["gpt2"], _one_of(SIZES)),
        dtypes=axis("dtype", ["float32"], _one_of(DTYPES)),
        batches=axis("batch", [1], _count),
        prompt_lengths=tuple(sorted(axis("prompt-length", [32], _count))),
        temperatures=axis(
            "temperature", FULL_TEMPERATURES if full else SHORT_TEMPERATURES, _temperature
        ),
        top_ks=axis("top-k", FULL_TOP_KS if full else SHORT_TOP_KS, _top_k),
        implementations=_implementations(options["implementation"] or DEFAULT),
        device=device,
        # At least two: the first new token belongs to prefill, the later ones to decoding.
        new_tokens=count("new-tokens", 128 if on_cuda else 32, at_least=2),
        rounds=count("rounds", 10 if on_cuda else 5, at_least=1),
    )
    _check_context(plan)
    _check_prompts(plan)
    _check_dtypes(plan)
    return plan


def _axis_values(
    options: Mapping[str, Any],
    name: str,
    default: Sequence[Value],
    read: Callable[[str, str], Value],
) -> tuple[Value, ...]:
    given = options[name.replace("-", "_")] or []
    texts = [text.strip() for words in given for text in words.split(",")]
    return tuple(dict.fromkeys([read(name, text) for text in texts] or default))


def _count_or_default(options: Mapping[str, Any], name: str, default: int, at_least: int) -> int:
    text = options[name.replace("-", "_")]
    return default if text is None else _count(name, text, at_least)


def _check_context(plan: Plan) -> None:
    for size in plan.sizes:
        for length in plan.prompt_lengths:
            room = SIZES[size].n_positions
            if length + plan.new_tokens > room:
                raise ValueError(
                    f"--bench-prompt-length={length} with --bench-new-tokens={plan.new_tokens}: "
                    f"expected at most n_positions={room} together, for --bench-size={size}"
                )


def _check_prompts(plan: Plan) -> None:
    """Each generation has prompts of its own, and there are few of one token."""
    cells = [cell for cell in plan.cells if cell.prompt_length == 1]
    # One whose steps are not reported is called for three lengths in each round.
    calls = sum(1 if name in IMPLEMENTATIONS else 3 for name in plan.implementations)
    rows = sum(cell.batch for cell in cells) * calls * (1 + plan.rounds)
    most = LARGEST_TOP_K // 2  # so that unseen ones are found soon
    if rows > most:
        raise ValueError(
            f"--bench-prompt-length=1 with {rows} rows in all: expected at most {most}, "
            "as no prompt comes twice"
        )


def _check_dtypes(plan: Plan) -> None:
    for name in plan.implementations:
        for dtype in plan.dtypes:
            if reason := implementation_class(name).refusal(plan.device, DTYPES[dtype]):
                raise ValueError(
                    f"--bench-implementation={name} with --bench-dtype={dtype}: {reason}"
                )


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    # On other devices Hugging Face hands a token to its streamer one step late, so the time stamps
    # would belong to other tokens.
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"--bench-device={name}: expected cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"--bench-device={name}: torch finds {torch.cuda.device_count()} CUDA devices here"
        )
    return device


def _one_of(allowed: Mapping[str, object]) -> Callable[[str, str], str]:
    def read(option: str, text: str) -> str:
        if text not in allowed:
            raise ValueError(f"--bench-{option}={text}: expected {' or '.join(allowed)}")
        return text

    return read


def _implementations(given: Sequence[str]) -> tuple[str, ...]:
    """Split at commas, but for those of a command, which is the last of its words."""
    names: list[str] = []
    for words in given:
        listed, command, rest = words.partition(COMMAND)
        names += [name.strip() for name in listed.split(",") if name.strip() or not command]
        names += [(command + rest).strip()] if command else []
    for name in names:
        _check_implementation(name)
    adapters = [implementation_class(name) for name in names if name not in IMPLEMENTATIONS]
    try:
        part("adapters.adapter").check_apart([each.adapter for each in adapters])
    except pytest.UsageError as error:
        raise ValueError(str(error).replace("--", "--bench-", 1)) from error
    return tuple(dict.fromkeys(names))


def _check_implementation(name: str) -> None:
    """Raise ValueError if there is no such implementation. An adapter is imported here."""
    option = f"--bench-implementation={name}"
    if package := missing_package(name):
        raise ValueError(f"{option}: needs what is not installed: pip install {package}")
    try:
        implementation_class(name)
    except pytest.UsageError as error:
        why = str(error).removeprefix(f"--implementation {name}: ").partition("; expected ")[0]
        raise ValueError(
            f"{option}: expected {' or '.join(IMPLEMENTATIONS)}, a Python file or module with a "
            f"GPT-2, or '{COMMAND} program': {why}"
        ) from error


def _count(option: str, text: str, at_least: int = 1) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) >= at_least):
        raise ValueError(f"--bench-{option}={text}: expected an integer of at least {at_least}")
    return int(text)


def _temperature(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"--bench-{option}={text}: expected a finite number of at least 0")
    return value


def _top_k(option: str, text: str) -> TopK:
    if text == "none":
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= LARGEST_TOP_K):
        raise ValueError(
            f"--bench-{option}={text}: expected none or an integer from 1 to {LARGEST_TOP_K}"
        )
    return int(text)
