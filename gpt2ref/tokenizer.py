"""GPT-2's byte-pair encoding: tiktoken with GPT-2's merge list, which is part of the package."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from operator import index

import tiktoken

from .config import EOS

VOCAB_SIZE = 50257

# Cuts text into words before bytes are merged. It cuts where the pattern in encoder.py does,
#   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
# but long runs need no backtracking, except white space, where the engine has a limit.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_TOO_MUCH_WHITE_SPACE = 500_000


def encode(text: str, *, allow_special: bool = False) -> list[int]:
    """Return the token ids of a text.

    `<|endoftext|>` in it is ordinary text, unless `allow_special` makes it id 50256.

    Raises TypeError for anything but str, and ValueError for half a million white-space characters
    in a row, or for half a surrogate pair, which is no character.
    """
    if not isinstance(text, str):
        raise TypeError(f"text: {type(text).__name__}, expected str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text: {text[error.start]!r} at {error.start} is half a surrogate pair, no character"
        ) from None
    if len(text) >= _TOO_MUCH_WHITE_SPACE:
        longest = max((len(run.group()) for run in re.finditer(r"\s+", text)), default=0)
        if longest >= _TOO_MUCH_WHITE_SPACE:
            raise ValueError(
                f"text: {longest} white-space characters in a row, "
                f"expected fewer than {_TOO_MUCH_WHITE_SPACE}"
            )
    encoding = _encoding()
    return (
        encoding.encode(text, allowed_special="all")
        if allow_special
        else encoding.encode_ordinary(text)
    )


def decode(token_ids: Sequence[int]) -> str:
    """Return the text of token ids. Bytes that are not UTF-8 become U+FFFD.

    Raises TypeError for an id that is no integer, and ValueError for one that is no token.
    """
    return "".join(decode_pieces(token_ids))


def decode_pieces(token_ids: Iterable[int]) -> Iterator[str]:
    """Decode one token at a time: yield the pieces of `decode(token_ids)`.

    No piece splits a character: a token that ends inside one joins the piece that completes it.
    """
    encoding = _encoding()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token_id in token_ids:
        try:
            if isinstance(token_id, bool):
                raise TypeError
            token_id = index(token_id)
        except TypeError:
            raise TypeError(f"token_ids: {token_id!r}, expected an integer") from None
        if not 0 <= token_id < VOCAB_SIZE:
            raise ValueError(f"token_ids: {token_id} is no token, expected 0 to {VOCAB_SIZE - 1}")
        if piece := decoder.decode(encoding.decode_single_token_bytes(token_id)):
            yield piece
    if piece := decoder.decode(b"", final=True):
        yield piece


@cache
def _encoding() -> tiktoken.Encoding:
    return tiktoken.Encoding(
        name="gpt2",
        pat_str=_PATTERN,
        mergeable_ranks=ranks(),
        special_tokens={"<|endoftext|>": EOS},
        explicit_n_vocab=VOCAB_SIZE,
    )


def ranks() -> dict[bytes, int]:
    """Return bytes of a token -> its id: the 256 bytes, then the merges in the order of learning.

    vocab.bpe writes a byte as a printable character (OpenAI's encoder.py, `bytes_to_unicode`): as
    itself if it is printable in Latin-1, otherwise as the next free one from U+0100 on. The ids of
    the bytes follow the same order.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }
    rank_of = {bytes([byte]): rank for rank, byte in enumerate(printable + others)}
    merges = (
        files(__package__).joinpath("data/vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    )
    for merge in merges:
        rank_of[bytes(byte_of[character] for character in merge if character != " ")] = len(rank_of)
    return rank_of
