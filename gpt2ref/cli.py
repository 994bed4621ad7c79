"""`python -m gpt2ref "prompt"`: the prompt and its continuation, written to the terminal as it comes."""

from __future__ import annotations

import argparse
import io
import itertools
import os
import sys
from collections.abc import Iterator, Sequence

import torch

from .conversion import CheckpointError
from .fast.compiled_step import compile_step
from .generation import stream

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 if there is no usable model, 130 after ctrl-C; argparse exits with 2 for bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m gpt2ref", description="Continue a text with GPT-2."
    )
    parser.add_argument(
        "prompt", nargs="?", default="", help="the text to go on from (default: none, a new text)"
    )
    parser.add_argument(
        "--model",
        default="tiny",
        help="gpt2, gpt2-xl, a folder, file or hub repository (default: tiny)",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=100,
        metavar="N",
        help="stop after N tokens (default: 100)",
    )
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="0 is greedy (default: 1.0)"
    )
    parser.add_argument(
        "--top-k",
        type=int,
        metavar="K",
        help="draw from the K likeliest tokens (default: from all)",
    )
    parser.add_argument("--seed", type=int, help="same seed, same text (default: a fresh one)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: CUDA if there is one)")
    parser.add_argument("--dtype", choices=_DTYPES, help="(default: the checkpoint's own)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="with a C compiler: faster on the CPU, in float32 and bfloat16",
    )
    options = parser.parse_args(arguments)
    try:
        if options.compile:
            compile_step()
        for text in itertools.chain([options.prompt], _pieces(parser, options), ["\n"]):
            print(text, end="", flush=True)
    except BrokenPipeError:  # the reader has gone: nobody to write to, nothing to complain about
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
        return 130
    return 0


def _pieces(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Iterator[str]:
    try:
        pieces = stream(
            options.prompt,
            options.model,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            seed=options.seed,
            device=options.device,
            dtype=_DTYPES.get(options.dtype),
        )
    except CheckpointError:
        raise
    except ValueError as error:
        parser.error(str(error))
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # a terminal that lacks a letter shows a question mark
        sys.stdout.reconfigure(errors="replace")
    return pieces
