"""Outputs of the real weights that others have published. published.json has the source."""

from __future__ import annotations

import json
from pathlib import Path

from gpt2ref import GPT2, PUBLISHED_CONFIGS

# "The dog", and its greedy continuation by the 124M weights. Source: test_lm_generate_gpt2 in
# transformers' tests/models/gpt2.
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

_FIRST_WEIGHTS = (-0.1101, -0.0393, 0.0331)  # the first three of wte, with four decimals


def is_gpt2_124m(model: GPT2) -> bool:
    """Compare a few of the weights with the published ones of that size."""
    if model.config != PUBLISHED_CONFIGS["gpt2"]:
        return False
    found = model.transformer.wte.weight[0, :3].tolist()
    # Four decimals are off by 0.5e-4 at most, half precision by 0.4% at most.
    return all(
        abs(weight - known) < 1e-4 + 0.004 * abs(known)
        for weight, known in zip(found, _FIRST_WEIGHTS, strict=True)
    )


def last_logits() -> dict[str, dict[int, float]]:
    """Map each text to the logits of some token ids after it, computed in float32."""
    file = Path(__file__).parent / "published.json"
    texts = json.loads(file.read_text(encoding="utf-8"))["logits"]
    return {
        text: {int(token): logit for token, logit in logits.items()}
        for text, logits in texts.items()
    }
