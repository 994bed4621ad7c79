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

import torch

from gpt2ref import GPT2Config

from ..verdict.report import report_of, write_report
from ..verdict.terminal import verdict_lines
from .answers import read_answers
from .errors import VectorsError
from .folder import read_vectors
from .verdict import judge_answers
from .write import write_archive, write_text_at_once, write_vectors


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
    """Do what the words ask. Return 0, or 1 for a wrong GPT-2, or 4 with one sentence."""
    made = parser()
    made.add_argument("--conformance-report", type=Path, metavar="JSON")
    try:
        options = made.parse_args(words)
    except SystemExit:
        return 4
    torch.set_num_threads(1)  # the models are small
    try:
        if options.write_vectors is not None:
            return _write(options)
        return _judge(options)
    except VectorsError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 4


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
    for file in filter(None, (options.conformance_report, options.page)):
        if file.is_dir() or not file.parent.is_dir():
            raise VectorsError(f"{file}: can't be written")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.vectors is None:
            write_vectors(folder / "vectors")
        vectors = read_vectors(options.vectors or folder / "vectors")
        given = read_answers(options.read_answers, vectors)
        judgement = judge_answers(given, vectors, folder)
    print("\n".join(verdict_lines(judgement)))
    precision = str(given.dtype).removeprefix("torch.")
    if options.conformance_report:
        write_report(str(options.conformance_report), [judgement], "cpu", precision, finished=True)
    if options.page:
        from ..pages.report_page import page

        text = page([report_of([judgement], "cpu", precision, finished=True)])
        write_text_at_once(options.page, text)
    return 0 if judgement.state == "no deviation found" else 1
