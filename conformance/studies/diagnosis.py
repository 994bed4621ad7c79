"""Measures how often the diagnosis takes a wrong GPT-2 apart into its mistakes.

    python -m conformance.studies.diagnosis --pairs 300 --triples 100

Every defect of the catalogue is diagnosed as if nobody knew it, then pairs and triples of different
families, drawn from a fixed seed, and last what is no mistake, which must have no diagnosis.

A GPT-2 is named if nothing is left unexplained and each stage has one of its mistakes among its
alternatives. If there are fewer stages than mistakes, the others can't be seen beside these.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ..defects import DEFECTS, EQUIVALENT, VARIANTS, combined
from ..diagnosis.comparison import Comparison, Load, defective
from ..diagnosis.known_to_show import write_shows
from ..diagnosis.peeling import Peeled, Peeling


def peeled(comparison: Comparison, load: Load) -> Peeled:
    return Peeling(comparison, comparison.answers(load)).peel()


def named(found: Peeled, names: tuple[str, ...]) -> bool:
    return not found.left and all(
        any({grant.id for grant in granted} <= set(names) for granted in stage.alternatives)
        for stage in found.stages
        if not stage.is_variant
    )


def ids_of(found: Peeled) -> set[str]:
    """Return the mistakes that are named, each alternative included."""
    return {
        grant.id for stage in found.stages for granted in stage.alternatives for grant in granted
    }


def seen(found: Peeled) -> bool:
    """Return whether there is any stage that is no variant."""
    return not all(stage.is_variant for stage in found.stages)


def share_named(
    comparison: Comparison,
    kind: str,
    drawn: Sequence[tuple[str, ...]],
    loading: Callable[..., Load] = defective,
    is_named: Callable[[Peeled, tuple[str, ...]], bool] = named,
) -> None:
    """Print what is found in GPT-2s that have these mistakes, and the share that is named.

    `loading`: returns what loads a GPT-2 with the mistakes of these names.
    """
    right, hidden = 0, 0
    for names in drawn:
        start = time.monotonic()
        found = peeled(comparison, loading(*names))
        right += (good := is_named(found, names))
        hidden += good and not set(names) <= ids_of(found)
        stages = "; ".join(
            " or ".join("+".join(grant.id for grant in each) for each in stage.alternatives)
            for stage in found.stages
        )
        left = f"; left: {', '.join(found.left)}" if found.left else ""
        took = time.monotonic() - start
        print(
            f"{'' if good else 'NOT '}{'+'.join(names)}: {stages}{left} ({took:.1f} s)", flush=True
        )
    if drawn:
        share = f"{right} of {len(drawn)} ({right / len(drawn):.1%})"
        print(f"{kind}: {share}; in {hidden} of them some are not seen", flush=True)


def questions_that_show(comparison: Comparison, name: str) -> list[str]:
    """Return the names of the questions that a defect answers otherwise than a right GPT-2."""
    answers = comparison.of(DEFECTS[name])
    return [
        each.name
        for each in comparison.questions
        if not comparison.alike(comparison.right, answers, each)
    ]


def combinations(size: int, n: int, seed: int) -> list[tuple[str, ...]]:
    """Draw combinations of defects of different families that one class can have."""
    generator, drawn = random.Random(seed), list[tuple[str, ...]]()
    while len(drawn) < n:
        names = tuple(sorted(generator.sample(sorted(DEFECTS), size)))
        if len({DEFECTS[name].family for name in names}) == size and names not in drawn:
            with suppress(TypeError):
                combined(*names)
                drawn.append(names)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=0, help="how many pairs (default: none)")
    parser.add_argument("--triples", type=int, default=0, help="how many triples (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="of pairs and triples")
    parser.add_argument(
        "--shows", type=Path, metavar="FILE", help="write which questions each defect shows in"
    )
    parser.add_argument("--no-single", action="store_true", help="leave out the single defects")
    options = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(Path(folder), torch.float32)
        if options.shows:
            found = {name: questions_that_show(comparison, name) for name in DEFECTS}
            write_shows(options.shows, [each.name for each in comparison.questions], found)
        if not options.no_single:
            share_named(comparison, "single", [(name,) for name in DEFECTS])
            quiet = [peeled(comparison, defective(name)) for name in EQUIVALENT | VARIANTS]
            right = sum(not each.left and not seen(each) for each in quiet)
            print(f"{right} of {len(quiet)} that are no mistakes have no diagnosis")
        for kind, size, n in (("pairs", 2, options.pairs), ("triples", 3, options.triples)):
            share_named(comparison, kind, combinations(size, n, options.seed))


if __name__ == "__main__":
    main()
