"""The tokenizer, against the published merges (see gpt2ref/data)."""

from __future__ import annotations

import pytest

from gpt2ref import decode, encode

from .adapters.adapter import Adapter
from .adapters.protocol import Judged, ProtocolError
from .checkpoints.tensors import DICE, blank
from .conftest import WriteCheckpoint
from .requirements import requirement

TEXTS = [
    "Hello world",
    "",
    " leading and trailing ",
    "It's we'll they've I'm you'd he's CAN'T don't",
    "1 22 333 4444 55555 3.14159 1,000,000",
    "one  two   three    four\n\nfive\t\tsix \n seven",
    "e = mc^2; f(x) -> {y: [1, 2]} // ok?! ... --- ***",
    "naïve café — “quoted” … Größe",
    "Привет, мир! 你好世界。 こんにちは",
    "👩‍🚀 🙂🙃 \u0301 \u200b zero width",
    "x\x00y\x1f\x7f\x85\xa0z",
]


@pytest.fixture(scope="module")
def judged(adapter: Adapter, write: WriteCheckpoint) -> Judged:
    return adapter.load(write("blank", DICE, lambda: blank(DICE)))


@requirement("text.encode")
def test_encode(judged: Judged) -> None:
    assert encode("Hello world") == [15496, 995]
    for text in TEXTS:
        found = judged.encode(text)
        if found != encode(text):
            pytest.fail(f"{text!r} is encoded as {found}, should be {encode(text)}")


@requirement("text.decode")
def test_decode(judged: Judged) -> None:
    for text in TEXTS:
        found = judged.decode(encode(text))
        if found != text:
            pytest.fail(f"the tokens of {text!r} are decoded as {found!r}")


@requirement("text.decode")
def test_a_character_in_several_tokens(judged: Judged) -> None:
    token_ids = encode("🙂")
    assert len(token_ids) > 1
    assert decode(token_ids[:1]) == "\ufffd"
    assert judged.decode(token_ids) == "🙂"


@requirement("text.unknown-id")
@pytest.mark.parametrize("token_id", [50257, -1])
def test_unknown_id(judged: Judged, token_id: int) -> None:
    assert judged.decode([50255]) == decode([50255])
    try:
        found = judged.decode([token_id])
    except ProtocolError:  # a program that fell over has refused nothing
        raise
    except Exception:
        return
    known = [known for known in (50256, 50255, 1, 0) if found and found == decode([known])]
    assert not known, (
        f"id {token_id}, which is no token's, is decoded as {found!r}, which is token {known}'s"
    )


@requirement("text.special")
def test_special_tokens_in_text_are_text(judged: Judged) -> None:
    found = judged.encode("a<|endoftext|>b")
    assert 50256 not in found, f"<|endoftext|> typed in a text became id 50256: {found}"
    assert judged.decode(found) == "a<|endoftext|>b"
