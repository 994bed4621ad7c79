"""Batches of many rows, and rows that end before others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .catalogue import KNOWLEDGE, defect
from .complete import CompleteGPT2, KeysValues


class CacheOfFewRows(CompleteGPT2):
    """The cache has a number of rows of its own, and larger batches share them."""

    most_rows: int

    def extend(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        rows = torch.arange(len(k), device=k.device) % self.most_rows
        return super().extend((past[0][rows], past[1][rows]), k, v)


@defect("cache-of-eight-rows", "cache.splits", f"a max_batch_size of 8; {KNOWLEDGE}")
class CacheOfEightRows(CacheOfFewRows):
    """The cache has eight rows, and a ninth row of a batch finds those of the first."""

    most_rows = 8


@defect("cache-of-sixteen-rows", "cache.splits", "tenstorrent/tt-metal #52671, of tiles of 32 rows")
class CacheOfSixteenRows(CacheOfFewRows):
    """The cache has sixteen rows, and a seventeenth row of a batch finds those of the first."""

    most_rows = 16


@defect(
    "generate-in-groups-of-eight",
    "generation.induction",
    f"a batch cut to a limit of eight rows; {KNOWLEDGE}",
)
class GroupsOfEight(CompleteGPT2):
    """generate cuts a batch into groups of eight rows, and the last group overlaps its rows.

    The rows of the last group are the last eight of the batch, put after those before.
    """

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        if len(prompts) <= 8:
            return super().generate_ragged(prompts, **options)
        starts = range(0, len(prompts), 8)
        groups = [prompts[min(start, len(prompts) - 8) :][:8] for start in starts]
        new = [row for group in groups for row in super().generate_ragged(group, **options)]
        return new[: len(prompts)]


@defect("rows-in-blocks-of-eight", "laws.rows-independent", "ggml-org/llama.cpp #7903")
class BlocksOfEight(CompleteGPT2):
    """A kernel computes attention in blocks of eight rows, and forgets the rest of the batch."""

    def merge(self, attended: Tensor) -> Tensor:
        whole = len(attended) - len(attended) % 8
        if whole:
            attended = torch.cat([attended[:whole], torch.zeros_like(attended[whole:])])
        return super().merge(attended)


class RowsEnd(CompleteGPT2):
    """Moves rows of the cache when a row of the batch has ended."""

    running: Sequence[int] = ()  # the rows that have not ended
    places: Sequence[int] = ()  # for each row, the one whose keys and values it gets

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        self.running = self.places = range(len(prompts))
        new = super().generate_ragged(prompts, **options)
        self.places = ()
        return new

    def ends(self, ended: list[bool], chosen: list[int]) -> list[bool]:
        after = super().ends(ended, chosen)
        running = [row for row in range(len(after)) if not after[row]]
        self.places, self.running = self.moved(self.running, running, len(after)), running
        return after

    def moved(self, before: Sequence[int], running: Sequence[int], rows: int) -> Sequence[int]:
        """Return the places, where the rows of `before` were running until now."""
        return range(rows)

    def extend(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        if self.places:
            past = past[0][list(self.places)], past[1][list(self.places)]
        return super().extend(past, k, v)


@defect("ended-rows-stay-in-cache", "eos.per-row", f"KV cache not compacted; {KNOWLEDGE}")
class EndedRowsStayInCache(RowsEnd):
    """A row that has ended is dropped from the tokens and not from the cache.

    The rows after it move up, and get the keys and values of the row before them.
    """

    def moved(self, before: Sequence[int], running: Sequence[int], rows: int) -> Sequence[int]:
        places = list(range(rows))
        for row, place in zip(running, before, strict=False):
            places[row] = place
        return places


@defect("last-row-moved-alone", "eos.per-row", f"as batching servers reuse slots; {KNOWLEDGE}")
class LastRowMovedAlone(RowsEnd):
    """The last row takes the place of one that has ended, and its keys and values do not."""

    def moved(self, before: Sequence[int], running: Sequence[int], rows: int) -> Sequence[int]:
        places = list(range(rows))
        ended = [row for row in before if row not in running and running and row < running[-1]]
        if ended:
            places[running[-1]] = ended[0]
        return places
