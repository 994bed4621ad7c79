"""Split documents into training and held-out ones, and cut them into windows to train on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpt2ref.config import EOS
from gpt2ref.tokenizer import encode

TokenIds = list[int]

HELD_OUT = 20  # one document in so many is kept from training
SHORT = 600  # tokens of a short document; most are far longer than what the model sees at once
SHORT_REPEATS = 4  # how often an epoch has a short document


def read_documents(folder: Path) -> list[str]:
    """Read the documents of a folder's .txt files. A line `<|endoftext|>` ends a document.

    Raises ValueError if there are none.
    """
    documents: list[str] = []
    for path in sorted(folder.glob("*.txt")):
        documents += path.read_text(encoding="utf-8").split("\n<|endoftext|>\n")
    documents = [document.strip() for document in documents if document.strip()]
    if not documents:
        raise ValueError(
            f"{folder}: expected .txt files with documents, each ended by a line <|endoftext|>"
        )
    return documents


def split(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the documents to train on, and those held out: every 20th of all."""
    return [text for i, text in enumerate(documents) if i % HELD_OUT], list(documents[::HELD_OUT])


def training_windows(documents: Sequence[str], length: int, seed: int) -> list[TokenIds]:
    """Cut one pass over the documents into windows of length + 1 tokens.

    Long documents are cut up in their own order, so that nothing of them is lost. Short ones,
    repeated, and abridgements of the long ones begin a window, half of the time after an EOS. From
    them the model learns how a tale begins, and that it ends within what the model sees.
    """
    generator = random.Random(seed)
    tokens = [[*encode(document), EOS] for document in documents]
    tales = _short_tales(documents, tokens, SHORT_REPEATS, 1, generator)
    long = [document for document in tokens if len(document) > SHORT]
    generator.shuffle(long)
    windows = [*_end_to_end(long, length), *_from_the_start(tales, length, generator)]
    generator.shuffle(windows)
    return windows


def finishing_windows(documents: Sequence[str], length: int, seed: int) -> list[TokenIds]:
    """Return windows of documents that end within a window: mostly long tales, abridged."""
    generator = random.Random(seed)
    tokens = [[*encode(document), EOS] for document in documents]
    return list(
        _from_the_start(_short_tales(documents, tokens, 1, 4, generator), length, generator)
    )


def _short_tales(
    documents: Sequence[str],
    tokens: Sequence[TokenIds],
    repeats: int,
    abridgements: int,
    generator: random.Random,
) -> list[TokenIds]:
    """Return the short documents and abridgements of the long ones, in random order."""
    tales = [document for document in tokens if len(document) <= SHORT] * repeats
    tales += [
        short
        for _ in range(abridgements)
        for document in documents
        if (short := abridge(document, generator))
    ]
    generator.shuffle(tales)
    return tales


def abridge(document: str, generator: random.Random) -> TokenIds | None:
    """Return the first and the last paragraphs of a tale without its title, 60 to 200 tokens each.

    None if they would meet.
    """
    paragraphs = [encode(paragraph) for paragraph in document.split("\n\n")[1:]]
    gap = encode("\n\n")
    begin, end = (
        _fit(order, generator.randint(60, 200)) for order in (paragraphs, paragraphs[::-1])
    )
    if not begin or not end or len(begin) + len(end) >= len(paragraphs):
        return None
    *kept, last = [*begin, *end[::-1]]
    return [*(token_id for paragraph in kept for token_id in (*paragraph, *gap)), *last, EOS]


def _fit(paragraphs: Sequence[TokenIds], room: int) -> list[TokenIds]:
    fitting = []
    for paragraph in paragraphs:
        room -= len(paragraph)
        if room < 0:
            break
        fitting.append(paragraph)
    return fitting


def _end_to_end(documents: Sequence[TokenIds], length: int) -> Iterator[TokenIds]:
    stream = [EOS, *(token_id for document in documents for token_id in document)]
    for start in range(0, len(stream) - length, length):
        yield stream[start : start + length + 1]


def _from_the_start(
    documents: Sequence[TokenIds], length: int, generator: random.Random
) -> Iterator[TokenIds]:
    window: TokenIds = []
    for document in documents:
        if not window and generator.random() < 0.5:
            window = [EOS]
        window = [*window, *document]
        if len(window) > length:
            yield window[: length + 1]
            window = []
