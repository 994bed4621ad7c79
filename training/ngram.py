"""Interpolated Kneser-Ney: the usual n-gram baseline of a language model.

Source: Kneser and Ney, "Improved backing-off for m-gram language modeling" (1995), with one
discount for each order, as in Chen and Goodman, "An empirical study of smoothing techniques for
language modeling" (1999), section 2.7. Order 1 is a unigram.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class KneserNey:
    """Predicts each token of a document from the `order - 1` before it.

    `start` tokens stand before the first one.
    """

    def __init__(
        self, documents: Sequence[Sequence[int]], order: int, vocab_size: int, start: int
    ) -> None:
        self.order, self.vocab_size, self.start = order, vocab_size, start
        tokens, inside = self._padded(documents)
        # An n-gram has a number, and the key: number of its (n-1)-gram * vocab_size + last token.
        # For each order, `grams` has the number of the n-gram that ends at a token, and `keys` the
        # sorted keys, in which the position of a key is the number.
        grams = [np.zeros(len(tokens), dtype=np.int64)]  # order 0
        self.keys: list[Array] = []  # from order 1 on
        for _ in range(order):
            keys, numbers = np.unique(
                _shifted(grams[-1]) * vocab_size + tokens, return_inverse=True
            )
            self.keys.append(keys)
            grams.append(numbers)
        # The count of an n-gram of the highest order is how often it occurs, and below, how many
        # different tokens it follows. N-grams that end at a start token do not count.
        self.counts = []
        for n in range(1, order):
            _, longer = np.unique(grams[n + 1][inside], return_index=True)
            self.counts.append(
                np.bincount(grams[n][inside][longer], minlength=len(self.keys[n - 1]))
            )
        self.counts.append(np.bincount(grams[order][inside], minlength=len(self.keys[-1])))
        # For each context the sum of its n-grams' counts, and how many n-grams it has. For each
        # order the discount of a count.
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
        """Return the probability of each token of the document: float64 [tokens]."""
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
        """Return all tokens, with order - 1 start tokens before each document, and a mask.

        The mask is False at start tokens.
        """
        padding = [self.start] * max(self.order - 1, 1)
        tokens = np.concatenate([[*padding, *document] for document in documents]).astype(np.int64)
        own = np.concatenate(
            [[False] * len(padding) + [True] * len(document) for document in documents]
        )
        return tokens, own


def _shifted(grams: Array) -> Array:
    """Return the numbers at the token before. The first is a start token, which does not count."""
    return np.concatenate([[0], grams[:-1]])
