"""`python -m gpt2ref "prompt"`: print the prompt, and its continuation piece by piece."""

from __future__ import annotations

import argparse
import io
import itertools
import os
import sys
from collections.abc import Iterator, Sequence

import torch

from .arguments import check_options
from .conversion import CheckpointError
from .fast.compiled_step import compile_step
from .text import load_model, stream

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status: 0, 1 without a usable model, 130 after ctrl-C.

    Bad usage ends in argparse's exit with 2.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        for text in itertools.chain([options.prompt], _pieces(parser, options), ["\n"]):
            print(text, end="", flush=True)
    except BrokenPipeError:  # nobody reads the output, so there is nobody to write an error to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gpt2ref", description="Continue a text with GPT-2."
    )
    add = parser.add_argument
    add("prompt", nargs="?", default="", help="the text to continue (default: none, a new text)")
    model = "gpt2, gpt2-xl, a folder, a file or a hub repository (default: tiny)"
    add("--model", default="tiny", help=model)
    tokens = "stop after N tokens (default: 100)"
    add("--max-new-tokens", type=int, default=100, metavar="N", help=tokens)
    add("--temperature", type=float, default=1.0, metavar="T", help="0 is greedy (default: 1.0)")
    add("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens (default: all)")
    add("--seed", type=int, help="the same seed gives the same text (default: a fresh one)")
    add("--device", help="default: cuda if there is one, else mps (a Mac's), else cpu")
    add("--dtype", choices=_DTYPES, help="default: the checkpoint's own")
    compiled = "compile the decode step: by a C compiler on the CPU, by torch on CUDA"
    add("--compile", action="store_true", help=compiled)
    return parser


def _pieces(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Iterator[str]:
    sampling = {
        name: getattr(options, name) for name in ("max_new_tokens", "temperature", "top_k", "seed")
    }
    try:
        check_options(**sampling)
        model = load_model(options.model, options.device, _DTYPES.get(options.dtype))
        pieces = stream(options.prompt, model, **sampling)
    except CheckpointError:
        raise
    except ValueError as error:
        parser.error(str(error))
    if options.compile:
        compile_step(model)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a letter that the terminal lacks becomes "?"
    return pieces
