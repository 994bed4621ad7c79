"""The pattern that cuts a text into words: what it takes for letters, digits and white space.

Bytes are merged within a word alone. So a cut in another place shows where a merge would cross it.
"""

from __future__ import annotations

from functools import cache

import tiktoken

from gpt2ref.tokenizer import ranks

from .catalogue import KNOWLEDGE, defect, equivalent
from .complete import CompleteGPT2


@cache
def encoding(pattern: str) -> tiktoken.Encoding:
    """Return GPT-2's merges with another pattern."""
    return tiktoken.Encoding("another", pat_str=pattern, mergeable_ranks=ranks(), special_tokens={})


class OtherPattern(CompleteGPT2):
    """Cuts with another pattern, put together of the characters that it takes for each kind.

    `space_before` is what a word may begin with.
    """

    contractions = r"'(?:[sdmt]|ll|ve|re)"
    letters = r"\p{L}"
    digits = r"\p{N}"
    white = r"\s"
    space_before = " ?"

    def encode(self, text: str) -> list[int]:
        return encoding(self.pattern()).encode_ordinary(text)

    def pattern(self) -> str:
        before, white = self.space_before, self.white
        words = f"{self.contractions}|{before}[{self.letters}]+|{before}[{self.digits}]+"
        others = f"{before}[^{white}{self.letters}{self.digits}]+"
        return rf"{words}|{others}|[{white}]+(?![^{white}])|[{white}]+"


@defect("marks-as-letters", "text.encode", rf"[\p{{L}}\p{{M}}]+ as in o200k; {KNOWLEDGE}")
class MarksAsLetters(OtherPattern):
    """Marks, which are accents of their own and vowel signs, belong to words."""

    letters = r"\p{L}\p{M}"


@defect("underscore-as-letter", "text.encode", rf"\w+ for \p{{L}}+; {KNOWLEDGE}")
class UnderscoreAsLetter(OtherPattern):
    r"""The underscore belongs to words, as in \w."""

    letters = r"\p{L}_"


@defect("letters-of-two-bytes", "text.encode", f"JavaScript without the flag u; {KNOWLEDGE}")
class LettersOfTwoBytes(OtherPattern):
    """Letters and digits beyond U+FFFF are none: each is two surrogates there."""

    def pattern(self) -> str:
        high = r"[\U00010000-\U0010FFFF]"
        words = rf"{self.contractions}| ?[\p{{L}}--{high}]+| ?[\p{{N}}--{high}]+"
        return rf"{words}| ?(?:[^\s\p{{L}}\p{{N}}]|[\p{{L}}\p{{N}}&&{high}])+|\s+(?!\S)|\s+"


@defect("letters-with-case", "text.encode", rf"\p{{Lu}} and \p{{Ll}} alone; {KNOWLEDGE}")
class LettersWithCase(OtherPattern):
    """Only letters with a case are letters, and so none of Arabic, Hindi or Chinese."""

    letters = r"\p{Lu}\p{Ll}\p{Lt}"


@defect("digits-ascii", "text.encode", rf"[0-9]+ for \p{{N}}+; {KNOWLEDGE}")
class AsciiDigits(OtherPattern):
    """Only 0 to 9 are digits."""

    digits = "0-9"


@defect("digits-decimal", "text.encode", rf"\d+ for \p{{N}}+; {KNOWLEDGE}")
class DecimalDigits(OtherPattern):
    r"""Only decimal digits are digits, as in \d: no superscripts, no fractions, no numerals."""

    digits = r"\p{Nd}"


@defect("contractions-any-case", "text.encode", f"(?i:'s|'t|...) as in cl100k; {KNOWLEDGE}")
class ContractionsOfAnyCase(OtherPattern):
    """Contractions in capitals are cut off too."""

    contractions = r"'(?i:[sdmt]|ll|ve|re)"


@defect("contractions-curly", "text.encode")
class CurlyContractions(OtherPattern):
    """Contractions with a curly apostrophe are cut off too."""

    contractions = r"['\u2019](?:[sdmt]|ll|ve|re)"


@defect("white-space-ascii", "text.encode", rf"\s without the flag for Unicode; {KNOWLEDGE}")
class AsciiWhiteSpace(OtherPattern):
    """Only ASCII has white space: a no-break space is a character like others."""

    white = r" \t\n\r\x0b\f"


@defect("white-space-with-separators", "text.encode", rf"\s of Python's re; {KNOWLEDGE}")
class SeparatorsAsWhiteSpace(OtherPattern):
    """The separators U+001C to U+001F are white space, as for str.isspace."""

    white = r"\s\x1c-\x1f"


@defect("white-space-of-javascript", "text.encode", rf"\s of JavaScript; {KNOWLEDGE}")
class JavaScriptsWhiteSpace(OtherPattern):
    """U+FEFF is white space, and U+0085 is none."""

    white = r" \t\n\r\x0b\f\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"


@defect("lines-apart", "text.encode", rf"\s*[\r\n]+ as in cl100k; {KNOWLEDGE}")
class LinesApart(OtherPattern):
    """White space ends at a line's end, as in later models."""

    def pattern(self) -> str:
        return super().pattern().replace(r"|[\s]+(?!", r"|\s*[\r\n]+|[\s]+(?!")


@defect("white-space-before-words", "text.encode", rf"\s? for a space and a ?; {KNOWLEDGE}")
class WhiteSpaceBeforeWords(OtherPattern):
    """Any white space, and not a space alone, is taken into the word after it.

    No merge joins a line's end with a letter. But it takes the apostrophe from a contraction.
    """

    space_before = r"\s?"


@equivalent("letters-and-digits-together")
class LettersAndDigitsTogether(OtherPattern):
    """Letters and digits make words together. No merge joins them."""

    letters = r"\p{L}\p{N}"
