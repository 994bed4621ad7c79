import hashlib
import itertools
import subprocess
import sys
from base64 import b64encode
from importlib.resources import files

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt2ref import EOS, decode, encode
from gpt2ref.tokenizer import _PATTERN, VOCAB_SIZE, decode_pieces, ranks

# OpenAI's encoder.py
ORIGINAL_PATTERN = regex.compile(
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
)

RANKS = ranks()
BYTES_OF = {rank: token for token, rank in RANKS.items()} | {EOS: b"<|endoftext|>"}

# Characters that this Python's Unicode knows: about newer ones the engines may differ.
characters = st.characters(exclude_categories=("Cs", "Cn"))
WORDS = " |  |\t|\n|\r|\v|\f|\x85|\xa0|\u1680|\u2003|\u2028|\u3000|\x1c|\u200b|\ufeff|\x00"
WORDS += "|n't|don\u2019t|_|..."
WORDS += "|'s|'t|'re|'ve|'m|'ll|'d|'Re|'|12|½|٣|é|e\u0301|ß|ǅ|中|🧜|👩\u200d🚀|a|Zz|<|endoftext|>"
words = st.sampled_from(WORDS.split("|"))
TRICKY = "I'm he's don't we're I've they'll she'd DON'T 'tis  12 a12b ½½ \n\n x\t\t--  ?! "
TRICKY += "\u3000\u3000中 e\u0301  \n "
texts = st.text(characters, max_size=30) | st.lists(words | characters, max_size=20).map("".join)


def test_the_merge_list_is_the_published_one():
    data = files("gpt2ref").joinpath("data/vocab.bpe").read_bytes()
    assert (
        hashlib.sha256(data).hexdigest()
        == "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    )


def test_the_ids_of_all_tokens_are_the_published_ones():
    """Compare with the hash that tiktoken has for its own file of GPT-2's ranks."""
    lines = (
        b64encode(token) + b" %d\n" % rank
        for token, rank in sorted(ranks().items(), key=lambda item: item[1])
    )
    assert (
        hashlib.sha256(b"".join(lines)).hexdigest()
        == "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
    )


@pytest.mark.parametrize(
    ("text", "token_ids"),
    [
        ("", []),
        ("Hello world", [15496, 995]),
        # Computed with the published model, by poloclub/transformer-explainer.
        ("Data visualization empowers users to", [6601, 32704, 795, 30132, 2985, 284]),
        ("Artificial Intelligence is transforming the", [8001, 9542, 9345, 318, 25449, 262]),
        ("As the spaceship was approaching the", [1722, 262, 40663, 373, 13885, 262]),
        ("On the deserted planet they discovered a", [2202, 262, 36043, 5440, 484, 5071, 257]),
        ("IEEE VIS conference highlights the", [40, 31909, 50035, 4495, 11330, 262]),
    ],
)
def test_known_texts_have_their_known_ids(text, token_ids):
    assert encode(text) == token_ids
    assert decode(token_ids) == text


def naive(text):
    """Encode by the definition: merge the pair of lowest rank in each word until there is none."""
    ids: list[int] = []
    for word in ORIGINAL_PATTERN.findall(text):
        parts = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [
                (RANKS[a + b], i)
                for i, (a, b) in enumerate(itertools.pairwise(parts))
                if a + b in RANKS
            ]
            if not pairs:
                break
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids.extend(RANKS[part] for part in parts)
    return ids


@settings(max_examples=200)
@example(TRICKY)
@given(texts)
def test_ids_are_those_of_the_definition(text):
    assert encode(text) == naive(text)


@settings(max_examples=200)
@example(TRICKY)
@given(texts)
def test_text_is_split_where_openais_pattern_splits_it(text):
    assert regex.findall(_PATTERN, text) == ORIGINAL_PATTERN.findall(text)


@given(texts)
def test_decoding_the_ids_gives_the_text(text):
    assert decode(encode(text)) == text
    assert "".join(decode_pieces(encode(text))) == text


@given(st.lists(st.integers(0, VOCAB_SIZE - 1) | st.integers(100, 260), max_size=20))
def test_pieces_are_the_decoded_bytes_cut_between_characters(token_ids):
    whole = b"".join(BYTES_OF[token_id] for token_id in token_ids)
    pieces = list(decode_pieces(token_ids))
    assert all(pieces)
    assert "".join(pieces) == decode(token_ids) == whole.decode(errors="replace")


@given(st.lists(characters, max_size=20))
def test_a_character_comes_whole_wherever_its_tokens_are_cut(text):
    """Each character is encoded by itself, so that many have several tokens."""
    pieces = list(decode_pieces(itertools.chain.from_iterable(map(encode, text))))
    assert pieces == text


def test_a_character_of_three_tokens_comes_with_the_last_of_them():
    token_ids = encode("🧜")
    assert len(token_ids) == 3
    pieces = decode_pieces(iter([*token_ids, *encode("b"), *token_ids[:1]]))
    assert list(pieces) == ["🧜", "b", "\ufffd"]


@pytest.mark.parametrize("token_id", [-1, 50257, 2**40])
def test_an_id_that_is_no_token_is_refused(token_id):
    with pytest.raises(
        ValueError, match=f"^token_ids: {token_id} is no token, expected 0 to 50256"
    ):
        decode([15496, token_id])


def test_the_name_of_eos_is_plain_text_unless_allowed():
    text = "one<|endoftext|>two"
    assert EOS not in encode(text)
    assert decode(encode(text)) == text
    assert encode(text, allow_special=True) == [*encode("one"), EOS, *encode("two")]
    assert decode([EOS]) == "<|endoftext|>"


@pytest.mark.parametrize("text", [None, b"Hello", 5, ["Hello"]])
def test_anything_but_text_is_refused(text):
    with pytest.raises(TypeError, match=f"^text: {type(text).__name__}, expected str"):
        encode(text)


@pytest.mark.parametrize(
    "text", [" " * 500_000, " " * 500_000 + "x", "x" + "\n" * 500_000 + "x", "\u3000\t" * 250_000]
)
def test_half_a_million_white_space_characters_in_a_row_are_refused(text):
    with pytest.raises(ValueError, match=r"^text: 500000 white-space characters in a row"):
        encode(text)


@pytest.mark.parametrize(
    "text", [" " * 499_999, "x" + "\n" * 499_998 + "x"], ids=["spaces", "lines"]
)
def test_one_white_space_character_less_is_encoded(text):
    assert decode(encode(text)) == text


def test_much_white_space_before_a_long_word_is_encoded_in_linear_time():
    """A quadratic search takes minutes and can't be interrupted, so it runs in a process."""
    code = "from gpt2ref import decode, encode; text = 499_999 * ' ' + 500_000 * 'x'"
    code += "; assert decode(encode(text)) == text"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_a_text_of_more_than_half_a_million_characters_is_encoded():
    text = "word " * 110_000
    assert decode(encode(text)) == text


@pytest.mark.parametrize("run", ["a", "7", "-", "é", "中"])
def test_long_runs_of_one_character_are_encoded(run):
    assert decode(encode(run * 100_000)) == run * 100_000
