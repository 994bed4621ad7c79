"""Questions that known defects answer differently.

An implementation that is asked a question has just loaded the question's checkpoint. The questions
are those of the suite's tests in short: the probes' designs, files of every kind, pieces of a
sequence, scripts, dice, texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import gpt2ref
from gpt2ref import EOS, GPT2Config

from ..adapters.refusal import CONTEXT, TEMPERATURE, TOP_K
from ..checkpoints.scripts import FACES, SCRIPT, by_position, chain, dice
from ..checkpoints.tensors import (
    DICE,
    Tensors,
    blank,
    random_token_ids,
    trained_like,
    write_checkpoint,
    write_sparse_checkpoint,
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
    MLP,
    NARROW,
    PROBE,
    SEED,
    SQUARE,
    Design,
)
from ..probes.experiment import Experiment
from . import asking
from .asking import IDS, SMALLEST
from .departure import STAGE_IDS, stages
from .question import BLOCKS, EMBEDDINGS, HEAD, NORM, WITH_ATTENTION, WITH_MLP, Question

# The probes' designs, those of few parts first.
PARTS = {
    EMBEDDING: EMBEDDINGS,
    FAINT_LN_F: EMBEDDINGS,
    ATTENTION: WITH_ATTENTION,
    FAINT_LN_1: WITH_ATTENTION,
    LARGE_SCORES: WITH_ATTENTION,
    MLP: WITH_MLP,
    FAINT_LN_2: WITH_MLP,
    NARROW: WITH_MLP,
    SQUARE: WITH_MLP,
    ALL: BLOCKS,
    DEEP: BLOCKS,
}
WIDE_HEADS = replace(SMALLEST, n_embd=128, n_head=2)  # 64, as in all published sizes


def _design(design: Design, folder: Path) -> Path:
    experiment = Experiment(design, PROBE, torch.float32)
    return write_checkpoint(folder, experiment.config, experiment.tensors)


def _plain(folder: Path, config: GPT2Config = SMALLEST) -> Path:
    return write_checkpoint(folder, config, trained_like(config, seed=4))


def _wide(folder: Path) -> Path:
    """Write a checkpoint as wide as gpt2-large, with one layer."""
    return write_sparse_checkpoint(folder, replace(SMALLEST, n_embd=1280, n_head=20, n_layer=1))


def _changed(change: Callable[[Tensors], Tensors], folder: Path) -> Path:
    return write_checkpoint(folder, SMALLEST, change(trained_like(SMALLEST, seed=4)))


def _with_fields(fields: dict[str, Any], folder: Path) -> Path:
    return write_checkpoint(folder, SMALLEST, trained_like(SMALLEST, seed=4), fields)


def _script(tensors: Tensors, config: GPT2Config, folder: Path) -> Path:
    return write_checkpoint(folder, config, tensors)


def _buffers(tensors: Tensors) -> Tensors:
    n = SMALLEST.n_positions
    return tensors | {
        f"h.{layer}.attn.bias": torch.ones(n, n, dtype=torch.uint8).tril()[None, None]
        for layer in range(2)
    }


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
A, B, C = 11, 262, 1135
SAYING = [13, A, B, C, B, EOS, A]  # the token at position p is followed by the p-th
FOLLOWERS = {A: EOS, B: C, C: B, EOS: B}


def questions() -> Iterator[Question]:
    """Yield all questions."""
    yield from _of_logits()
    groups: tuple[tuple[Iterator[Question], AnswerKind, frozenset[str]], ...] = (
        (_of_files(), "logits", BLOCKS),
        (_of_the_cache(), "logits", BLOCKS),
        (_of_sampling(), "tokens", NORM),
        (_of_stopping(), "tokens", WITH_MLP),
        (_of_generation(), "tokens", BLOCKS),
        (_of_text(), "text", frozenset()),
    )
    for group, kind, parts in groups:
        for question in group:  # each has a part of its own: the file, the sampler, the text
            yield replace(question, kind=kind, parts=parts | {question.name})


def _of_logits() -> Iterator[Question]:
    for (name, tensors), parts in zip(stages(), (HEAD, NORM), strict=False):
        alone = partial(_script, tensors, PROBE)
        yield Question(
            f"{name} alone", alone, partial(asking.logits, STAGE_IDS), kind="logits", parts=parts
        )
    ids = random_token_ids(PROBE, batch=2, time=9, seed=SEED)
    for design, parts in PARTS.items():
        ask = partial(asking.logits, ids)
        yield Question(design.name, partial(_design, design), ask, parts=parts)
    whole = partial(_design, ALL)
    yield Question(
        "as many tokens as positions",
        whole,
        partial(asking.logits, random_token_ids(PROBE, 2, PROBE.n_positions)),
        parts=BLOCKS,
    )
    yield Question(
        "a token too many", whole, partial(asking.logits, torch.full((1, PROBE.n_positions + 1), 7))
    )
    yield Question("a plain file", _plain, partial(asking.logits, IDS))
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        name, parts = f"{dtype}", BLOCKS | {f"{dtype}"}
        yield Question(name, _plain, partial(asking.logits, IDS), dtype, slow=True, parts=parts)
    long = GPT2Config(n_embd=24, n_layer=1, n_head=4)
    yield Question(
        "1024 tokens",
        partial(_plain, config=long),
        partial(asking.logits, random_token_ids(long, 1, 1024)),
        slow=True,
    )


def _of_files() -> Iterator[Question]:
    for name, change in FILES.items():
        yield Question(f"a file {name}", partial(_changed, change), partial(asking.logits, IDS))
    for name, fields in FIELDS.items():
        yield Question(
            f"a config with {name}", partial(_with_fields, fields), partial(asking.logits, IDS)
        )
    yield Question(
        "a config with resid_pdrop", partial(_with_fields, {"resid_pdrop": 0.1}), asking.twice
    )
    yield Question(
        "a config with attn_pdrop", partial(_with_fields, {"attn_pdrop": 0.1}), asking.twice
    )
    yield Question("the weights", _plain, asking.weights)
    yield Question("a width of a published size", _wide, asking.shapes)


def _of_the_cache() -> Iterator[Question]:
    for sizes in [(2, 1, 3), (1, 5), (4, 1, 1)]:
        yield Question(f"pieces of {sizes}", _plain, partial(asking.pieces, sizes))
    pieces = partial(asking.pieces, (2, 1, 3))
    yield Question("pieces in bfloat16", _plain, pieces, torch.bfloat16, slow=True)
    yield Question(
        "pieces with wide heads",
        partial(_plain, config=WIDE_HEADS),
        partial(asking.pieces, (2, 1, 3)),
    )
    long = partial(_plain, config=asking.LONG)
    yield Question("pieces of a long text", long, asking.long_pieces, slow=True)
    yield Question("a step past the end", _plain, asking.past_the_end)
    yield Question("branches", _plain, asking.branches)
    yield Question("prompts in turn", _plain, asking.prompts_in_turn)
    yield Question("a plain call after a step", _plain, asking.after_a_step)


def _of_generation() -> Iterator[Question]:
    yield Question("greedy", _plain, partial(asking.greedy, IDS, 5))
    # The largest logit after the first prompt is below thousands of those after the second.
    yield Question("top_k=1 of each row", _plain, lambda judged: asking.largest(judged, 292, 349))
    yield Question("the context filled", _plain, partial(asking.greedy, IDS[:, :6], 7))
    yield Question("past the context", _plain, partial(asking.greedy, IDS[:2], 9), about=CONTEXT)
    yield Question(
        "a prompt past the context",
        _plain,
        partial(asking.greedy, random_token_ids(SMALLEST, 2, 15), 2),
        about=CONTEXT,
    )
    yield Question(
        "no prompt", _plain, partial(asking.greedy, torch.zeros(1, 0, dtype=torch.int64), 3)
    )
    yield Question(
        "a ragged batch", _plain, partial(asking.ragged, [[7, 300, 41], IDS[0].tolist(), [9]])
    )
    yield Question(
        "a ragged batch with EOS",
        _plain,
        partial(asking.ragged, [[7, EOS, 41], IDS[0].tolist(), [9]]),
    )
    yield Question("a trace", _plain, asking.trace)


def _of_stopping() -> Iterator[Question]:
    said = partial(_script, by_position(SAYING + [A] * (SCRIPT.n_positions - len(SAYING))), SCRIPT)
    for n in (0, 1, 5, 6):
        yield Question(
            f"a script for {n} tokens", said, partial(asking.new, torch.tensor([[2, 3]]), n)
        )
    followed = partial(_script, chain(FOLLOWERS), SCRIPT)
    yield Question(
        "rows that end", followed, partial(asking.new, torch.tensor([[C, A], [A, B], [B, C]]), 4)
    )
    yield Question("EOS in the prompt", followed, partial(asking.new, torch.tensor([[EOS, B]]), 4))


def _die(folder: Path) -> Path:
    return _script(dice(FACES), DICE, folder)


# The logits that the questions of sampling are asked with.
DIE = Question("a die's logits", _die, partial(asking.logits, torch.tensor([[5], [5]])))


def _of_sampling() -> Iterator[Question]:
    drawn = _die
    for options in (
        {"temperature": 0.5, "top_k": 40},
        {"temperature": 2.0, "top_k": 2},
        {"temperature": 1.0, "top_k": None},
    ):
        dice_with = partial(asking.drawn, **options)
        yield Question(f"dice with {options}", drawn, dice_with, slow=True)
    short = partial(asking.greedy, torch.tensor([[5], [5]]), 4, greedy_by_top_k=False)
    for options in ({"temperature": 0.0}, {"temperature": 0.0, "top_k": 3}):
        yield Question(f"dice with {options}", drawn, partial(short, **options), about=TEMPERATURE)
    yield Question("dice with top_k=1", drawn, lambda judged: asking.largest(judged, 5))
    for top_k in (0, 50257, 50258, None):
        yield Question(
            f"dice with top_k={top_k}", drawn, partial(asking.draws, top_k=top_k), about=TOP_K
        )
    yield Question("seeds", drawn, asking.seeds, slow=True)
    yield Question(
        "NaN",
        partial(_script, dice({17: 1.0, 300: math.nan}), DICE),
        partial(asking.drawn, temperature=1.0),
    )


def _of_text() -> Iterator[Question]:
    text = partial(_script, blank(DICE), DICE)
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
