"""Measures whether the diagnosis names mistakes that sit in transformers' GPT-2.

    python -m conformance.studies.patched_huggingface [IDS...]

Each patch puts one mistake of the catalogue into a loaded GPT2LMHeadModel (`huggingface_patches`).
It is diagnosed as if nobody knew it. It is named if nothing is left unexplained, and it is among
the alternatives of each stage that is no variant. The unpatched model has variants alone.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import warnings
from pathlib import Path
from typing import cast

import torch
from transformers.utils import logging

from ..adapters import huggingface
from ..adapters.protocol import Implementation, Judged
from ..diagnosis.comparison import Comparison, Load
from ..diagnosis.peeling import Peeled
from .diagnosis import named, seen, share_named
from .huggingface_patches import PATCHES


class Patched:
    """Loads transformers' GPT-2 with patches. A checkpoint is read once for all of them."""

    def __init__(self) -> None:
        self.loaded: dict[tuple[str, torch.dtype], huggingface.HuggingFace] = {}

    def load(self, *names: str) -> Load:
        """Return what loads a GPT-2 with these patches."""

        def load(folder: Path, dtype: torch.dtype) -> Judged:
            key = str(folder), dtype
            if key not in self.loaded:
                self.loaded[key] = huggingface.load_eager(str(folder), dtype=dtype)
            adapter = copy.deepcopy(self.loaded[key])
            for name in names:
                PATCHES[name](adapter)
            return Judged(cast("Implementation", adapter), "cpu")

        return load


def seen_and_named(found: Peeled, names: tuple[str, ...]) -> bool:
    return seen(found) and named(found, names)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ids", nargs="*", metavar="IDS", help="of patches (default: all)")
    options = parser.parse_args()
    if unknown := sorted(set(options.ids) - PATCHES.keys()):
        parser.error(f"IDS: no patch {', '.join(unknown)}; there are {', '.join(PATCHES)}")

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(Path(folder), torch.float32)
        drawn = [(name,) for name in options.ids or PATCHES]
        share_named(comparison, "patched", drawn, Patched().load, seen_and_named)


if __name__ == "__main__":
    main()
