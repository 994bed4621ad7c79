"""`python -m conformance.studies.diagnosis --pairs 20`: how often a wrong GPT-2 is called by its right name.

Every defect of the catalogue is diagnosed as if nobody knew which it is, then pairs of different families, drawn from a
fixed seed; and what is no mistake, which must have no diagnosis. A pair whose answers are all those of one defect alone
can't be told from it, and counts as named if that one is of the pair.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
from pathlib import Path

import torch

from ..defects import DEFECTS, EQUIVALENT, VARIANTS
from ..diagnosis.diagnose import Rooms, diagnosed, known


def named(rooms: Rooms, names: tuple[str, ...]) -> bool:
    """Whether the diagnosis has the right name, or names, among those that can't be told from each other."""
    diagnosis = diagnosed(rooms, rooms.interview(known(*names)))
    right = diagnosis is not None and any(set(alike) <= set(names) for alike in diagnosis.alike)
    print(f"{'' if right else 'NOT named: '}{'+'.join(names)}: {diagnosis}", flush=True)
    return right


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pairs", type=int, default=0, help="how many pairs to draw (default: none)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the pairs")
    options = parser.parse_args()

    torch.set_num_threads(1)
    pairs = [
        pair
        for pair in itertools.combinations(sorted(DEFECTS), 2)
        if DEFECTS[pair[0]].family != DEFECTS[pair[1]].family
    ]
    drawn = random.Random(options.seed).sample(pairs, options.pairs)
    with tempfile.TemporaryDirectory() as folder:
        rooms = Rooms(Path(folder), torch.float32)
        single = [named(rooms, (name,)) for name in DEFECTS]
        double = [named(rooms, pair) for pair in drawn]
        quiet = [
            diagnosed(rooms, rooms.interview(known(name))) is None for name in EQUIVALENT | VARIANTS
        ]
    print(
        f"{sum(single)} of {len(single)} defects are called by their names ({sum(single) / len(single):.1%})"
    )
    if double:
        print(f"{sum(double)} of {len(double)} pairs ({sum(double) / len(double):.1%})")
    print(f"{sum(quiet)} of {len(quiet)} that are no mistakes have no diagnosis")


if __name__ == "__main__":
    main()
