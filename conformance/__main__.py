"""Judges any GPT-2, from any folder. In a clone: `python -m conformance model.py`.

    gpt2-conformance ADAPTER... [option]...

judge a model                   gpt2-conformance model.py
one class of a file             gpt2-conformance model.py:GPT
judge your own loader           gpt2-conformance model.py:GPT.from_pretrained
                                gpt2-conformance my_gpt2.py:load
a program in any language       gpt2-conformance 'command: ./my-gpt2'
quick look, in seconds          gpt2-conformance model.py --quick
one family, pytest's lines      gpt2-conformance model.py -k sampling -v
write an adapter                gpt2-conformance --new-adapter my_gpt2.py
from what was recognised        gpt2-conformance model.py --write-adapter my_gpt2.py
accept known deviations         gpt2-conformance model.py --write-known-deviations known.toml
                                gpt2-conformance model.py --known-deviations known.toml
make a page                     gpt2-conformance model.py --conformance-report report.json
                                python -m {package}.pages report.json -o page.html

ADAPTER is gpt2ref, huggingface, a Python file or module with a GPT-2 or with a `load` function, or
"command: program". On a CPU with two cores or more, two processes share the tests; -n 0 takes one.

While the tests run, standard error has a bar with the time left, or a line for each family that is
finished where it is no terminal. The first finding is shown at once. The verdict goes to standard
output, and its sentence is the last line. -q shows the verdict alone.

All options of pytest work. -k, -m, -n, -x, -p and -W leave the bar in place. With any other, such
as -v, -s, --tb, --pdb or --collect-only, the screen is pytest's, and the verdict stands above the
last line of that.

The exit status is 0 for a right GPT-2, and 1 for one that is wrong or was not judged in full. With
any other there is no verdict: 2 after an interrupt, 3 after an error of pytest or the suite, 4 for
options or an adapter that can't be used, and 5 if nothing could be judged.

"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from .invocation import module

FOR_VECTORS = ("--write-vectors", "--read-answers")
MISSING = "{error}. The suite needs more than gpt2ref alone: pip install 'gpt2ref[conformance]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite and return the exit status: 0 for a right GPT-2, 1 for a wrong one.

    Any other status means that there is no verdict.
    """
    try:
        from . import options

        command = module("command")
    except ModuleNotFoundError as error:
        print(MISSING.format(error=error), file=sys.stderr)
        return 4
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"-h", "--help"} & set(words):
        print((__doc__ or "").format(package=__package__), end="")
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
    settings = words[len(adapters) :]
    # One core is enough for most tests. A device may not have the memory for two processes, and a
    # debugger needs the terminal. The quick tests take no longer than the start of two processes.
    own = ("-n", "--numprocesses", "--dist", "--device", "--pdb", "--trace", "-s", "-p", "--quick")
    several = (os.cpu_count() or 1) > 1 and find_spec("xdist") is not None
    if several and not any(word.startswith(own) for word in words):
        settings = ["-n", "2", *settings]
    return int(command.run(adapters, settings, last=arguments is None))


if __name__ == "__main__":
    sys.exit(main())
