"""The steps of CompleteGPT2, by what they can change."""

from __future__ import annotations

from typing import Literal

from ..probes.gpt2 import PlainGPT2

AnswerKind = Literal["logits", "tokens", "text"]

TEXT = frozenset({"encode", "decode"})
SAMPLER = frozenset({"check", "generators", "uniform", "next_token", "probabilities", "draw"})
LOOP = frozenset(
    {"generate", "generate_ragged", "ends_at_once", "ends", "next_logits", "padding", "crop"}
)
LOADING = frozenset({"configure", "read", "convert", "state_dict"})
# The steps that treat tokens fed one by one differently from tokens fed at once.
FEEDING = frozenset({"prefill", "step", "extend", "positions", "mask"})


# Where a step is in GPT-2, by the names of the checkpoint and of OpenAI's files.
PLACES = {
    "embed": "the sum of wte and wpe",
    "embed_tokens": "wte",
    "embed_positions": "wpe",
    "positions": "the positions that index wpe",
    "mask": "the attention mask",
    "layers": "the loop over the blocks h.0, h.1, ...",
    "block": "the residual stream of a block",
    "norm": "ln_1, ln_2 and ln_f",
    "normalise": "the mean and the variance in ln_1, ln_2 and ln_f",
    "epsilon": "layer_norm_epsilon",
    "attention": "attn, between ln_1 and the residual stream",
    "split": "the split of c_attn's output into q, k and v",
    "heads": "the split of q, k and v into heads",
    "n_head": "the number of heads",
    "remember": "the keys and values of the cache",
    "extend": "the keys and values of the cache",
    "scores": "q times k",
    "attention_scale": "the scale of the attention scores",
    "attention_weights": "the mask and the softmax of the attention scores",
    "merge": "the merge of the heads before attn.c_proj",
    "mlp": "mlp, between ln_2 and the residual stream",
    "activation": "the activation between mlp.c_fc and mlp.c_proj",
    "linear": "the products with c_attn, c_proj and c_fc",
    "final_norm": "ln_f",
    "head": "the head, ln_f's output times wte",
    "read": "the reading of the checkpoint file",
    "configure": "the reading of config.json",
    "convert": "the conversion of the checkpoint's tensors",
    "state_dict": "the weights that are given back",
    "prefill": "the first pass that fills the cache",
    "step": "a cached step",
    "check_length": "the check of the context's length",
    "generate": "the generation loop",
    "generate_ragged": "the generation loop for prompts of different lengths",
    "next_logits": "the logits of the last position in the generation loop",
    "padding": "the mask of the padding of short prompts",
    "crop": "the crop to the last n_positions tokens",
    "ends": "the end of a row at EOS",
    "ends_at_once": "the end of a row at EOS",
    "check": "the checks of temperature and top_k",
    "generators": "the seeds of the rows",
    "uniform": "the random numbers of a draw",
    "next_token": "the choice of the next token",
    "probabilities": "temperature, top_k and the softmax of the sampler",
    "draw": "the draw from the probabilities",
    "encode": "the tokenizer's encode",
    "decode": "the tokenizer's decode",
}


FORWARD = frozenset(name for name in vars(PlainGPT2) if not name.startswith("__"))
PADDED = frozenset({"positions", "mask", "attention_weights"})  # treat the padding of short rows
# They change tokens only as they change the logits of a whole pass.
THROUGH_LOGITS = (FORWARD | LOADING) - PADDED - FEEDING - {"remember"}


def changes_alone(steps: frozenset[str], kind: AnswerKind) -> bool:
    """Return whether an entry can change an answer of this kind, and no whole pass's logits.

    A mistake in the forward pass, a cached one or the loading changes tokens too, but through the
    logits: unless it is about padding.
    """
    return kind != "tokens" or bool(steps & (SAMPLER | LOOP | PADDED))


def can_change(steps: frozenset[str], kind: AnswerKind) -> bool:
    """Return whether an entry that overrides these steps can change an answer of this kind.

    A wrong sampler can't change a logit, and a wrong tokenizer can't change a token.
    """
    if kind == "text":
        return bool(steps & TEXT)
    return not steps <= (TEXT if kind == "tokens" else TEXT | SAMPLER | LOOP)
