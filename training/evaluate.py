"""Measure the held-out loss beside that of n-gram models, and how samples end:

python -m training.evaluate --text FOLDER [--model tiny]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gpt2ref import GPT2, decode, load_checkpoint, sample
from gpt2ref.config import EOS
from gpt2ref.tokenizer import VOCAB_SIZE, encode

from .corpus import TokenIds, read_documents, split
from .ngram import KneserNey

PROMPTS = ("Once upon a time", "")
SAMPLES = 100  # of each prompt


@torch.inference_mode()
def loss(model: GPT2, documents: list[TokenIds]) -> float:
    """Return the loss in nats a token.

    Windows overlap by half, so a token has at least half a context before it, or all there is.
    """
    length, total = model.config.n_positions, 0.0
    for document in documents:
        tokens = torch.tensor([EOS, *document])
        done = 1  # tokens whose loss is counted; none is for the EOS before the document
        while done < len(tokens):
            start = max(0, min(done - length // 2, len(tokens) - length - 1))
            window = tokens[start : start + length + 1]
            logits = model(window[None, :-1])[0]
            new = done - start  # the first of the window's tokens whose loss is not counted yet
            total += F.cross_entropy(logits[new - 1 :], window[new:], reduction="sum").item()
            done = start + len(window)
    return total / sum(map(len, documents))


def endings(model: GPT2, prompt: str, **sampling: Any) -> dict[str, Any]:
    """Return how many samples end within the model's context, and after how many tokens."""
    token_ids = encode(prompt) or [EOS]
    room = model.config.n_positions - len(token_ids)
    rows = sample(model, [token_ids] * SAMPLES, max_new_tokens=room, seed=0, **sampling)
    ended = [len(row) for row in rows if len(row) < room]
    return {
        "prompt": prompt,
        **sampling,
        "ended": len(ended) / SAMPLES,
        "tokens": mean(ended) if ended else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="Measure the held-out loss."
    )
    parser.add_argument(
        "--text", type=Path, required=True, help="the folder that the model was trained on"
    )
    parser.add_argument(
        "--model", default="tiny", help="checkpoint folder (default: the package's own)"
    )
    arguments = parser.parse_args()

    model = load_checkpoint(arguments.model, dtype=torch.float32)
    training, held_out = (
        [[*encode(text), EOS] for text in part] for part in split(read_documents(arguments.text))
    )
    figures: dict[str, Any] = {
        "held_out_tokens": sum(map(len, held_out)),
        "gpt2ref": loss(model, held_out),
    }
    for order in (1, 5):
        baseline = KneserNey(training, order, VOCAB_SIZE, EOS)
        figures[f"{order}-gram"] = -np.log(
            np.concatenate([baseline.probabilities(text) for text in held_out])
        ).mean()
    settings = [{"temperature": 1.0}, {"temperature": 0.8, "top_k": 40}]
    figures["endings"] = [
        endings(model, prompt, **sampling) for prompt in PROMPTS for sampling in settings
    ]
    print(json.dumps(figures, indent=2))
    for seed in range(3):
        [row] = sample(
            model, [encode(PROMPTS[0])], max_new_tokens=300, temperature=0.8, top_k=40, seed=seed
        )
        print(f"\n--- seed {seed}\n{PROMPTS[0]}{decode(row)}")


if __name__ == "__main__":
    main()
