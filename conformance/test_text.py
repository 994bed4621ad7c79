"""The tokenizer, against the published merges (see gpt2ref/data)."""

from __future__ import annotations

import pytest

from gpt2ref import EOS, decode, encode

from .adapters.adapter import Adapter
from .adapters.protocol import Judged
from .adapters.refusal import may_refuse
from .checkpoints.tensors import DICE, blank
from .conftest import WriteCheckpoint
from .outcomes import check
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
    for text in TEXTS:
        found, should = judged.encode(text), encode(text)
        check(found == should, f"token ids {found} of {text!r}", expected=f"{should}")


@requirement("text.decode")
def test_decode(judged: Judged) -> None:
    for text in TEXTS:
        found = judged.decode(encode(text))
        check(found == text, f"text {found!r} of {encode(text)}", expected=repr(text))


@requirement("text.decode")
def test_a_character_in_several_tokens(judged: Judged) -> None:
    token_ids = encode("🙂")  # no single one of them is a character
    found = judged.decode(token_ids)
    check(found == "🙂", f"text {found!r} of {token_ids}", expected="'🙂'")


@requirement("text.decode")
def test_every_id_is_decoded(judged: Judged) -> None:
    """Nothing is added before the first id, and no id is dropped, special or not."""
    for token_ids in ([EOS], [464, EOS, 464], [EOS, 464], [464, EOS], [464] * 3, [220, 198, 220]):
        found, should = judged.decode(token_ids), decode(token_ids)
        check(found == should, f"text {found!r} of {token_ids}", expected=repr(should))


@requirement("text.unknown-id")
@pytest.mark.parametrize("token_id", [50257, -1])
def test_unknown_id(judged: Judged, token_id: int) -> None:
    last = judged.decode([50255])
    check(last == decode([50255]), f"text {last!r} of [50255]", expected=repr(decode([50255])))
    with may_refuse() as refusal:
        found = judged.decode([token_id])
    if refusal:
        return
    same = [known for known in (50256, 50255, 1, 0) if found and found == decode([known])]
    check(
        not same, f"id {token_id} is no token's, and is decoded as {found!r}, token {same}'s text"
    )


@requirement("text.special")
def test_special_tokens_in_text_are_text(judged: Judged) -> None:
    found = judged.encode("a<|endoftext|>b")
    check(50256 not in found, f"<|endoftext|> typed in a text became id 50256: {found}")
    text = judged.decode(found)
    check(text == "a<|endoftext|>b", f"text {text!r} of {found}", expected="'a<|endoftext|>b'")
