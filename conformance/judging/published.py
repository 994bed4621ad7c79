"""What others have published of the real weights' outputs. The figures and their source are in published.json."""

from __future__ import annotations

import json
from pathlib import Path

from gpt2ref import GPT2, PUBLISHED_CONFIGS

# "The dog", and its greedy continuation by the 124M weights: transformers, tests/models/gpt2, test_lm_generate_gpt2.
_TOKENS = [
    464,
    3290,
    373,
    1043,
    287,
    257,
    2214,
    1474,
    262,
    16246,
    286,
    2688,
    290,
    2688,
    27262,
    13,
    198,
    198,
    464,
    3290,
]
THE_DOG = _TOKENS[:2], _TOKENS[2:]

_FIRST_WEIGHTS = (-0.1101, -0.0393, 0.0331)  # of wte, as printed by many


def is_gpt2_124m(model: GPT2) -> bool:
    """Whether these are the published weights of that size, told by a few of them."""
    if model.config != PUBLISHED_CONFIGS["gpt2"]:
        return False
    found = model.transformer.wte.weight[0, :3].tolist()
    # They are printed with four decimals; half precision is off by 0.4% at most.
    return all(
        abs(weight - known) < 1e-4 + 0.004 * abs(known)
        for weight, known in zip(found, _FIRST_WEIGHTS, strict=True)
    )


def last_logits() -> dict[str, dict[int, float]]:
    """Text -> token id -> logit of it after the text, computed in float32."""
    texts = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))[
        "logits"
    ]
    return {
        text: {int(token): logit for token, logit in logits.items()}
        for text, logits in texts.items()
    }
