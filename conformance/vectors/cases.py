"""The cases of logits: facts of the forward pass, files, configs, and pieces of a sequence."""

from __future__ import annotations

from collections.abc import Iterator

from ..diagnosis.question import (
    BLOCKS,
    EMBEDDINGS,
    HEAD,
    NORM,
    WITH_ATTENTION,
    WITH_MLP,
)
from .case import Call, Case, in_pieces, logits, prefill, step
from .checkpoints import LONG, SMALL, UNIFORM
from .generator import token_ids
from .sampling_cases import of_choices, of_draws
from .token_cases import of_generation, of_stopping, of_text

IDS = token_ids(SMALL.vocab_size, 2, 9, seed=20)
MORE = token_ids(SMALL.vocab_size, 17, 5, seed=6)
SHOWN = (*range(0, SMALL.vocab_size, 6),)  # the first and the last among them
FILE, CACHE = BLOCKS | {"file"}, BLOCKS | {"cache"}


def cases() -> Iterator[Case]:
    """Yield all cases, those that the fewest parts of a GPT-2 decide first."""
    yield from _of_facts()
    yield from _of_sequences()
    yield from _of_files()
    yield from _of_configs()
    yield from _of_pieces()
    yield from of_draws()
    yield from of_choices()
    yield from of_stopping()
    yield from of_generation()
    yield from of_text()


# Fact -> requirements and parts, and a sentence. The checkpoint and the case have its name.
_FACTS: dict[str, tuple[str, frozenset[str], str]] = {
    "head": (
        "head.raw", HEAD,
        "Logits are ln_f's output times wte, as they are."),
    "faint-ln_f": (
        "layer-norm.epsilon-ln_f layer-norm.epsilon-place", EMBEDDINGS,
        "The variance of the embedding is as small as ln_f's epsilon of 1e-5."),
    "final-norm": (
        "final-norm.count vectors.ln_f layer-norm.variance layer-norm.mean", NORM,
        "ln_f normalises a token's row once, with its own weight and bias."),
    "embedding": (
        "embedding.positions embedding.tokens final-norm.count vectors.ln_f layer-norm.variance "
        "layer-norm.mean", EMBEDDINGS,
        "The rows of wte and wpe are added, and ln_f follows: there is no block."),
    "faint-ln_1": (
        "layer-norm.epsilon-ln_1", WITH_ATTENTION,
        "The variance of the embedding is as small as ln_1's epsilon of 1e-5."),
    "attention": (
        "attention.scale attention.heads attention.qkv-order attention.qkv-layout "
        "attention.head-split attention.head-merge attention.mask attention.softmax "
        "vectors.c_attn-bias vectors.attn-c_proj-bias vectors.ln_1", WITH_ATTENTION,
        "Two layers of attention, without MLPs."),
    "large-scores": (
        "attention.large-scores", WITH_ATTENTION,
        "Scores of 1400 or -1400 for all keys give the weights that zeros give."),
    "faint-ln_2": (
        "layer-norm.epsilon-ln_2", WITH_MLP,
        "The variance of the embedding is as small as ln_2's epsilon of 1e-5."),
    "mlp": (
        "activation.curve vectors.c_fc-bias vectors.mlp-c_proj-bias vectors.ln_2", WITH_MLP,
        "Two MLPs, without attention: the activation is GELU in its tanh form."),
    "narrow": (
        "blocks.n-inner", WITH_MLP,
        "The config's n_inner is the width of the MLP."),
    "square": (
        "transpose.square", BLOCKS,
        "With n_inner = n_embd all matrices but c_attn are square: x @ w."),
    "plain": (
        "parity.float32 blocks.norms blocks.residual blocks.order blocks.branches "
        "transpose.attn.c_attn transpose.attn.c_proj transpose.mlp.c_fc transpose.mlp.c_proj",
        BLOCKS,
        "Two whole blocks."),
    "deep": (
        "blocks.layers blocks.own-weights", BLOCKS,
        "Twelve blocks run in the order of their numbers, each with weights of its own."),
}  # fmt: skip


def _of_facts() -> Iterator[Case]:
    for name, (requirements, parts, sentence) in _FACTS.items():
        shown = None if name == "plain" else SHOWN
        yield Case(
            name, tuple(requirements.split()), sentence, name, (logits(IDS),), parts, tokens=shown
        )
    yield Case(
        "uniform",
        ("attention.visibility",),
        "With equal scores, a token attends equally to all up to itself, in every layer.",
        "uniform",
        (logits(token_ids(97, 1, UNIFORM.n_positions, seed=3)),),
        WITH_ATTENTION,
        tokens=SHOWN[::2],
    )


def _of_sequences() -> Iterator[Case]:
    n = SMALL.n_positions
    whole = token_ids(97, 1, n, seed=8)
    long = token_ids(97, 1, LONG.n_positions, seed=9)

    def plain(name: str, requirement: str, sentence: str, *calls: Call) -> Case:
        return Case(name, (requirement,), sentence, "plain", calls, tokens=SHOWN)

    yield plain("context-filled", "parity.float32",
                "There may be as many tokens as positions.", logits(whole))  # fmt: skip
    yield Case("context-exceeded", ("context.too-long",),
               "More tokens than n_positions are refused.", "plain",
               (logits([whole[0] + [7]]),), refused=True)  # fmt: skip
    yield plain("seventeen-rows", "laws.rows-independent",
                "A row's logits do not depend on the other rows.",
                logits([row[:2] for row in MORE]))  # fmt: skip
    yield plain("prefixes", "laws.prefix",
                "The logits of a prefix are the prefix of the logits.",
                *(logits([row[:time] for row in IDS[1:]]) for time in (9, 8, 5, 1)))  # fmt: skip
    yield plain("first-ids", "laws.vocabulary-permutation",
                "The tokens with the lowest ids are tokens like any other.",
                logits([[3, 0, 1, 2, 5, 4, 96, 95]]))  # fmt: skip
    yield Case("twice", ("laws.repeatable",),
               "The same tokens have the same logits again, though the config has dropout.",
               "dropout", (logits(IDS), logits(IDS)), tokens=SHOWN)  # fmt: skip
    yield Case("long-context", ("context.positions", "parity.full-context"),
               "Each of 1024 positions has its own row of wpe, and sees all before it.", "long",
               (logits(long, [0, 255, 256, 257, 300, 511, 512, 513, 700, 1000, 1023]),),
               tokens=SHOWN)  # fmt: skip


def _of_files() -> Iterator[Case]:
    for name, requirement, sentence in (
        ("prefixed", "keys.prefix", "Names may begin with `transformer.`."),
        ("buffers", "keys.mask-buffers", "The mask buffers of older files change nothing."),
        ("own-head", "keys.tied-head", "An lm_head.weight equal to wte.weight changes nothing."),
        ("bfloat16", "keys.half-file", "A file in bfloat16 has the logits of its numbers."),
        ("float16", "keys.half-file", "A file in float16 has the logits of its numbers."),
    ):
        yield Case(name, (requirement,), sentence, name, (logits(IDS),), FILE, tokens=SHOWN[::2])
    for name, requirement, sentence in (
        ("other-head", "keys.differing-head", "An lm_head.weight unlike wte.weight is refused."),
        ("lacks-c_fc", "keys.missing", "A file without h.1.mlp.c_fc.weight is refused."),
        ("lacks-ln_f", "keys.missing", "A file without ln_f.weight is refused."),
        ("third-block", "keys.unexpected", "A file with a tensor of a further block is refused."),
        ("one-position", "keys.wrong-shape", "A wpe.weight of one row is refused."),
        ("one-bias", "keys.wrong-shape", "A c_attn.bias of one number is refused."),
    ):
        yield Case(name, (requirement,), sentence, name, (logits(IDS),), FILE, refused=True,
                   tokens=SHOWN[::2])  # fmt: skip


def _of_configs() -> Iterator[Case]:
    for name, requirement, field in (
        ("unscaled", "attention-scaling", "scale_attn_weights=false"),
        ("scaled-by-layer", "attention-scaling", "scale_attn_by_inverse_layer_idx=true"),
        ("gelu", "activation", "activation_function=gelu"),
        ("relu", "activation", "activation_function=relu"),
    ):
        yield Case(name, (f"config.{requirement}",), f"A config with {field} is refused.", name,
                   (logits(IDS),), FILE, refused=True, tokens=SHOWN[::2])  # fmt: skip
    yield Case("epsilon", ("config.epsilon",), "The config's layer_norm_epsilon is used.",
               "epsilon", (logits(IDS),), FILE, tokens=SHOWN[::2])  # fmt: skip


def _of_pieces() -> Iterator[Case]:
    def case(name: str, checkpoint: str, requirement: str, sentence: str, *calls: Call) -> Case:
        return Case(name, (f"cache.{requirement}",), sentence, checkpoint, calls, CACHE,
                    tokens=SHOWN[::2])  # fmt: skip

    same = "A sequence in pieces of {} has the logits that it has at once."
    for sizes in ([2, 1, 3], [1, 5], [4, 1, 1]):
        words = "-".join(map(str, sizes))
        yield case(f"pieces-{words}", "plain", "splits", same.format(words),
                   *in_pieces(IDS, sizes))  # fmt: skip
    yield case("pieces-of-seventeen-rows", "plain", "splits", same.format("1-1"),
               *in_pieces(MORE, [1, 1]))  # fmt: skip
    yield case("pieces-wide-heads", "wide-heads", "splits", same.format("2-1-3"),
               *in_pieces(IDS, [2, 1, 3]))  # fmt: skip
    yield case("branches", "plain", "branches",
               "Two continuations of one cache do not see each other.",
               prefill([row[:2] for row in IDS]),
               *(step([row[at : at + 2] for row in IDS], 0) for at in (2, 4, 2)))  # fmt: skip
    yield case("prompts-in-turn", "plain", "second-prompt",
               "A prompt sees nothing of the ones before it, in a batch of any size.",
               *_in_turn())  # fmt: skip
    yield case("call-after-step", "plain", "second-prompt",
               "A plain call after a step sees nothing of it.",
               prefill([row[:3] for row in IDS]), step([row[3:4] for row in IDS], 0),
               logits(IDS))  # fmt: skip
    full = token_ids(97, 2, SMALL.n_positions, seed=11)
    yield Case("step-past-the-end", ("cache.too-long",), "A step past n_positions is refused.",
               "plain", (prefill(full), step([[5], [6]], 0)), CACHE, refused=True,
               tokens=SHOWN[::2])  # fmt: skip
    long = token_ids(97, 1, LONG.n_positions, seed=12)
    sizes = [63, 1, 1, 62, 1, 1, 382, 1, 1, 187, 1, LONG.n_positions - 703, 1, 1]
    yield Case("long-prefill", ("cache.long",),
               "A prompt of 1023 tokens fills the cache, and a step goes on from there.", "long",
               (prefill([long[0][:-1]], [0, 511, 512, 700, 1022]), step([long[0][-1:]], 0)),
               CACHE, tokens=SHOWN)  # fmt: skip
    pieces = (each | {"positions": [len(each["token_ids"][0]) - 1]}
              for each in in_pieces(long, sizes))  # fmt: skip
    yield Case("long-pieces", ("cache.long", "cache.far-past"),
               "1024 tokens in pieces have the logits that they have at once.", "long",
               tuple(pieces), CACHE, tokens=SHOWN)  # fmt: skip


def _in_turn() -> Iterator[Call]:
    """Yield prompts and steps, then two prompts of the same last token."""
    number = 0
    for turn, batch in enumerate((1, 1, 3, 1)):
        rows = MORE[:batch]
        yield prefill([[row[2]] if turn % 2 else row[:2] for row in rows])
        yield step([row[3:4] for row in rows], number)
        number += 2
    yield prefill([[*MORE[0][:3], 9]])
    yield prefill([[*MORE[1][:3], 9]])
