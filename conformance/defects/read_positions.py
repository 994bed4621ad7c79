"""An embedding of the positions that no entry has, as it was read."""

from __future__ import annotations

import json
from functools import cached_property

import torch
from torch import Tensor

from .complete import CompleteGPT2
from .read import ReadFile

_SAID = 5  # the positions that a verdict shows


class ReadPositions(ReadFile):
    """Positions with other rows of wpe, or with vectors that are in no file.

    `file`: JSON. `rows` has for each number of positions, of each position, the rows and their
    factors: `[[row, factor], ...]`, always as many. `added` has for each width a vector for each
    position. A shape that is not among them is right.
    """

    name = "positions-read"
    like = "wpe-missing"
    family = "embedding"
    steps = frozenset({"embed_positions"})

    @cached_property
    def rows(self) -> dict[int, Tensor]:
        """The rows and factors of each number of positions, float64 [position, term, 2]."""
        return self._tensors("rows")

    @cached_property
    def added(self) -> dict[int, Tensor]:
        """The vectors that are added for each width, float64 [position, width]."""
        return self._tensors("added")

    def _tensors(self, name: str) -> dict[int, Tensor]:
        read = json.loads(self.file.read_text(encoding="utf-8"))[name]
        return {int(key): torch.tensor(rows, dtype=torch.float64) for key, rows in read.items()}

    @property
    def what(self) -> str:
        if not self.rows:
            return "Positions are none of those that are known. Vectors in no file are added."
        n = min(self.rows)
        said = [
            f"{position}: {' + '.join(_term(*term) for term in terms if term[1]) or 'none'}"
            for position, terms in enumerate(self.rows[n][:_SAID].tolist())
        ]
        added = " A vector that is in no file is added." if self.added else ""
        return (
            "Positions are none of those that are known. Of wpe, they have the rows "
            f"{', '.join(said)}, ... (in a model of {n} positions).{added}"
        )

    @cached_property
    def kind(self) -> type[CompleteGPT2]:
        all_rows, all_added = self.rows, self.added

        class Positions(CompleteGPT2):
            def embed_positions(self, positions: Tensor) -> Tensor:
                if (read := all_rows.get(self.config.n_positions)) is None:
                    embedded = super().embed_positions(positions)
                else:
                    rows, factors = read[positions.cpu()].unbind(-1)
                    taken = self.weights["wpe.weight"][rows.long()]
                    embedded = (taken * factors[..., None].to(taken)).sum(-2)
                added = all_added.get(self.config.n_embd)
                return embedded if added is None else embedded + added[positions.cpu()].to(embedded)

        return Positions


def _term(row: float, factor: float) -> str:
    return f"{row:.0f}" if abs(factor - 1) < 1e-6 else f"{factor:.4g} of {row:.0f}"
