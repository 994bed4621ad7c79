"""The suite's command-line options, for pytest and for the help of `gpt2-conformance`, and its markers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gpt2ref import PUBLISHED_CONFIGS

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
MARKERS = (
    "requirement(id): one of the tests that decide a requirement of requirements.py",
    "slow: published sizes above 124M; minutes and gigabytes (run with -m slow)",
    "xdist_group(name): pytest-xdist's, which need not be installed",
)


def add(option: Callable[..., Any]) -> None:
    """`option`: a parser's add_argument, or what is like it."""
    option(
        "--implementation",
        action="append",
        metavar="ADAPTER",
        help="judge this one: gpt2ref (the default), huggingface, my_gpt2.py, package.module or package.module:load; "
        "may be given several times",
    )
    option("--device", default="cpu", help="device given to the adapter's load() (default: cpu)")
    option(
        "--dtype",
        choices=[*DTYPES],
        help="judge in this dtype alone (default: float32, parity in all)",
    )
    option(
        "--checkpoint",
        help="a real checkpoint, folder or hub id, for the requirement parity.given-checkpoint",
    )
    option(
        "--probe-shape",
        choices=["small", *PUBLISHED_CONFIGS],
        default="small",
        help="shape of the probes' checkpoints: small, or a published one for an implementation that has it built in",
    )
    option(
        "--conformance-report",
        metavar="JSON",
        help=f"write all results there; python -m {__package__}.pages makes a page of it",
    )
    option(
        "--known-deviations",
        action="append",
        metavar="TOML",
        help="what may fail, each entry with its reason, and may not pass; may be given several times",
    )
    option(
        "--write-known-deviations",
        metavar="TOML",
        help="write the present failures as such a file, a new one",
    )
    option(
        "--defects",
        nargs="?",
        const="all",
        metavar="NAMES",
        help="judge the suite itself, by the wrong GPT-2s of its catalogue, or by those named, with commas between",
    )
    option(
        "--defects-report",
        metavar="JSON",
        help=f"write the kill matrix; python -m {__package__}.pages makes a page of it",
    )
    option(
        "--list-requirements", action="store_true", help="print what is asked of a GPT-2, and stop"
    )
