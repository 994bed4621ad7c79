"""Any text and any ids round-trip, unless they are no text or no tokens: those are refused."""

import re
from typing import Any

import numpy
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt2ref import EOS, decode, encode
from gpt2ref.tokenizer import VOCAB_SIZE, decode_pieces

# These include unassigned characters and halves of surrogate pairs.
everything = st.characters(exclude_categories=())
texts = st.text(everything | st.sampled_from("\ud800\udfff\u0301\u200d\x00 \n'<|>"), max_size=40)
ids = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=30)


@settings(max_examples=300)
@example("\ud83d\ude00")  # both halves of a surrogate pair, which are not one character
@example("a\u0301\u0301 \ufffd")
@given(texts)
def test_a_text_is_restored_or_refused_for_half_a_surrogate_pair(text):
    half = re.search("[\ud800-\udfff]", text)
    if half is None:
        assert decode(encode(text)) == text
        assert decode(encode(text, allow_special=True)) == text
    else:
        with pytest.raises(
            ValueError,
            match=re.escape(f"text: {half.group()!r} at {half.start()} is half a surrogate pair"),
        ):
            encode(text)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), st.integers(1, 3000)
)
@settings(max_examples=30)
def test_long_repetitions_are_restored(part, times):
    assert decode(encode(part * times)) == part * times


@given(st.lists(st.text("<|endoftx>", max_size=9), min_size=1, max_size=5))
def test_eos_is_found_among_characters_of_its_name(parts):
    text = "<|endoftext|>".join(parts)
    assert EOS not in encode(text)
    assert encode(text, allow_special=True).count(EOS) == text.count("<|endoftext|>")


@settings(max_examples=200)
@given(ids, st.integers(0, 30))
def test_pieces_join_to_the_decoded_text_and_are_never_revised(token_ids, cut):
    text = decode(token_ids)
    assert "".join(decode_pieces(token_ids)) == text
    before = list(decode_pieces([*token_ids[:cut], EOS]))
    assert text.startswith("".join(before).removesuffix("<|endoftext|>").rstrip("\ufffd"))


@given(ids)
def test_ids_may_be_any_integers(token_ids):
    forms: list[Any] = [
        numpy.array(token_ids, dtype=numpy.uint16),
        [numpy.int64(token_id) for token_id in token_ids],
        torch.tensor(token_ids, dtype=torch.int64),
        tuple(token_ids),
    ]
    for form in forms:
        assert decode(form) == decode(token_ids)


@pytest.mark.parametrize(
    "token_id",
    [
        True,
        numpy.True_,
        5.0,
        numpy.float32(5),
        float("nan"),
        "5",
        None,
        [5],
        numpy.zeros((2, 2)),
        torch.tensor(5.0),
    ],
)
def test_an_id_that_is_no_integer_is_refused_by_value(token_id):
    with pytest.raises(TypeError, match=re.escape(f"token_ids: {token_id!r}, expected an integer")):
        decode([15496, token_id])


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE, numpy.int64(-1), torch.tensor(-5), 2**70])
def test_an_integer_that_is_no_token_is_refused_by_value(token_id):
    with pytest.raises(ValueError, match=f"^token_ids: {int(token_id)} is no token"):
        decode([15496, token_id])
