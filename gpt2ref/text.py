"""Text in, text out: the tokenizer around the generation loop, and a checkpoint by its name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from .arguments import check_options
from .checkpoint.load import load_checkpoint
from .config import EOS
from .devices import default_device
from .generation import sample, sample_steps
from .model import GPT2
from .tokenizer import VOCAB_SIZE, decode, decode_pieces, encode

Prompt = TypeVar("Prompt", str, list[str])


def generate(
    prompt: Prompt,
    model: GPT2 | str | os.PathLike[str] = "tiny",
    *,
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Prompt:
    """Return the prompt and its continuation, up to `<|endoftext|>` or `max_new_tokens`.

    A list of prompts gives a list. An empty prompt gives a text from its start. `model` is a GPT2,
    which stays where it is, or a checkpoint (see `load_checkpoint`; default: the package's small
    one), loaded for this call onto `device` (default: cuda if there is one, else mps, else cpu) in
    `dtype` (default: the file's own). `sample` describes the other arguments and the errors.

    The tokenizer has GPT-2's 50257 tokens. Where the model has more rows, for padding or for added
    tokens, the further ids are never drawn.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    rows = _encode_prompts(prompts)
    check_options(max_new_tokens, temperature, top_k, seed)
    new = sample(
        load_model(model, device, dtype),
        rows,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        vocab_size=VOCAB_SIZE,
    )
    texts = [text + decode(ids) for text, ids in zip(prompts, new, strict=True)]
    return texts[0] if isinstance(prompt, str) else texts


def stream(
    prompt: str,
    model: GPT2 | str | os.PathLike[str] = "tiny",
    *,
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[str]:
    """Yield the continuation that `generate` returns in pieces, none of which splits a character.

    Bad arguments raise here, not at the first piece. Dropping the iterator ends the work.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt: {type(prompt).__name__}, expected str")
    rows = _encode_prompts([prompt])
    options = check_options(max_new_tokens, temperature, top_k, seed)
    model = load_model(model, device, dtype)
    steps = sample_steps(model, rows, *options, EOS, VOCAB_SIZE)
    return decode_pieces(step[0] for step in steps)


def load_model(
    model: GPT2 | str | os.PathLike[str],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> GPT2:
    """Return the model as given, or load the checkpoint of that name.

    Raises ValueError for a vocabulary smaller than GPT-2's and for the device "meta", which keeps
    no weights, and what `load_checkpoint` raises.
    """
    if not isinstance(model, GPT2):
        device = default_device() if device is None else device
        model = load_checkpoint(model, device=device, dtype=dtype)
    elif device is not None or dtype is not None:
        raise ValueError(
            f"device={device!r}, dtype={dtype!r}: only for a checkpoint to load; "
            "move the model with model.to()"
        )
    if model.device.type == "meta":
        raise ValueError("device='meta': it keeps no weights, so no text can be generated")
    if model.config.vocab_size < VOCAB_SIZE:
        raise ValueError(
            f"model: vocab_size={model.config.vocab_size}, expected at least {VOCAB_SIZE}, "
            "the tokens of GPT-2's tokenizer; sample() takes token ids of any vocabulary"
        )
    return model


def _encode_prompts(prompts: Sequence[str]) -> list[list[int]]:
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(text, str) for text in prompts):
        raise TypeError(f"prompt: {prompts!r}, expected a str or a list of them")
    return [encode(text) or [EOS] for text in prompts]
