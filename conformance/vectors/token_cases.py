"""The cases of tokens and text: the end, the generation loop, the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gpt2ref
from gpt2ref import EOS

from ..adapters.refusal import CONTEXT
from ..diagnosis.question import BLOCKS, WITH_MLP
from .case import Call, Case, generate, logits, ragged
from .checkpoints import ENDING, LONG, SMALL, WHOLE_VOCABULARY, A, B, C
from .generator import token_ids

END, LOOP = WITH_MLP | {"loop"}, BLOCKS | {"loop"}
ROWS = token_ids(SMALL.vocab_size, 17, 6, seed=13)


def of_stopping() -> Iterator[Case]:
    def case(name: str, requirement: str, sentence: str, *calls: Call) -> Case:
        return Case(name, (f"eos.{requirement}",), sentence, "words", calls, END)

    yield case("ends-at-once", "first-step", "With EOS first, there are no new tokens.",
               *(generate([[A]], n) for n in (4, 1)))  # fmt: skip
    yield case("ends-in-the-middle", "middle", "EOS ends a text and is not part of it.",
               generate([[B, EOS]], 4))  # fmt: skip
    yield case("ends-at-the-last-step", "last-step", "EOS at the last step is not part of it.",
               generate([[B, EOS]], 2))  # fmt: skip
    yield case("never-ends", "never", "Without EOS there are exactly max_new_tokens.",
               *(generate([[C]], n) for n in (0, 1, 2, 25)))  # fmt: skip
    yield case("rows-that-end", "per-row", "Each row stops by itself, and the others go on.",
               generate([[C, A], [A, B], [B, EOS]], 4))  # fmt: skip
    yield case("eos-in-prompt", "in-prompt", "EOS inside the prompt ends nothing.",
               generate([[EOS, B]], 4))  # fmt: skip
    yield case("line-ends", "no-other", "Nothing but EOS ends a text: no blank line, id 628.",
               generate([[B, C, B]], 28))  # fmt: skip
    yield Case("many-tokens", ("eos.no-other",), "There may be more than 128 new tokens.", "long",
               (generate([ROWS[0][:3]], 140),), END)  # fmt: skip
    yield Case("a-row-that-ends-first", ("eos.per-row",),
               "A row goes on with its own keys and values where the row before it ends.",
               "whole-vocabulary", (generate(ENDING, 5),), LOOP)  # fmt: skip


def _loop(
    name: str, checkpoint: str, requirement: str, sentence: str, *calls: Call, **more: Any
) -> Case:
    return Case(name, (f"generation.{requirement}",), sentence, checkpoint, calls, LOOP, **more)


def of_generation() -> Iterator[Case]:
    """Yield the cases of the loop by itself, then those of calls in turn and of other prompts."""
    three = [row[:4] for row in ROWS[:3]]
    n = SMALL.n_positions
    yield _loop("greedy", "plain", "greedy",
               "Temperature 0 gives the tokens of a loop that feeds the whole sequence.",
               generate(three, 6))  # fmt: skip
    yield _loop("greedy-by-top-k", "plain", "greedy", "top_k=1 is greedy, in each row.",
               generate(three, 3, temperature=5.0, top_k=1))  # fmt: skip
    yield _loop("greedy-seventeen-rows", "plain", "greedy", "Rows do not depend on each other.",
               generate([row[:3] for row in ROWS], 3))  # fmt: skip
    yield _loop("filled-to-the-end", "plain", "exact-fit",
               "A prompt and its new tokens may fill the context.",
               generate(three, n - 4), generate(three, n - 3))  # fmt: skip
    yield _loop("past-the-context", "plain", "window",
               "Past n_positions, the last n_positions tokens are used, from position 0.",
               generate(three[:2], n), words=CONTEXT)  # fmt: skip
    yield _loop("prompt-past-the-context", "plain", "window",
               "A longer prompt is cut to its last n_positions tokens.",
               generate(token_ids(97, 2, n + 2, seed=14), 2), words=CONTEXT)  # fmt: skip
    yield from _of_calls_in_turn()


def _of_calls_in_turn() -> Iterator[Case]:
    three = [row[:4] for row in ROWS[:3]]
    yield _loop("prompts-in-a-row", "plain", "second-prompt",
               "A prompt gets its tokens, whatever prompts were given before.",
               *(generate([prompt], 2) for prompt in _alike()))  # fmt: skip
    yield _loop("dropout-in-config", "dropout", "dropout",
               "A config with dropout changes no new token.",
               generate(three, 6))  # fmt: skip
    yield _loop("after-generate", "dropout", "leaves-no-trace",
               "Generation changes no later logit.", logits(three, [3]),
               generate(three, 3), logits(three, [3]),
               generate([row[:2] for row in three], 3), logits(three, [3]),
               tokens=tuple(range(0, 97, 6)))  # fmt: skip
    yield _loop("after-ragged", "whole-vocabulary", "leaves-no-trace",
               "The padding of short prompts changes no later logit.",
               logits(ENDING, [4]), ragged([ENDING[0], [9], [7, 41]], 3), logits(ENDING, [4]),
               tokens=(0, 1, 262, 9999, 50256))  # fmt: skip
    yield _loop("a-long-prompt", "long", "far-past", "A new token sees the whole context.",
               generate(token_ids(97, 1, LONG.n_positions - 12, seed=15), 12))  # fmt: skip
    end = WHOLE_VOCABULARY.vocab_size - 2
    yield _loop("no-prompt", "whole-vocabulary", "empty-prompt",
               "A prompt without tokens starts from <|endoftext|>, or is refused.",
               generate([[]], 3))  # fmt: skip
    for name, token in (("ragged", 41), ("ragged-eos", EOS)):
        yield _loop(name, "whole-vocabulary", name,
                   "A prompt in a batch with longer ones gets the tokens that it gets alone.",
                   ragged([[7, token, 300], [end, 5000, 262, 9, 40000, 11], [9]], 5))  # fmt: skip


def _alike() -> list[list[int]]:
    """Return prompts that differ in all tokens, in all but the last, in all but the last two."""
    first, other = ROWS[0], ROWS[1]
    return [first, other, other[:5] + first[5:], first[:4] + other[4:]]


_TEXTS = {
    "contractions": "It's  a 4444 \n\n test: naïve 🙂.",
    "special": "a<|endoftext|>b",
    "letters": "'Mother x\u2019seven _'s \u0663's \xbd's \U0001d49c's \u0627's \u0301's \n's ",
    "spaces": "\n\n\x1c \n\n\x85 \n\n\xa0 \n\n\ufeff e\u0301 \xed \ufb01 \r\n. \xad",
    "start": "\ufeffa\0b",
    "one-word": "a" * 101,
    "many-words": " one two" * 520,
}
_DECODED = {"languages": "naïve 漢字 🤖", "blanks": " It 's a test . ", "many": " one two" * 520}


def of_text() -> Iterator[Case]:
    def case(name: str, requirement: str, sentence: str, call: Call, **more: Any) -> Case:
        return Case(name, (f"text.{requirement}",), sentence, "die", (call,),
                    frozenset({"text"}), **more)  # fmt: skip

    for name, text in _TEXTS.items():
        requirement = "special" if name == "special" else "encode"
        yield case(f"encode-{name}", requirement, "Text becomes these ids.",
                   {"do": "encode", "text": text})  # fmt: skip
    for name, text in _DECODED.items():
        yield case(f"decode-{name}", "decode", "Ids become this text.",
                   {"do": "decode", "ids": gpt2ref.encode(text)})  # fmt: skip
    cut = gpt2ref.encode("🙂")[:1]
    for name, ids in (("cut", cut), ("cut-then-more", [*cut, A])):
        yield case(f"decode-{name}", "cut-character", "A cut character becomes U+FFFD.",
                   {"do": "decode", "ids": ids})  # fmt: skip
    yield case("decode-eos", "decode", "<|endoftext|> is a token with a text.",
               {"do": "decode", "ids": [A, EOS]})  # fmt: skip
    for name, token in (("minus-1", -1), ("50257", EOS + 1)):
        yield case(f"decode-{name}", "unknown-id", "An id that is no token's is refused.",
                   {"do": "decode", "ids": [token]}, refused=True)  # fmt: skip
