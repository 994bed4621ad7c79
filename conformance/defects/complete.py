"""A right GPT-2 that does all that the suite asks for: what each defect of the catalogue changes.

It adds to the plain forward pass (`probes.gpt2`) the reading of a checkpoint, a cache, a sampler,
the generation loop and the tokenizer, a method for each step. With `gpt2ref` it shares the class of
its config and the tokenizer, whose 50,000 merges are data. The cache is never changed in place.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import gpt2ref
from gpt2ref import EOS, GPT2Config

from ..checkpoints.tensors import shapes
from ..probes.gpt2 import PlainGPT2, Weights

KeysValues = tuple[Tensor, Tensor]  # each [batch, n_head, seen, head_width]
Cache = list[KeysValues]  # of each layer; empty before the first token
PREFIX = "transformer."
SMALL_FILE = 32 * 2**20  # bytes; the tensors of the last eight files up to this size are kept
MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
MASK_BUFFERS = (".attn.bias", ".attn.masked_bias")  # of older files; no weights


def changed(
    weights: Mapping[str, Tensor], ending: str | tuple[str, ...], change: Callable[[Tensor], Tensor]
) -> Weights:
    """Return the weights with `change` applied to those whose names end so."""
    return {
        name: change(tensor) if name.endswith(ending) else tensor
        for name, tensor in weights.items()
    }


def each_own(model: CompleteGPT2, field: str) -> Iterator[Any]:
    """Yield the values that the classes of a GPT-2 give a field, those of the first mistake first.

    So two mistakes that derive from one class can be had together.
    """
    return (vars(kind)[field] for kind in type(model).__mro__ if field in vars(kind))


@lru_cache(maxsize=8)
def _read_once(file: Path, _changed: int) -> Weights:
    """Return the tensors of a file, which a diagnosis loads thousands of times.

    No entry of the catalogue changes them in place.
    """
    return load_file(file)


def length(cache: Cache) -> int:
    """Return the number of tokens that a cache has seen."""
    return cache[0][0].size(2) if cache else 0


def restricted(logits: Tensor, top_k: int | None) -> Tensor:
    """Return the logits [..., vocab] with minus infinity below the k-th largest of each row."""
    if top_k is None or top_k >= logits.size(-1):
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], float("-inf"))


class CompleteGPT2(PlainGPT2):
    """An implementation for the suite (see `adapters.protocol.Implementation`), step by step."""

    fields: Mapping[str, Any] = {}  # of config.json, as they were read

    # From the file to the weights.

    @classmethod
    def load(
        cls, checkpoint: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> CompleteGPT2:
        """Load a checkpoint folder. Raises ValueError for one that is not a GPT-2's."""
        folder = Path(checkpoint)
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = cls(cls.read(folder), cls.configure(fields), dtype=dtype)
        model.weights = {name: tensor.to(device) for name, tensor in model.weights.items()}
        model.fields = fields
        return model

    @classmethod
    def read(cls, folder: Path) -> Weights:
        """Return the tensors of the file, by its names and in its orientation."""
        file = folder / "model.safetensors"
        if file.stat().st_size > SMALL_FILE:
            return load_file(file)
        return dict(_read_once(file, file.stat().st_mtime_ns))

    @classmethod
    def configure(cls, fields: dict[str, Any]) -> GPT2Config:
        return GPT2Config.from_dict(fields)

    def convert(self, tensors: Weights) -> Weights:
        named = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        head = named.pop("lm_head.weight", None)
        found = {name: t for name, t in named.items() if not name.endswith(MASK_BUFFERS)}
        expected = shapes(self.config)
        if {name: tensor.shape for name, tensor in found.items()} != expected:
            raise ValueError(_unlike(found, expected))
        if head is not None and not torch.equal(head, found["wte.weight"]):
            raise ValueError("lm_head.weight: expected to be equal to wte.weight")
        return super().convert(found)

    def state_dict(self) -> Weights:
        return dict(self.weights)

    # What the suite asks of a model.

    def logits(self, token_ids: Tensor) -> Tensor:
        return self.prefill(token_ids)[0]

    def prefill(self, token_ids: Tensor) -> tuple[Tensor, Cache]:
        return self.step(token_ids, [])

    def step(self, token_ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        seen = length(cache) + token_ids.size(1)
        real = torch.ones(len(token_ids), seen, dtype=torch.bool, device=token_ids.device)
        return self.feed(token_ids, cache, real)

    @torch.inference_mode()
    def feed(self, token_ids: Tensor, cache: Cache, real: Tensor) -> tuple[Tensor, Cache]:
        """Return logits [batch, time, vocab], and the cache with these tokens added."""
        self.check_length(real.size(1))
        self.cache: Cache = cache
        self.new_cache: Cache = []
        logits = self.forward(token_ids, real)
        return logits, self.new_cache

    def check_length(self, seen: int) -> None:
        n = self.config.n_positions
        if seen > n:
            raise ValueError(f"token_ids: {seen} tokens, but there are {n} positions")

    def remember(self, k: Tensor, v: Tensor) -> KeysValues:
        if self.cache:
            k, v = self.extend(self.cache[len(self.new_cache)], k, v)
        self.new_cache.append((k, v))
        return k, v

    def extend(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        """Return a layer's keys and values with those of the tokens fed now added."""
        return torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)

    # From logits to text.

    def generate(
        self,
        token_ids: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[list[int]]:
        return self.generate_ragged(
            token_ids.tolist(),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
        )

    def generate_ragged(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[list[int]]:
        """Return the new tokens of each row. The prompts may have different lengths."""
        self.check(temperature, top_k)
        rows = [list(prompt) or [EOS] for prompt in prompts]
        new: list[list[int]] = [[] for _ in rows]
        ended = [self.ends_at_once(prompt) for prompt in prompts]
        generators = self.generators(seed, len(rows))
        cache: Cache = []
        for _ in range(max_new_tokens):
            logits, cache = self.next_logits(rows, cache)
            # The CPU chooses, since not every device has float64.
            uniform = self.uniform(generators)
            chosen = self.next_token(logits.cpu(), uniform, temperature, top_k).tolist()
            ended = self.ends(ended, chosen)
            if all(ended):
                break
            for row, token_id in enumerate(chosen):
                rows[row].append(token_id)  # those that have ended go on too, unseen
                if not ended[row]:
                    new[row].append(token_id)
        return new

    def check(self, temperature: float, top_k: int | None) -> None:
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature={temperature}: expected a finite number of at least 0")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k={top_k}: expected at least 1, or None")

    def ends_at_once(self, prompt: Sequence[int]) -> bool:
        return False

    def ends(self, ended: list[bool], chosen: list[int]) -> list[bool]:
        return [before or token_id == EOS for before, token_id in zip(ended, chosen, strict=True)]

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        """Return the logits after each row's last token [batch, vocab], and the cache.

        Short rows are padded on the left.
        """
        view = [self.crop(row) for row in rows]
        longest = max(map(len, view))
        if longest < max(map(len, rows)):
            cache = []  # the window has moved, and with it every position
        device = self.weights["wte.weight"].device
        padded = torch.tensor(
            [[EOS] * (longest - len(row)) + list(row) for row in view], device=device
        )
        real = torch.tensor(
            [[False] * (longest - len(row)) + [True] * len(row) for row in view], device=device
        )
        real = self.padding(padded, real, cache)
        self.asked = slice(-1, None)
        try:
            logits, cache = self.feed(padded[:, length(cache) :], cache, real)
        finally:
            self.asked = slice(None)
        return logits[:, -1], cache

    def padding(self, padded: Tensor, real: Tensor, cache: Cache) -> Tensor:
        """Return bool [batch, seen], false for what is taken for padding."""
        return real

    def crop(self, row: Sequence[int]) -> Sequence[int]:
        return row[-self.config.n_positions :]

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        return [random.Random(seed + row) for row in range(batch)]

    def uniform(self, generators: Sequence[random.Random]) -> Tensor:
        return torch.tensor([generator.random() for generator in generators], dtype=torch.float64)

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        """Choose a token for each row: [batch, vocab] and float64 [batch] -> int64 [batch]."""
        if not logits.amax(-1).isfinite().all():
            raise ValueError("logits: the largest one is not a finite number")
        if temperature == 0:
            return logits.argmax(-1)
        return self.draw(self.probabilities(logits, temperature, top_k), uniform)

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        """Return the chance of each token [batch, vocab]."""
        first = logits[:1].expand_as(logits)
        alike = torch.equal(first, logits)  # as those of a die: one row is computed for all
        rows = restricted(logits[:1].double() if alike else logits.double(), top_k)
        # The quotient of a difference cannot overflow at a tiny temperature.
        chances = ((rows - rows.amax(-1, keepdim=True)) / temperature).softmax(-1)
        return chances.expand_as(logits)

    def draw(self, probabilities: Tensor, uniform: Tensor) -> Tensor:
        """Return for each row the first token whose cumulative probability exceeds `uniform`."""
        cumulative = probabilities.double().cumsum(-1)
        drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
        return drawn[:, 0].clamp(max=probabilities.size(-1) - 1)  # NaN leads beyond the last

    def encode(self, text: str) -> list[int]:
        return gpt2ref.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return gpt2ref.decode(token_ids)


def _unlike(found: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> str:
    """Say which tensors are missing, unexpected, or of the wrong shape."""
    misshapen = [n for n, t in found.items() if n in expected and t.shape != expected[n]]
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of the wrong shape": misshapen,
    }
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in problems.items() if names)


load = CompleteGPT2.load
