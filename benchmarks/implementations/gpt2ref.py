"""gpt2ref's loop, with and without its step compiled, and the same model in the loop that the textbook shows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gpt2ref import compile_step, load_checkpoint
from gpt2ref.fast import compiled_step as compiled
from gpt2ref.generation import sample_steps
from gpt2ref.sampling import next_token

from ..sampling import Sampling
from .protocol import Implementation, TokenIds


class Reference(Implementation):
    """gpt2ref's own loop."""

    foretold = True
    mapped = True
    next_token = staticmethod(next_token)

    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.model = load_checkpoint(checkpoint, device=device, dtype=dtype)

    def generate(
        self,
        prompts: TokenIds,
        sampling: Sampling,
        *,
        max_new_tokens: int,
        seed: int,
        on_step: Callable[[], None],
    ) -> TokenIds:
        rows = [list(prompt) for prompt in prompts]  # the loop appends to them
        temperature, top_k = sampling.temperature, sampling.top_k
        for _ in sample_steps(
            self.model, rows, max_new_tokens, temperature, top_k, seed, eos_token_id=None
        ):
            on_step()
        return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


class Compiled(Reference):
    """The same with its step compiled, while it has its turn."""

    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(checkpoint, device, dtype)
        compile_step()
        self.libraries = dict(compiled.libraries)
        compiled.libraries.clear()

    @contextmanager
    def turn(self) -> Iterator[None]:
        compiled.libraries.update(self.libraries)
        try:
            yield
        finally:
            compiled.libraries.clear()


class Textbook(Reference):
    """No cache: each step feeds the whole sequence again, and takes the last of the logits."""

    @torch.inference_mode()
    def generate(
        self,
        prompts: TokenIds,
        sampling: Sampling,
        *,
        max_new_tokens: int,
        seed: int,
        on_step: Callable[[], None],
    ) -> TokenIds:
        device = self.model.device
        generators = [random.Random(seed + row) for row in range(len(prompts))]
        sequences = torch.tensor(prompts, device=device)
        new: TokenIds = [[] for _ in prompts]
        for _ in range(max_new_tokens):
            logits = self.model(sequences)[:, -1]
            uniform = torch.tensor(
                [generator.random() for generator in generators], dtype=torch.float64, device=device
            )
            chosen = next_token(
                logits, uniform, temperature=sampling.temperature, top_k=sampling.top_k
            )
            sequences = torch.cat([sequences, chosen[:, None]], dim=1)
            for row, token_id in zip(new, chosen.tolist(), strict=True):
                row.append(token_id)
            on_step()
        return new
