"""Generation as it is called: token ids to token ids (`sample`), text to text (`generate`, `stream`)."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import TypeVar

import torch
from torch import Tensor

from .checkpoint.load import load_checkpoint
from .config import EOS
from .decoding import Task, one_by_one
from .fast.captured_step import ahead
from .model import GPT2
from .sampling import check_sampling
from .tokenizer import VOCAB_SIZE, decode, decode_pieces, encode

Prompt = TypeVar("Prompt", str, list[str])


def sample(
    model: GPT2,
    token_ids: Sequence[Sequence[int]] | Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
    eos_token_id: int | None = EOS,
) -> list[list[int]]:
    """Continue each row of token ids; returns the new ids of each row, without the EOS that ended it.

    Rows may differ in length, and each stops by itself: at `eos_token_id` (None: never) or after `max_new_tokens`.
    A row without tokens starts from `<|endoftext|>`. Temperature 0 is greedy; `top_k=None` is no restriction.

    Row r draws one uniform number a step from a generator seeded with `seed + r`, so it gets the tokens that it gets
    alone with that seed, whatever its neighbours do (up to rounding of the logits). `seed=None` takes a fresh seed.
    The global random state is neither read nor changed.

    Past `n_positions` the last `n_positions` tokens stay in view, their positions counted from 0 again. Every position
    changes with each token then, so nothing cached can be kept and a step costs a full forward pass.

    Raises TypeError or ValueError, naming the argument, before any work is done.
    """
    rows = _rows(token_ids, model.config.vocab_size)
    _check(max_new_tokens, temperature, top_k, seed)
    new: list[list[int]] = [[] for _ in rows]
    for step in sample_steps(model, rows, max_new_tokens, temperature, top_k, seed, eos_token_id):
        for row, token_id in step.items():
            new[row].append(token_id)
    return new


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
    """The prompt followed by its continuation, up to `<|endoftext|>` or `max_new_tokens`; a list gives a list.

    `model` is a checkpoint (see `load_checkpoint`; default: the small one of the package), loaded for this call onto
    `device` (default: CUDA if there is one) in `dtype` (default: the file's own), or a GPT2, which stays where it is.
    An empty prompt gives a text from its start. Everything else is as in `sample`, whose errors it raises.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    rows = _encode_prompts(prompts)
    _check(max_new_tokens, temperature, top_k, seed)
    new = sample(
        _model(model, device, dtype),
        rows,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
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
    """The continuation that `generate` gives, in pieces as they come; a piece never splits a character.

    Bad arguments raise here, not at the first piece. Dropping the iterator ends the work.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt: {type(prompt).__name__}, expected str")
    rows = _encode_prompts([prompt])
    _check(max_new_tokens, temperature, top_k, seed)
    steps = sample_steps(
        _model(model, device, dtype), rows, max_new_tokens, temperature, top_k, seed, EOS
    )
    return decode_pieces(step[0] for step in steps)


@torch.inference_mode()
def sample_steps(
    model: GPT2,
    rows: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int | None,
    eos_token_id: int | None,
) -> Iterator[dict[int, int]]:
    """What `sample` and `stream` do, for arguments that are checked; appends to `rows`, none of which may be empty.

    Yields, a step at a time, row number -> new token, for every row that goes on.
    """
    if not rows:
        return
    first = secrets.randbits(63) if seed is None else seed
    generators = [random.Random(first + row) for row in range(len(rows))]
    running = list(range(len(rows)))
    task = Task(model, rows, running, max_new_tokens, temperature, top_k, generators)
    for token_ids in loop_on(model.device)(task):
        running[:] = [row for row in running if token_ids[row] != eos_token_id]
        for row in running:
            rows[row].append(token_ids[row])
        if not running:
            return
        yield {row: token_ids[row] for row in running}


def loop_on(device: torch.device) -> Callable[[Task], Iterator[list[int]]]:
    """The faster of the two loops: the next token of each row, again and again."""
    return ahead if device.type == "cuda" else one_by_one


def _model(
    model: GPT2 | str | os.PathLike[str],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> GPT2:
    if not isinstance(model, GPT2):
        model = load_checkpoint(
            model, device=device or ("cuda" if torch.cuda.is_available() else "cpu"), dtype=dtype
        )
    elif device is not None or dtype is not None:
        raise ValueError(
            f"device={device!r}, dtype={dtype!r}: only for a checkpoint to load; move the model with model.to()"
        )
    if model.config.vocab_size != VOCAB_SIZE:
        raise ValueError(
            f"model: vocab_size={model.config.vocab_size}, expected {VOCAB_SIZE}; sample() takes token ids"
        )
    return model


def _encode_prompts(prompts: Sequence[str]) -> list[list[int]]:
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(text, str) for text in prompts):
        raise TypeError(f"prompt: {prompts!r}, expected a str or a list of them")
    return [encode(text) or [EOS] for text in prompts]


def _rows(token_ids: Sequence[Sequence[int]] | Tensor, vocab_size: int) -> list[list[int]]:
    """A copy as lists, so that the caller's are never appended to."""
    values = token_ids.tolist() if isinstance(token_ids, Tensor) else token_ids
    try:
        rows: list[list[int]] = [list(row) or [EOS] for row in values]
    except TypeError:
        raise TypeError(
            f"token_ids: {token_ids!r}, expected rows of ids such as [[15496, 995]]"
        ) from None
    for number, row in enumerate(rows):
        for token_id in row:
            if isinstance(token_id, bool) or not isinstance(
                token_id, Integral
            ):  # NumPy's integers are Integral too
                raise TypeError(f"token_ids: {token_id!r} in row {number}, expected an integer")
            if not 0 <= token_id < vocab_size:
                raise ValueError(
                    f"token_ids: {token_id} in row {number}, expected 0 to {vocab_size - 1}"
                )
    return [[int(token_id) for token_id in row] for row in rows]


def _check(max_new_tokens: int, temperature: float, top_k: int | None, seed: int | None) -> None:
    for name, value in (("max_new_tokens", max_new_tokens), ("seed", seed)):
        if value is None and name == "seed":
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}={value!r}: expected an integer")
        if value < 0:
            raise ValueError(f"{name}={value}: expected at least 0")
    check_sampling(temperature, top_k)
