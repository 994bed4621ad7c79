"""The suite's command-line options, for pytest and `gpt2-conformance --help`, and its markers."""

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
OPTIONS: dict[str, dict[str, Any]] = {
    "--implementation": {
        "action": "append",
        "metavar": "ADAPTER",
        "help": "judge this implementation: gpt2ref (the default), huggingface, my_gpt2.py, "
        "package.module, package.module:load or 'command: program'; a file without load(), such as "
        "model.py, model.py:GPT or model.py:GPT.from_pretrained, is looked at for a GPT-2; may be "
        "given several times",
    },
    "--write-adapter": {
        "metavar": "PYTHON",
        "help": "write what was recognised in such a file as a new adapter, which gives the same "
        "verdict, and exit",
    },
    "--new-adapter": {
        "metavar": "PYTHON",
        "help": "write an empty adapter as a new file, and exit",
    },
    "--device": {
        "default": "cpu",
        "help": "device given to the adapter's load() (default: cpu)",
    },
    "--dtype": {
        "choices": [*DTYPES],
        "help": "judge in this dtype alone (default: float32, and parity in all)",
    },
    "--quick": {
        "action": "store_true",
        "help": "ask in seconds what the logits of small checkpoints tell, and nothing of files, "
        "caches, generation and long texts",
    },
    "--checkpoint": {
        "help": "a real checkpoint, a folder or hub id, for parity.given-checkpoint",
    },
    "--probe-shape": {
        "choices": ["small", *PUBLISHED_CONFIGS],
        "default": "small",
        "help": "shape of the probes' checkpoints: small (the default), or a published shape for "
        "an implementation that can't have another",
    },
    "--conformance-report": {
        "metavar": "JSON",
        "help": f"write all results to this file; python -m {__package__}.pages makes a page of it",
    },
    "--known-deviations": {
        "action": "append",
        "metavar": "TOML",
        "help": "a file of requirements that are known to fail, each with its reason, and that "
        "must not pass; may be given several times",
    },
    "--write-known-deviations": {
        "metavar": "TOML",
        "help": "write the failures of this run as a new file of that kind",
    },
    "--defects": {
        "nargs": "?",
        "const": "all",
        "metavar": "NAMES",
        "help": "judge the suite itself by the wrong GPT-2s of its catalogue: by all, or by those "
        "that are named, separated by commas",
    },
    "--defects-report": {
        "metavar": "JSON",
        "help": "write the kill matrix to this file; "
        f"python -m {__package__}.pages makes a page of it",
    },
    "--list-requirements": {
        "action": "store_true",
        "help": "print all requirements and exit",
    },
}


def add(option: Callable[..., Any]) -> None:
    """Add the options. `option` is the add_argument of a parser, or a function like it."""
    for name, settings in OPTIONS.items():
        option(name, **settings)
