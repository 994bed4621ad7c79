"""Questions that known defects answer differently.

An implementation that is asked a question has just loaded the question's checkpoint. The questions
are those of the suite's tests in short: the probes' designs, files of every kind, pieces of a
sequence, scripts, dice, texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import gpt2ref
from gpt2ref import EOS, GPT2Config

from ..checkpoints.tensors import (
    DICE,
    Tensors,
    blank,
    random_token_ids,
)
from ..defects.steps import AnswerKind
from ..probes.designs import (
    ALL,
    ATTENTION,
    DEEP,
    EMBEDDING,
    FAINT_LN_1,
    FAINT_LN_2,
    FAINT_LN_F,
    LARGE_SCORES,
    MATRICES_OF_ATTENTION,
    MATRICES_OF_MLP,
    MLP,
    NARROW,
    PROBE,
    SEED,
    SQUARE,
)
from . import asking
from .asking import IDS, ROWS, SMALLEST
from .checkpoints import changed, designed, plain, script, wide, with_fields
from .departure import STAGE_IDS, stages
from .question import BLOCKS, EMBEDDINGS, HEAD, NORM, WITH_ATTENTION, WITH_MLP, Question
from .token_questions import A, of_generation, of_sampling, of_stopping

# The probes' designs, those of few parts first.
PARTS = {
    EMBEDDING: EMBEDDINGS,
    FAINT_LN_F: EMBEDDINGS,
    MATRICES_OF_ATTENTION: WITH_ATTENTION,
    ATTENTION: WITH_ATTENTION,
    FAINT_LN_1: WITH_ATTENTION,
    LARGE_SCORES: WITH_ATTENTION,
    MATRICES_OF_MLP: WITH_MLP,
    MLP: WITH_MLP,
    FAINT_LN_2: WITH_MLP,
    NARROW: WITH_MLP,
    SQUARE: WITH_MLP,
    ALL: BLOCKS,
    DEEP: BLOCKS,
}
# Each is a text at whose end another mistake shows: a block that ends, a number that bfloat16 does
# not have, a kernel for a single token, a cache or a prompt that is cut.
LONG_PIECES = {
    "steps up to 64 keys": (62, 1, 1, 1),
    "steps up to 128 keys": (126, 1, 1, 1),
    "two tokens after 257": (257, 2),
    "steps after 257 keys": (257, 1, 1),
    "steps up to 512 keys": (510, 1, 1),
    "steps after 512 keys": (512, 1, 1),
    "a long prompt": (1023,),
    "steps after 765 keys": (500, 265, 1, 1),
    "steps up to 1024 keys": (500, 521, 1, 1, 1),
}
WIDE_HEADS = replace(SMALLEST, n_embd=128, n_head=2)  # 64, as in all published sizes


def _buffers(tensors: Tensors) -> Tensors:
    n = SMALLEST.n_positions
    return tensors | {
        f"h.{layer}.attn.bias": torch.ones(n, n, dtype=torch.uint8).tril()[None, None]
        for layer in range(2)
    }


# None of them is among SHOWN, whose logits are compared: those of a loud row drown all others.
LOUD_IDS = torch.arange(2, 20).view(2, 9)


def _loud(tensors: Tensors) -> Tensors:
    """Make the tokens' row so large that no epsilon shows. Float16 holds the squares, too."""
    loud = tensors["wte.weight"].clone()
    loud[1:250] *= 2.0**13
    loud[250:499] = -loud[1:250]  # which leaves the mean of all rows as it is
    return tensors | {"wte.weight": loud}


FILES: dict[str, Callable[[Tensors], Tensors]] = {
    "with a prefix": lambda t: {f"transformer.{key}": tensor for key, tensor in t.items()},
    "with mask buffers": _buffers,
    "with its head": lambda t: t | {"lm_head.weight": t["wte.weight"].clone()},
    "with another head": lambda t: t | {"lm_head.weight": t["wte.weight"].flip(0)},
    "in bfloat16": lambda t: {key: tensor.bfloat16() for key, tensor in t.items()},
    "lacking h.1.mlp.c_fc.weight": lambda t: {
        key: tensor for key, tensor in t.items() if key != "h.1.mlp.c_fc.weight"
    },
    "lacking ln_f.weight": lambda t: {
        key: tensor for key, tensor in t.items() if key != "ln_f.weight"
    },
    "with h.2.ln_1.weight": lambda t: t | {"h.2.ln_1.weight": torch.ones(SMALLEST.n_embd)},
    "with wpe.weight of one row": lambda t: t | {"wpe.weight": t["wpe.weight"][:1]},
    "with a c_attn.bias of one": lambda t: (
        t | {"h.0.attn.c_attn.bias": t["h.0.attn.c_attn.bias"][:1]}
    ),
}
FIELDS: dict[str, dict[str, Any]] = {
    "scale_attn_weights false": {"scale_attn_weights": False},
    "scale_attn_by_inverse_layer_idx": {"scale_attn_by_inverse_layer_idx": True},
    "activation_function gelu": {"activation_function": "gelu"},
    "activation_function relu": {"activation_function": "relu"},
    "layer_norm_epsilon 1": {"layer_norm_epsilon": 1.0},
}


def questions() -> Iterator[Question]:
    """Yield all questions."""
    yield from _of_logits()
    groups: tuple[tuple[Iterator[Question], AnswerKind, frozenset[str]], ...] = (
        (_of_files(), "logits", BLOCKS),
        (_of_the_cache(), "logits", BLOCKS),
        (of_sampling(), "tokens", NORM),
        (of_stopping(), "tokens", WITH_MLP),
        (of_generation(), "tokens", BLOCKS),
        (_of_text(), "text", frozenset()),
    )
    for group, kind, parts in groups:
        for question in group:  # each has a part of its own: the file, the sampler, the text
            yield replace(question, kind=kind, parts=parts | {question.name})


def _of_logits() -> Iterator[Question]:
    (_, head), (_, norm) = itertools.islice(stages(), 2)
    for name, tensors, ids, parts in (
        ("head alone", head, STAGE_IDS, HEAD),
        ("final norm of a loud embedding", _loud(norm), LOUD_IDS, NORM),
        ("final norm alone", norm, STAGE_IDS, NORM),
    ):
        alone = partial(script, tensors, PROBE)
        yield Question(name, alone, partial(asking.logits, ids), parts=parts)
    ids = random_token_ids(PROBE, batch=2, time=9, seed=SEED)
    for design, parts in PARTS.items():
        ask = partial(asking.logits, ids)
        yield Question(design.name, partial(designed, design), ask, parts=parts)
    whole = partial(designed, ALL)
    yield Question(
        "as many tokens as positions",
        whole,
        partial(asking.logits, random_token_ids(PROBE, 2, PROBE.n_positions)),
        parts=BLOCKS,
    )
    yield Question(
        "a token too many", whole, partial(asking.logits, torch.full((1, PROBE.n_positions + 1), 7))
    )
    yield Question("a plain file", plain, partial(asking.logits, IDS))
    among = torch.tensor([[EOS, 262, EOS, 11, 1135], [262, 11, EOS, EOS, 7]])
    yield Question("EOS among other tokens", plain, partial(asking.logits, among))
    yield Question("seventeen rows at once", plain, partial(asking.logits, ROWS[:, :2]))
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        name, parts = f"{dtype}", BLOCKS | {f"{dtype}"}
        yield Question(name, plain, partial(asking.logits, IDS), dtype, slow=True, parts=parts)
    long = GPT2Config(n_embd=24, n_layer=1, n_head=4)
    yield Question(
        "1024 tokens",
        partial(plain, config=long),
        partial(asking.logits, random_token_ids(long, 1, 1024)),
        slow=True,
    )


def _of_files() -> Iterator[Question]:
    for name, change in FILES.items():
        yield Question(f"a file {name}", partial(changed, change), partial(asking.logits, IDS))
    for name, fields in FIELDS.items():
        yield Question(
            f"a config with {name}", partial(with_fields, fields), partial(asking.logits, IDS)
        )
    yield Question(
        "a config with resid_pdrop", partial(with_fields, {"resid_pdrop": 0.1}), asking.twice
    )
    yield Question(
        "a config with attn_pdrop", partial(with_fields, {"attn_pdrop": 0.1}), asking.twice
    )
    yield Question("the weights", plain, asking.weights)
    yield Question("a width of a published size", wide, asking.shapes)


def _of_the_cache() -> Iterator[Question]:
    for sizes in [(2, 1, 3), (1, 5), (4, 1, 1)]:
        yield Question(f"pieces of {sizes}", plain, partial(asking.pieces, sizes))
    yield Question(
        "pieces of seventeen rows", plain, partial(asking.pieces, (1, 1), token_ids=ROWS)
    )
    pieces = partial(asking.pieces, (2, 1, 3))
    yield Question("pieces in bfloat16", plain, pieces, torch.bfloat16, slow=True)
    yield Question(
        "pieces with wide heads",
        partial(plain, config=WIDE_HEADS),
        partial(asking.pieces, (2, 1, 3)),
    )
    long = partial(plain, config=asking.LONG)
    for name, sizes in LONG_PIECES.items():
        yield Question(name, long, partial(asking.last_of_pieces, sizes), slow=sum(sizes) > 256)
    yield Question("a step past the end", plain, asking.past_the_end)
    yield Question("branches", plain, asking.branches)
    yield Question("prompts in turn", plain, asking.prompts_in_turn)
    yield Question("a plain call after a step", plain, asking.after_a_step)


def _of_text() -> Iterator[Question]:
    text = partial(script, blank(DICE), DICE)
    for words in (
        "It's  a 4444 \n\n test: naïve 🙂.",
        "a<|endoftext|>b",
        # What near misses of the pattern take for something else (see test_text.py).
        "'Mother x\u2019seven _'s \u0663's \xbd's \U0001d49c's \u0627's \u0301's \n's "
        "\n\n\x1c \n\n\x85 \n\n\xa0 \n\n\ufeff e\u0301 \xed \ufb01 \r\n.",
        "\ufeffa\0b",
        "a" * 101,
        " one two" * 520,
    ):
        yield Question(f"encode {words[:40]!r}", text, partial(asking.encoded, words))
    for words in ("naïve 漢字 🤖", " It 's a test . ", " one two" * 520):
        ids = gpt2ref.encode(words)
        yield Question(f"decode {words[:40]!r}", text, partial(asking.decoded, ids))
    cut = gpt2ref.encode("🙂")[:1]
    for ids in (cut, [*cut, A], [A, EOS], [-1], [EOS + 1]):
        yield Question(f"decode {ids}", text, partial(asking.decoded, ids))
