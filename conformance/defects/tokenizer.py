"""The tokenizer: from text to ids and back."""

from __future__ import annotations

import itertools
import re
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
