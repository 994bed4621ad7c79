"""Writes vectors, or judges a port by its answers to them, as `gpt2-conformance` is told.

gpt2-conformance --write-vectors DIR [--full] [--archive FILE.tar]
gpt2-conformance --read-answers ANSWERS.json [--vectors DIR] [--conformance-report JSON]
                 [--page HTML]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from gpt2ref import GPT2Config

from ..verdict.report import check_writable, report_of, write_report
from ..verdict.terminal import verdict_lines
from .answers import read_answers
from .errors import VectorsError
from .folder import read_vectors
from .verdict import judge_answers
from .write import write_archive, write_text_at_once, write_vectors

_WRITTEN = ("page", "conformance_report")  # with a verdict


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="gpt2-conformance", add_help=False, usage=argparse.SUPPRESS, allow_abbrev=False
    )
    group = made.add_argument_group("the suite as files, for a port in any language")
    group.add_argument(
        "--write-vectors", type=Path, metavar="DIR", help="write the vectors as a new folder"
    )
    group.add_argument(
        "--full", action="store_true", help="with cases of the published shape, which take minutes"
    )
    group.add_argument(
        "--archive", type=Path, metavar="TAR", help="write the folder as an archive with a checksum"
    )
    group.add_argument(
        "--read-answers", type=Path, metavar="JSON", help="judge a port by its answers to vectors"
    )
    group.add_argument(
        "--vectors",
        type=Path,
        metavar="DIR",
        help="the vectors that were answered (default: those that this version writes)",
    )
    group.add_argument("--page", type=Path, metavar="HTML", help="write a page of the verdict")
    return made


def main(words: Sequence[str]) -> int:
    """Do what the words ask.

    Return 0, or 1 for a wrong GPT-2, 4 with one sentence, or 5 if nothing could be judged.
    """
    made = parser()
    made.add_argument("--conformance-report", type=Path, metavar="JSON")
    try:
        options = made.parse_args(words)
    except SystemExit:
        return 4
    torch.set_num_threads(1)  # the models are small
    try:
        _check(options)
        return _judge(options) if options.write_vectors is None else _write(options)
    except VectorsError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 4


def _check(options: argparse.Namespace) -> None:
    """Raise VectorsError before any work, if options don't go together or name no place."""
    folder, archive = options.write_vectors, options.archive
    one = "read_answers" if folder is None else "write_vectors"
    for name in ("full", "archive") if folder is None else ("read_answers", "vectors", *_WRITTEN):
        if getattr(options, name):
            words = f"--{name} and --{one} don't go together".replace("_", "-")
            raise VectorsError(words)
    if archive and archive.resolve().is_relative_to(folder.resolve()):
        raise VectorsError(f"--archive {archive}: it would be a file of its own content")
    try:
        for name in ("archive", *_WRITTEN):
            if getattr(options, name):
                option = f"--{name.replace('_', '-')}"
                check_writable(option, str(getattr(options, name)))
    except pytest.UsageError as error:
        raise VectorsError(str(error)) from error


def _write(options: argparse.Namespace) -> int:
    folder: Path = options.write_vectors
    index = write_vectors(folder, GPT2Config() if options.full else None)
    size = sum(each["bytes"] for each in index["files"].values())
    print(f"{folder}: {len(index['cases'])} cases, {size / 1e6:.1f} MB")
    if options.archive:
        write_archive(folder, options.archive)
        print(f"{options.archive}, {options.archive.name}.sha256")
    return 0


def _judge(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.vectors is None:
            write_vectors(folder / "vectors")
        vectors = read_vectors(options.vectors or folder / "vectors")
        given = read_answers(options.read_answers, vectors)
        judgement = judge_answers(given, vectors, folder)
    print("\n".join(verdict_lines(judgement)))
    precision = str(given.dtype).removeprefix("torch.")
    if file := options.conformance_report:
        try:
            write_report(str(file), [judgement], "cpu", precision, finished=True)
        except OSError as error:
            raise VectorsError(f"{file}: can't be written: {error}") from error
    if options.page:
        from ..pages.report_page import page

        text = page([report_of([judgement], "cpu", precision, finished=True)])
        write_text_at_once(options.page, text)
    return {"no deviation found": 0, "nothing judged": 5}.get(judgement.state, 1)
