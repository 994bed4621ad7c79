"""gpt2ref's loop, with and without its step compiled, and the same model in the textbook's loop."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gpt2ref import compile_step, load_checkpoint
from gpt2ref.fast.cpu_steps import choose_by_row
from gpt2ref.fast.device_sampler import make_sampler
from gpt2ref.generation import sample_steps
from gpt2ref.sampling import choose, next_token

from ..sampling import Sampling
from .protocol import Implementation, TokenIds


def choose_as_loop(
    logits: Tensor, uniform: Tensor, *, temperature: float, top_k: int | None
) -> Tensor:
    """Choose tokens as gpt2ref's loop does on the logits' device."""
    choose_here = choose_by_row if logits.device.type == "cpu" else choose
    return choose_here(logits, uniform, temperature=temperature, top_k=top_k)


class Reference(Implementation):
    """gpt2ref's own loop."""

    foretold = True

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
        temperature, top_k = sampling.temperature, sampling.top_k
        new: TokenIds = [[] for _ in prompts]
        for step in sample_steps(
            self.model, prompts, max_new_tokens, temperature, top_k, seed, eos_token_id=None
        ):
            for row, token_id in step.items():
                new[row].append(token_id)
            on_step()
        return new

    def sampling_step(
        self, logits: Tensor, uniform: Tensor, sampling: Sampling
    ) -> Callable[[], object] | None:
        if logits.device.type == "cuda":
            return CapturedChoice(logits, uniform, sampling)
        return partial(
            choose_by_row,
            logits,
            uniform,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
        )


class CapturedChoice:
    """The sampler of the captured step, in a graph by itself."""

    def __init__(self, logits: Tensor, uniform: Tensor, sampling: Sampling) -> None:
        device, greedy = logits.device, sampling.temperature == 0
        temperature = torch.full_like(uniform[0], sampling.temperature or 1.0)
        chosen = torch.zeros(len(logits), dtype=torch.int64, device=device)
        self.given = logits, uniform, temperature, chosen  # the graph has their addresses
        batch, vocab_size = logits.shape
        self.sample = make_sampler(
            batch, vocab_size, logits.dtype, device, greedy=greedy, top_k=sampling.top_k
        )
        self.graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.inference_mode(), torch.cuda.stream(stream):
            self.sample(*self.given)  # what happens at a first call can't be captured
            self.graph.capture_begin()
            self.sample(*self.given)
            self.graph.capture_end()
        torch.cuda.current_stream(device).wait_stream(stream)

    def __call__(self) -> None:
        self.graph.replay()


class Compiled(Reference):
    """gpt2ref's own loop with its step compiled: from C on the CPU, by torch.compile on CUDA."""

    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(checkpoint, device, dtype)
        compile_step(self.model)


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

    def sampling_step(
        self, logits: Tensor, uniform: Tensor, sampling: Sampling
    ) -> Callable[[], object] | None:
        return partial(
            choose, logits, uniform, temperature=sampling.temperature, top_k=sampling.top_k
        )
