"""Draw the seed of each generation, so that no prompt is given twice in a process."""

from __future__ import annotations

import secrets

LIMIT = 2**31  # CTranslate2 and llama.cpp take seeds of 32 bits
TRIES = 1000


class UnseenSeeds:
    """Draws seeds whose prompts and random numbers no engine of this process has met.

    Row r of a generation has the number `seed + r`, from which its prompt
    (`plan.random_prompts`) and its draws are made. No two rows have the same number, and no two
    begin with the same token while the vocabulary has tokens that no row began with. So a
    remembered answer, a kept prefix or a kept cache is of no use. The seeds come from the operating
    system, so an engine can't compute the next prompt ahead.
    """

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        self._begun: dict[int, set[int]] = {}  # vocabulary -> first tokens that rows had

    def draw(self, vocab_size: int, batch: int) -> int:
        """Return the seed of a generation with `batch` rows."""
        begun = self._begun.setdefault(vocab_size, set())
        for tries in range(2 * TRIES):
            seed = secrets.randbelow(LIMIT - batch)
            numbers = set(range(seed, seed + batch))
            first = {number % vocab_size for number in numbers}
            # Few first tokens may be left. Then the later tokens tell the prompts apart.
            if numbers.isdisjoint(self._numbers) and (tries >= TRIES or first.isdisjoint(begun)):
                break
        else:
            raise RuntimeError(f"no {batch} unseen rows are left below {LIMIT}")
        self._numbers |= numbers
        begun |= first
        return seed


UNSEEN = UnseenSeeds()  # one for the process, whose engines may share a memory
