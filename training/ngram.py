"""What a model of a few lines of arithmetic reaches: interpolated Kneser-Ney, the usual n-gram baseline.

Kneser and Ney, "Improved backing-off for m-gram language modeling" (1995), with one discount an order, as in Chen and
Goodman, "An empirical study of smoothing techniques for language modeling" (1999), section 2.7. Order 1 is a unigram.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class KneserNey:
    """Each token of a document, given the `order - 1` before it; before the first stand `start` tokens."""

    def __init__(
        self, documents: Sequence[Sequence[int]], order: int, vocab_size: int, start: int
    ) -> None:
        self.order, self.vocab_size, self.start = order, vocab_size, start
        tokens, inside = self._padded(documents)
        # An n-gram is known by its (n-1)-gram and its last token: key = number of that * vocab_size + token.
        grams = [
            np.zeros(len(tokens), dtype=np.int64)
        ]  # of order 0 .. n: the number of the one that ends at a token
        self.keys: list[Array] = []  # sorted, of order 1 .. n: its place is the n-gram's number
        for _ in range(order):
            keys, numbers = np.unique(
                _shifted(grams[-1]) * vocab_size + tokens, return_inverse=True
            )
            self.keys.append(keys)
            grams.append(numbers)
        # Of the highest order how often it occurs; below, how many different tokens it follows. Start tokens are not said.
        self.counts = []
        for n in range(1, order):
            _, longer = np.unique(grams[n + 1][inside], return_index=True)
            self.counts.append(
                np.bincount(grams[n][inside][longer], minlength=len(self.keys[n - 1]))
            )
        self.counts.append(np.bincount(grams[order][inside], minlength=len(self.keys[-1])))
        # Of each context: the sum of its n-grams' counts, and how many there are; of each order: what a count is lowered by.
        self.totals, self.kinds, self.discounts = [], [], []
        for keys, counts, contexts in zip(
            self.keys, self.counts, [1, *map(len, self.keys)], strict=False
        ):
            context = keys // vocab_size
            self.totals.append(np.bincount(context, counts, contexts))
            self.kinds.append(np.bincount(context, counts > 0, contexts))
            once, twice = (counts == 1).sum(), (counts == 2).sum()
            self.discounts.append(once / (once + 2 * twice) if once else 0.5)

    def probabilities(self, document: Sequence[int]) -> Array:
        """Of each token of the document: float64 [tokens]."""
        tokens, inside = self._padded([document])
        gram = np.zeros(len(tokens), dtype=np.int64)  # -1: never seen
        result = np.full(len(tokens), 1 / self.vocab_size)
        for keys, counts, totals, kinds, discount in zip(
            self.keys, self.counts, self.totals, self.kinds, self.discounts, strict=True
        ):
            context = _shifted(gram)
            wanted = context * self.vocab_size + tokens
            place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
            gram = np.where((context >= 0) & (keys[place] == wanted), place, -1)
            count = np.where(gram >= 0, counts[gram], 0)
            total = np.where(context >= 0, totals[context], 0)
            lowered = (count - discount).clip(min=0) + discount * kinds[context] * result
            result = np.divide(lowered, total, out=result, where=total > 0)
        return result[inside]

    def _padded(self, documents: Sequence[Sequence[int]]) -> tuple[Array, Array]:
        """All tokens, with order - 1 start tokens before each document, and which of them are the documents' own."""
        padding = [self.start] * max(self.order - 1, 1)
        tokens = np.concatenate([[*padding, *document] for document in documents]).astype(np.int64)
        own = np.concatenate(
            [[False] * len(padding) + [True] * len(document) for document in documents]
        )
        return tokens, own


def _shifted(grams: Array) -> Array:
    """Of the token before. The first is a start token, whose own n-grams count for nothing."""
    return np.concatenate([[0], grams[:-1]])
