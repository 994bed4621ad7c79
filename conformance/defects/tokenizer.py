"""The tokenizer: from text to ids and back."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence

from gpt2ref import EOS

from .catalogue import KNOWLEDGE, defect
from .complete import CompleteGPT2

SPECIAL = "<|endoftext|>"


@defect(
    "special-injection",
    "text.special",
    "huggingface/tokenizers #1347, #1850; huggingface/transformers #26468",
)
class SpecialInjected(CompleteGPT2):
    """allowed_special="all" is set for a user's text, and <|endoftext|> in it becomes EOS."""

    def encode(self, text: str) -> list[int]:
        first, *others = map(super().encode, text.split(SPECIAL))
        return first + [token_id for ids in others for token_id in [EOS, *ids]]


@defect("stream-split-utf8", "text.decode", "exo-explore/exo #1691; Luce-Org/lucebox #641")
class DecodedAlone(CompleteGPT2):
    """Each token is decoded alone, and characters of several tokens are lost."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(super().decode, ([token_id] for token_id in token_ids)))


@defect("leading-space-added", "text.encode", "huggingface/transformers #1285")
class SpaceAdded(CompleteGPT2):
    """A space is put before the text."""

    def encode(self, text: str) -> list[int]:
        return super().encode(f" {text}" if text else text)


@defect(
    "pretokeniser-regex",
    "text.encode",
    "latitudegames/GPT-3-Encoder #5; ohdearquant/lattice #519; ggml-org/llama.cpp #3567",
)
class RunsOfDigits(CompleteGPT2):
    """Texts are cut by another pattern: digits apart, three at a time, as in later models."""

    def encode(self, text: str) -> list[int]:
        return list(itertools.chain(*map(super().encode, re.findall(r"\d{1,3}|\D+", text))))


@defect(
    "unknown-id-decode",
    "text.unknown-id",
    "karpathy/build-nanogpt #80, #81; mosaicml/llm-foundry #841",
)
class UnknownDecoded(CompleteGPT2):
    """The id indexes a table, in which -1 is the last entry."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return super().decode([range(EOS + 1)[token_id] for token_id in token_ids])


@defect("bos-prepended", "text.encode", "TransformerLensOrg/TransformerLens #685, #223")
class BosPrepended(CompleteGPT2):
    """EOS is put before every text without a word."""

    def encode(self, text: str) -> list[int]:
        return [EOS, *super().encode(text)]


@defect("vocab-file-encoding", "text.decode", "openai/gpt-2@2d0b622")
class WrongEncoding(CompleteGPT2):
    """Bytes are read in the platform's encoding instead of UTF-8."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return super().decode(token_ids).encode().decode("latin-1")


@defect("tokenizer-model-mismatch", "text.encode", "ggml-org/ggml #371; OpenNMT/CTranslate2 #1312")
class TokenizerMismatch(CompleteGPT2):
    """The tokenizer has one more special token at the front, so every id is one too large."""

    def encode(self, text: str) -> list[int]:
        return [token_id + 1 for token_id in super().encode(text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        return super().decode([token_id - 1 for token_id in token_ids if token_id])


@defect("special-skipped", "text.decode", f"skip_special_tokens=True; {KNOWLEDGE}")
class SpecialSkipped(CompleteGPT2):
    """EOS is left out of the text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return super().decode([token_id for token_id in token_ids if token_id != EOS])


class Prepared(CompleteGPT2):
    """The text is changed before it is cut."""

    def prepared(self, text: str) -> str:
        return text

    def encode(self, text: str) -> list[int]:
        return super().encode(self.prepared(text))


@defect("text-nfc", "text.encode", f"a normaliser of another tokenizer; {KNOWLEDGE}")
class NFC(Prepared):
    """A letter and its accent become one character (NFC)."""

    def prepared(self, text: str) -> str:
        return unicodedata.normalize("NFC", text)


@defect("text-nfkc", "text.encode", f"a normaliser of another tokenizer; {KNOWLEDGE}")
class NFKC(Prepared):
    """Characters become compatible ones (NFKC): a ligature two letters, a superscript a digit."""

    def prepared(self, text: str) -> str:
        return unicodedata.normalize("NFKC", text)


@defect("text-nfd", "text.encode", f"a normaliser of another tokenizer; {KNOWLEDGE}")
class NFD(Prepared):
    """A letter with an accent becomes two characters (NFD)."""

    def prepared(self, text: str) -> str:
        return unicodedata.normalize("NFD", text)


@defect("line-ends-changed", "text.encode", f"open() without newline=''; {KNOWLEDGE}")
class LineEndsChanged(Prepared):
    """A carriage return and a line feed become a line feed, as by Python's text files."""

    def prepared(self, text: str) -> str:
        return text.replace("\r\n", "\n").replace("\r", "\n")


@defect("byte-order-mark-dropped", "text.encode", f"utf-8-sig for utf-8; {KNOWLEDGE}")
class ByteOrderMarkDropped(Prepared):
    """U+FEFF at the beginning of a text is taken for the mark of a file's encoding."""

    def prepared(self, text: str) -> str:
        return text.removeprefix("\ufeff")


@defect("text-stops-at-nul", "text.encode", f"a string of C; {KNOWLEDGE}")
class StopsAtNul(Prepared):
    """A text ends at its first U+0000."""

    def prepared(self, text: str) -> str:
        return text.partition("\0")[0]


@defect("soft-hyphen-byte", "text.encode", f"bytes_to_unicode of encoder.py; {KNOWLEDGE}")
class SoftHyphenByte(CompleteGPT2):
    """Byte 0xAD stands for itself in the table of bytes, where GPT-2 writes it as U+0143.

    A character with this byte is in no token, and is left out.
    """

    def encode(self, text: str) -> list[int]:
        return super().encode("".join(c for c in text if 0xAD not in c.encode()))


@defect("text-cut-at-1024", "text.encode", f"truncation=True; {KNOWLEDGE}")
class CutAtContext(CompleteGPT2):
    """Only the first 1024 ids of a text are returned, as many as GPT-2 has positions."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text)[:1024]


@defect("long-word-unknown", "text.encode", f"max_input_chars_per_word of BERT; {KNOWLEDGE}")
class LongWordUnknown(CompleteGPT2):
    """A word of more than 100 characters becomes one unknown token, for which EOS stands."""

    def encode(self, text: str) -> list[int]:
        words, encode = re.split(r"(\S{101,})", text), super().encode
        ids = ([EOS] if number % 2 else encode(word) for number, word in enumerate(words))
        return list(itertools.chain(*ids))


@defect("decode-cleaned-up", "text.decode", "clean_up_tokenization_spaces=True; transformers")
class CleanedUp(CompleteGPT2):
    """Spaces before punctuation and contractions are taken out of the text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return re.sub(r" (?=[.?!,]|'s|'m|'ve|'re|n't)", "", super().decode(token_ids))


@defect("decode-stripped", "text.decode", f"decode(...).strip(); {KNOWLEDGE}")
class DecodeStripped(CompleteGPT2):
    """White space at the ends is taken off the decoded text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return super().decode(token_ids).strip()


@defect("decode-cut-at-1024", "text.decode")
class DecodeCutAtContext(CompleteGPT2):
    """Only the first 1024 ids are decoded."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return super().decode(token_ids[:1024])


@defect("cut-character-dropped", "text.cut-character", f"errors='ignore'; {KNOWLEDGE}")
class CutCharacterDropped(CompleteGPT2):
    """Bytes that are no whole character are left out."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return super().decode(token_ids).replace("\ufffd", "")


@defect("cut-character-refused", "text.cut-character", f"errors='strict'; {KNOWLEDGE}")
class CutCharacterRefused(CompleteGPT2):
    """Bytes that are no whole character are an error."""

    def decode(self, token_ids: Sequence[int]) -> str:
        text = super().decode(token_ids)
        if "\ufffd" in text:
            raise UnicodeDecodeError("utf-8", text.encode(), 0, 1, "unexpected end of data")
        return text


@defect("cut-character-at-the-end-kept-back", "text.cut-character")
class CutCharacterKeptBack(CompleteGPT2):
    """A decoder that writes as it reads waits for the rest of the last character, and ends."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return super().decode(token_ids).rstrip("\ufffd")
