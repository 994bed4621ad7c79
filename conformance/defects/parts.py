"""gpt2ref taken apart: every step of a GPT-2 is a method here, so that a defect is the one step that it gets wrong.

The weights, their conversion, the sampler and the tokenizer are gpt2ref's own; the forward pass and the loop are written
out once more, with a cache that is never changed in place, because gpt2ref's have no seams. Without a defect it is a
right GPT-2, and the suite must find nothing wrong with it.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import gpt2ref
from gpt2ref import EOS, GPT2Config
from gpt2ref.conversion import PREFIX, TRANSPOSED, from_hugging_face_tensors
from gpt2ref.sampling import check_sampling, draw, probabilities

Weights = dict[str, Tensor]
KeysValues = tuple[Tensor, Tensor]  # each [batch, n_head, seen, head_width]
Cache = list[KeysValues]  # of each layer; empty before the first token
MATRICES = tuple(key.removeprefix("h.{layer}.") for key in TRANSPOSED)


def changed(
    weights: Mapping[str, Tensor], ending: str | tuple[str, ...], change: Callable[[Tensor], Tensor]
) -> Weights:
    """The weights, with `change` made to those whose name ends so."""
    return {
        key: change(tensor) if key.endswith(ending) else tensor for key, tensor in weights.items()
    }


def length(cache: Cache) -> int:
    return cache[0][0].size(2) if cache else 0


class Parts:
    """A GPT-2 for the suite (see `protocol.Implementation`), step by step."""

    def __init__(
        self, checkpoint: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.dtype = dtype
        self.config = self.configure(
            json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
        )
        self.weights = {
            key: t.to(device) for key, t in self.load(self.read(Path(checkpoint))).items()
        }

    # From the file to the weights.

    def configure(self, fields: dict[str, Any]) -> GPT2Config:
        return GPT2Config.from_dict(fields)

    def read(self, checkpoint: Path) -> Weights:
        """The tensors of the file, by its names and in its orientation."""
        return load_file(checkpoint / "model.safetensors")

    def load(self, tensors: Weights) -> Weights:
        """The weights to compute with: no `transformer.` before the names, matrices as nn.Linear has them, [out, in]."""
        state = from_hugging_face_tensors(tensors, self.config, dtype=self.dtype)
        return {key.removeprefix(PREFIX): tensor for key, tensor in state.items()}

    def state_dict(self) -> Weights:
        return {key: t.t() if key.endswith(MATRICES) else t for key, t in self.weights.items()}

    # From token ids to logits. Shapes: batch, time (tokens fed now), seen (fed so far, these included).

    @torch.inference_mode()
    def forward(self, token_ids: Tensor, cache: Cache, real: Tensor) -> tuple[Tensor, Cache]:
        """Logits [batch, time, vocab], and the cache with these tokens added.

        `real`: bool [batch, seen], false for what only fills up a short row on the left.
        """
        if real.size(1) > self.config.n_positions:
            raise ValueError(
                f"token_ids: {real.size(1)} tokens, but there are {self.config.n_positions} positions"
            )
        past = real.size(1) - token_ids.size(1)
        x = self.embed(token_ids, self.positions(real, past))
        mask = self.mask(real, past)
        new: Cache = []
        for layer in self.layers():
            x, keys_values = self.block(layer, x, mask, cache[len(new)] if cache else None)
            new.append(keys_values)
        return self.head(self.final_norm(x)), new

    def positions(self, real: Tensor, past: int) -> Tensor:
        """int64 [batch, time]: the first real token of a row has position 0."""
        return (real.cumsum(-1) - 1).clamp(min=0)[:, past:]

    def mask(self, real: Tensor, past: int) -> Tensor:
        """bool [batch, 1, time, seen]: which keys a query sees."""
        seen = torch.arange(real.size(1), device=real.device)
        return ((seen <= seen[past:, None]) & real[:, None])[:, None]

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        return self.weights["wte.weight"][token_ids] + self.weights["wpe.weight"][positions]

    def layers(self) -> Sequence[int]:
        return range(self.config.n_layer)

    def block(
        self, layer: int, x: Tensor, mask: Tensor, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        attended, keys_values = self.attention(layer, self.norm(x, f"h.{layer}.ln_1"), mask, past)
        x = x + attended
        return x + self.mlp(layer, self.norm(x, f"h.{layer}.ln_2")), keys_values

    def attention(
        self, layer: int, x: Tensor, mask: Tensor, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        q, k, v = self.split(
            self.linear(x, f"h.{layer}.attn.c_attn")
        )  # each [batch, n_head, time, head_width]
        if past is not None:
            k, v = self.remember(past, k, v)
        attended = self.shares(self.scores(q, k, layer), mask) @ v
        return self.linear(self.merge(attended), f"h.{layer}.attn.c_proj"), (k, v)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (self.heads(part) for part in qkv.chunk(3, dim=-1))
        return q, k, v

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)

    @property
    def n_head(self) -> int:
        return self.config.n_head

    def remember(self, past: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
        return torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        return q @ k.mT / math.sqrt(q.size(-1))

    def shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        # Not minus infinity: a row that only fills up sees nothing, and would be NaN.
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)

    def merge(self, attended: Tensor) -> Tensor:
        return attended.transpose(1, 2).flatten(2)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        return self.linear(
            self.activation(self.linear(x, f"h.{layer}.mlp.c_fc")), f"h.{layer}.mlp.c_proj"
        )

    def activation(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.config.layer_norm_epsilon)

    def final_norm(self, x: Tensor) -> Tensor:
        return self.norm(x, "ln_f")

    def head(self, x: Tensor) -> Tensor:
        return x @ self.weights["wte.weight"].t()

    # What the suite asks of a model.

    def logits(self, token_ids: Tensor) -> Tensor:
        return self.prefill(token_ids)[0]

    def prefill(self, token_ids: Tensor) -> tuple[Tensor, Cache]:
        return self.step(token_ids, [])

    def step(self, token_ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        seen = length(cache) + token_ids.size(1)
        real = torch.ones(len(token_ids), seen, dtype=torch.bool, device=token_ids.device)
        return self.forward(token_ids, cache, real)

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
        """As `generate`, for prompts of different lengths."""
        self.check(temperature, top_k)
        rows = [list(prompt) or [EOS] for prompt in prompts]
        new: list[list[int]] = [[] for _ in rows]
        ended = [self.ends_at_once(prompt) for prompt in prompts]
        generators = self.generators(seed, len(rows))
        cache: Cache = []
        for _ in range(max_new_tokens):
            logits, cache = self.next_logits(rows, cache)
            chosen = self.next_token(logits, self.uniform(generators), temperature, top_k).tolist()
            ended = self.ends(ended, chosen)
            if all(ended):
                break
            for row, token_id in enumerate(chosen):
                rows[row].append(token_id)  # those that have ended go on too, unseen
                if not ended[row]:
                    new[row].append(token_id)
        return new

    def check(self, temperature: float, top_k: int | None) -> None:
        check_sampling(temperature, top_k)

    def ends_at_once(self, prompt: Sequence[int]) -> bool:
        return False

    def ends(self, ended: list[bool], chosen: list[int]) -> list[bool]:
        return [before or token_id == EOS for before, token_id in zip(ended, chosen, strict=True)]

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        """Logits after each row's last token [batch, vocab], and the cache. Rows are filled up on the left."""
        view = [self.crop(row) for row in rows]
        longest = max(map(len, view))
        if longest < max(map(len, rows)):
            cache = []  # the window has moved, and with it every position
        device = self.weights["wte.weight"].device
        filled = torch.tensor(
            [[EOS] * (longest - len(row)) + list(row) for row in view], device=device
        )
        real = torch.tensor(
            [[False] * (longest - len(row)) + [True] * len(row) for row in view], device=device
        )
        logits, cache = self.forward(
            filled[:, length(cache) :], cache, self.padding(filled, real, cache)
        )
        return logits[:, -1], cache

    def padding(self, filled: Tensor, real: Tensor, cache: Cache) -> Tensor:
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
        """[batch, vocab] and float64 [batch] -> int64 [batch]"""
        if not logits.amax(-1).isfinite().all():
            raise ValueError("logits: the largest one is not a finite number")
        if temperature == 0:
            return logits.argmax(-1)
        return self.draw(self.probabilities(logits, temperature, top_k), uniform.to(logits.device))

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return probabilities(logits, temperature=temperature, top_k=top_k)

    def draw(self, probabilities: Tensor, uniform: Tensor) -> Tensor:
        return draw(probabilities.double(), uniform)

    def encode(self, text: str) -> list[int]:
        return gpt2ref.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return gpt2ref.decode(token_ids)
