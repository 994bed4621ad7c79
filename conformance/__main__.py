"""Judges your own GPT-2, from any folder. In a clone: `python -m conformance my_gpt2.py`.

    gpt2-conformance ADAPTER... [option]...

ADAPTER is gpt2ref, huggingface, a Python file or module with a `load` function (my_gpt2.py,
package.module), or with another one (my_gpt2.py:function), or "command: program". A file with a
GPT-2 needs no `load`: model.py, model.py:GPT, or model.py:GPT.from_pretrained for your own loader.
On a CPU with two cores or more, two processes share the tests; -n 0 takes one.
The options are those of pytest, and:

"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from .invocation import ALONE, FOLDER

FOR_VECTORS = ("--write-vectors", "--read-answers")
MISSING = "{error}. The suite needs more than gpt2ref alone: pip install 'gpt2ref[conformance]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite and return pytest's exit status: 0 for a right GPT-2, 1 for a wrong one.

    Any other status means that there is no verdict.
    """
    try:
        import pytest

        from . import options
    except ModuleNotFoundError as error:
        print(MISSING.format(error=error), file=sys.stderr)
        return 4
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__, end="")
        parser = argparse.ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
        options.add(parser.add_argument)
        print(parser.format_help())
        from .vectors.command import parser as vectors_parser

        print(vectors_parser().format_help())
        return 0
    if any(word.startswith(FOR_VECTORS) for word in words):
        from .vectors import command

        return command.main(words)
    adapters = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    chosen = [word for adapter in adapters for word in ("--implementation", adapter)]
    settings = list(ALONE)
    # One core is enough for most tests. A device may not have the memory for two processes, and a
    # debugger needs the terminal. The quick tests take no longer than the start of two processes.
    own = ("-n", "--numprocesses", "--dist", "--device", "--pdb", "--trace", "-s", "-p", "--quick")
    several = (os.cpu_count() or 1) > 1 and find_spec("xdist") is not None
    if several and not any(word.startswith(own) for word in words):
        settings += ["-n", "2"]
    return pytest.main([*settings, str(FOLDER), *chosen, *words[len(adapters) :]])


if __name__ == "__main__":
    sys.exit(main())
