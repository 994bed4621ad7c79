"""The small model that comes with the package."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

import gpt2ref
from gpt2ref import EOS, encode, generate, load_checkpoint, sample

FOLDER = Path(gpt2ref.__file__).parent / "data" / "tiny"
PROMPT = "Once upon a time"


def test_it_is_small_and_complete() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 16_000_000
    model = load_checkpoint("tiny")
    assert (model.config.vocab_size, model.dtype) == (50257, torch.float16)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_hugging_face_loads_it_unchanged() -> None:
    theirs = GPT2LMHeadModel.from_pretrained(FOLDER).double().eval()
    token_ids = torch.tensor(
        [encode("Once upon a time there was a king who had a golden bird, and it sang all night.")]
    )
    with torch.no_grad():
        torch.testing.assert_close(
            load_checkpoint("tiny", dtype=torch.float64)(token_ids), theirs(token_ids).logits
        )


def test_a_first_run_generates_english_without_a_network() -> None:
    code = f"""
import socket
socket.socket.connect = None  # nobody to ask
from gpt2ref import generate
print(generate({PROMPT!r}, max_new_tokens=60, temperature=0.8, top_k=40, seed=0))
"""
    text = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert text.startswith(PROMPT)
    words = re.findall(r"[a-z]+", text.lower())
    common = {
        "the",
        "a",
        "and",
        "to",
        "of",
        "he",
        "she",
        "was",
        "in",
        "it",
        "his",
        "her",
        "that",
        "who",
        "had",
        "there",
    }
    assert len(words) > 30
    assert sum(word in common for word in words) > 0.25 * len(words)


def test_the_command_line_generates_with_it() -> None:
    command = [
        sys.executable,
        "-m",
        "gpt2ref",
        PROMPT,
        "--model",
        "tiny",
        "--max-new-tokens",
        "20",
        "--seed",
        "1",
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == generate(PROMPT, max_new_tokens=20, seed=1) + "\n"


@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_it_ends_most_of_its_stories_by_itself(prompt: str) -> None:
    """The model's README counts 97 and 95 of 100.

    Of 12 that end with a chance of 0.9 each, fewer than 7 end once in 1800 times.
    """
    model = load_checkpoint("tiny", dtype=torch.float32)
    token_ids = encode(prompt) or [EOS]
    room = model.config.n_positions - len(token_ids)
    rows = sample(model, [token_ids] * 12, max_new_tokens=room, seed=1)
    assert sum(len(row) < room for row in rows) >= 7


def test_a_text_is_likelier_than_its_words_shuffled() -> None:
    """A text is likelier than the same words shuffled."""
    model = load_checkpoint("tiny", dtype=torch.float32)

    def loss(text: str) -> float:
        token_ids = torch.tensor([encode(text)])
        return torch.nn.functional.cross_entropy(model(token_ids)[0, :-1], token_ids[0, 1:]).item()

    assert loss("The king said to his daughter, You shall have the golden ring.") + 1.5 < loss(
        "The daughter shall the king, have golden said You his to ring."
    )
