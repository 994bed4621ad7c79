"""Tells by a configuration field's name which number of a GPT-2's shape it holds.

A name is compared in lower case and without underscores. The value is an expression of `c`, a
GPT2Config of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_INNER = "c.n_inner or 4 * c.n_embd"
# The first rule that fits the whole name holds.
_RULES = {
    r"\w*drop\w*": "0.0",
    r"device": "device",
    r"(is)?bidirectional": "False",
    r"(is)?causal": "True",
    r"(eos|bos|endoftext)(token)?(id|idx|index)": "50256",
    r"pad(ding|token)?(id|idx|index)": "-1",  # no token is padding
    r"(mlp|ffn?|fc|forward|feedforward|expansion|hidden)(mul|mult|multiplier|ratio|factor|expansion)"
    r"|expansion": "4",
    r"(no|without|disable)\w*bias(es)?": "False",
    r"\w*bias(es)?": "True",  # one that GPT-2 does not have is filled with zeros
    r"(n|d|num|padded)?vocab(ulary)?(size|len)?(orconfigjsonfile)?|words": "c.vocab_size",
    r"(max|n|num)?(block|context|ctx|seq|sequence|pos|position|positions)"
    r"(emb|embed|embedding|embeddings)?(size|len|length|window)?": "c.n_positions",
    r"maxlen(gth)?": "c.n_positions",
    r"(n|num)?(hidden|transformer|decoder|trf)?(layer|layers|block|blocks)|depth"
    r"|(n|num)decoders?": "c.n_layer",
    r"(n|num)?(attention|attn|query)?heads?": "c.n_head",
    r"(n|num)?(kv|keyvalue|querygroup)(heads?|s)": "c.n_head",
    r"(d|dim)?head(dim|size|width)?|dhead": "c.n_embd // c.n_head",
    r"d?(ff|ffn|mlp|inner|feedforward|intermediate|hidden)(dim|width)|dff|dmlp|dinner|ninner"
    r"|intermediatesize|dimfeedforward|ffnsize|mlpsize|mlphidden(size|dim)?": _INNER,
    r"(n|d|dim)?(tok|token)?(embd|emb|embed|embeds|embedding|model|hidden)(dim|size|width)?|dims?|width"
    r"|nhidden": "c.n_embd",
    r"(layernorm|ln|norm)?(eps|epsilon)": "c.layer_norm_epsilon",
    r"(tie|tied|weighttying|sharew|shareembedd)\w*": "True",
}
SHAPE = ("c.vocab_size", "c.n_positions", "c.n_layer", "c.n_head", "c.n_embd")


def value_of(field: str) -> str | None:
    """Return the expression for a field's value; None for a field that is not known."""
    plain = field.lower().replace("_", "")
    return next((value for rule, value in _RULES.items() if re.fullmatch(rule, plain)), None)


def values_of(fields: Iterable[str]) -> dict[str, str]:
    """Return the known fields, each with the expression for its value."""
    found = {field: value for field in fields if (value := value_of(field)) is not None}
    if "c.n_embd" not in found.values():  # then hidden_dim is no width of an MLP
        hidden = {field: "c.n_embd" for field in found if "hidden" in field and "dim" in field}
        found |= hidden
    return found


def holds_a_shape(values: dict[str, str]) -> bool:
    """Return whether these fields are those of a GPT-2: four of its five sizes, or all."""
    return len({*values.values()} & {*SHAPE}) >= 4
