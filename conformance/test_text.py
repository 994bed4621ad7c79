"""The tokenizer, against the published merges (see gpt2ref/data).

Texts are drawn from alphabets of characters that near misses of GPT-2's tokenizer take for
something else. Some have a contraction after them: after a letter or a digit, `'s` is a word of its
own, and after any other character its apostrophe is not. Some have two line ends before them, which
are one word before white space and two before anything else.
"""

# ruff: noqa: RUF001 - characters that look like others are what is asked

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2ref import EOS, decode, encode

from .adapters.adapter import Adapter
from .adapters.protocol import Judged
from .adapters.refusal import accepted, may_refuse
from .checkpoints.tensors import DICE, blank
from .conftest import LAWS, WriteCheckpoint
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
    "\ufeffa byte order mark",
    "a separator\x1c's; two lines\n\n\x1d",
]
# Each by itself: those of different ones would rarely meet in a text.
ALPHABETS: dict[str, Sequence[str]] = {
    "white space": "\t\r\v\f\x1c\x1f\x85\xa0\u1680\u2028\u3000\u200b\ufeff",
    "contractions": ["'SEVEN", "'Mother", "'Reason", "'VEto", "’seven", "’llama", "'ſ", "’"],
    "digits": ["7", "42", "1234", *"²½Ⅷ٣𝟙〇①"],
    "letters": ["camelCase", *"Zéß日のーǅʰª𝒜𐍈оİات"],
    "marks": ["ا\u0610", "י\u05c1", "e\u0301", *"\u064e\u0301\u093f\u20dd\ufe0f"],
    "punctuation": "_-(.$€“",
    "normal forms": ["e\u0301", "\u1112\u1161\u11ab", "\r\n", *"éÅﬁ한…²½"],
}
COMMON = ["", "a", " ", "\n"]  # the first is what a failing text shrinks to
SIZE = 20

law = settings(settings.get_profile(LAWS), max_examples=100)


def texts(alphabet: Sequence[str]) -> st.SearchStrategy[str]:
    """Draw texts, half of whose parts are of the alphabet."""
    ways = [
        f"{before}{each}{after}"
        for before, after in itertools.product(["", "\n\n"], ["", "'s"])
        for each in alphabet
    ]
    parts = [*COMMON * len(ways), *ways * len(COMMON)]
    return st.lists(st.sampled_from(parts), min_size=SIZE, max_size=SIZE).map("".join)


CRITICAL = st.sampled_from(list(ALPHABETS.values())).flatmap(texts)


@pytest.fixture(scope="module")
def judged(adapter: Adapter, write: WriteCheckpoint) -> Judged:
    return adapter.load(write("blank", DICE, lambda: blank(DICE)))


def check_encoded(judged: Judged, text: str) -> None:
    __tracebackhide__ = True
    found, should = judged.encode(text), encode(text)
    check(found == should, f"token ids {found} of {text!r}", expected=f"{should}")


def check_decoded(judged: Judged, text: str) -> None:
    __tracebackhide__ = True
    token_ids = encode(text)
    found = judged.decode(token_ids)
    check(found == text, f"text {found!r} of {token_ids}", expected=repr(text))


@requirement("text.encode")
def test_encode(judged: Judged) -> None:
    for text in TEXTS:
        check_encoded(judged, text)


@requirement("text.encode")
@law
@given(text=CRITICAL)
def test_encode_critical_characters(judged: Judged, text: str) -> None:
    check_encoded(judged, text)


def characters_of_all_bytes() -> list[str]:
    """Return texts that together have every byte of UTF-8, in characters of every length."""
    points = [
        *range(0x800),
        *range(0x800, 0xD800, 65),  # another last byte, and soon another second one
        *range(0xE000, 0x10000, 65),
        *range(0x10000, 0x110000, 65 * 64 + 1),
    ]
    return ["".join(map(chr, points[i : i + 64])) for i in range(0, len(points), 64)]


@requirement("text.encode")
def test_encode_all_bytes(judged: Judged) -> None:
    for text in characters_of_all_bytes():
        if judged.encode(text) != encode(text):
            for character in text:  # one is easier to read
                check_encoded(judged, character)
            check_encoded(judged, text)


@requirement("text.encode")
@pytest.mark.parametrize("text", [" one two" * 600, "a1_é" * 75], ids=["text", "word"])
def test_encode_long(judged: Judged, text: str) -> None:
    """The text has more ids than GPT-2 has positions, and the word more letters than any."""
    found, should = judged.encode(text), encode(text)
    what = f"{len(found)} token ids of a text of {len(text)} characters"
    check(found == should, what, expected=f"{len(should)} others")


@requirement("text.decode")
def test_decode(judged: Judged) -> None:
    for text in TEXTS:
        check_decoded(judged, text)


@requirement("text.decode")
@settings(law, max_examples=30)
@given(text=CRITICAL)
def test_decode_critical_characters(judged: Judged, text: str) -> None:
    check_decoded(judged, text)


@requirement("text.decode")
def test_decode_long(judged: Judged) -> None:
    text = " one two" * 600
    found = judged.decode(encode(text))
    what = f"a text of {len(found)} characters from 1200 token ids"
    check(found == text, what, expected=f"one of {len(text)}")


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


@requirement("text.cut-character")
@pytest.mark.parametrize("after", ["", " b"], ids=["at-the-end", "inside"])
def test_a_cut_character(judged: Judged, after: str) -> None:
    for character in "🙂漢":
        before, whole = encode("a"), encode(character)
        judged.decode([*before, *whole, *encode(after)])
        for size in range(1, len(whole)):
            token_ids = [*before, *whole[:size], *encode(after)]
            with accepted(f"{token_ids}, whose bytes are no whole character"):
                found = judged.decode(token_ids)
            # How many U+FFFD stand for several bytes is not asked.
            check(
                re.fullmatch(f"a\ufffd+{after}", found) is not None,
                f"text {found!r} of {token_ids}, whose bytes are no whole character",
                expected=repr(decode(token_ids)),
            )


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
