"""Measures how often the diagnosis gives a wrong GPT-2 its right name.

    python -m conformance.studies.diagnosis --pairs 20

Every defect of the catalogue is diagnosed as if nobody knew it, then pairs of different families,
drawn from a fixed seed, and last what is no mistake, which must have no diagnosis. A pair whose
answers are all those of one of its defects cannot be told from that one, and counts as named.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
from pathlib import Path

import torch

from ..defects import DEFECTS, EQUIVALENT, VARIANTS
from ..diagnosis.comparison import Comparison, defective
from ..diagnosis.diagnose import diagnosed


def named(comparison: Comparison, names: tuple[str, ...]) -> bool:
    """Return whether one of the diagnoses names these defects, or some of them."""
    diagnosis = diagnosed(comparison, comparison.answers(defective(*names)))
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
        comparison = Comparison(Path(folder), torch.float32)
        single = [named(comparison, (name,)) for name in DEFECTS]
        double = [named(comparison, pair) for pair in drawn]
        quiet = [
            diagnosed(comparison, comparison.answers(defective(name))) is None
            for name in EQUIVALENT | VARIANTS
        ]
    share = sum(single) / len(single)
    print(f"{sum(single)} of {len(single)} defects get their right name ({share:.1%})")
    if double:
        print(f"{sum(double)} of {len(double)} pairs ({sum(double) / len(double):.1%})")
    print(f"{sum(quiet)} of {len(quiet)} that are no mistakes have no diagnosis")


if __name__ == "__main__":
    main()
