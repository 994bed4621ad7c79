"""GPT-2 written out plainly, a method for each step: the truth of the probes.

It follows openai/gpt-2 src/model.py and shares no code with `gpt2ref` but the class of its config.
A defect of the catalogue (see `defects`) is a subclass that overrides the one step that it gets
wrong, so a probe can try what each of them makes of a checkpoint.

Shapes: `time` counts the tokens fed now, `seen` those fed so far, these included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gpt2ref import GPT2Config

Weights = dict[str, Tensor]


class PlainGPT2:
    """A right GPT-2 in any floating-point dtype, from a checkpoint's tensors.

    Matrices keep the checkpoint's orientation, [in, out], and multiply from the right: `x @ w`.
    """

    shown: Tensor | slice = slice(None)  # the tokens whose logits are computed
    asked = slice(None)  # the positions whose logits are computed

    def __init__(
        self, tensors: Mapping[str, Tensor], config: GPT2Config, *, dtype: torch.dtype
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.weights = self.convert(dict(tensors))

    def convert(self, tensors: Weights) -> Weights:
        """Return the weights to compute with, by their names without `transformer.`."""
        return {name: tensor.to(self.dtype) for name, tensor in tensors.items()}

    def logits(self, token_ids: Tensor) -> Tensor:
        """Return the logits [batch, time, vocab] of int64 [batch, time]."""
        return self.forward(token_ids, torch.ones_like(token_ids, dtype=torch.bool))

    def forward(self, token_ids: Tensor, real: Tensor) -> Tensor:
        """Return the logits [batch, time, vocab].

        `real`: bool [batch, seen], false where padding fills up a short row on the left.
        """
        past = real.size(1) - token_ids.size(1)
        x = self.embed(token_ids, self.positions(real, past))
        mask = self.mask(real, past)
        for layer in self.layers():
            x = self.block(layer, x, mask)
        return self.head(self.final_norm(x)[:, self.asked])

    def positions(self, real: Tensor, past: int) -> Tensor:
        """Return int64 [batch, time]: the first real token of a row has position 0."""
        return (real.cumsum(-1) - 1).clamp(min=0)[:, past:]

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        return self.embed_tokens(token_ids) + self.embed_positions(positions)

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        return self.weights["wte.weight"][token_ids]

    def embed_positions(self, positions: Tensor) -> Tensor:
        return self.weights["wpe.weight"][positions]

    def mask(self, real: Tensor, past: int) -> Tensor:
        """Return bool [batch, 1, time, seen]: which keys a query sees."""
        seen = torch.arange(real.size(1), device=real.device)
        return ((seen <= seen[past:, None]) & real[:, None])[:, None]

    def layers(self) -> Sequence[int]:
        return range(self.config.n_layer)

    def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(layer, self.norm(x, f"h.{layer}.ln_1"), mask)
        return x + self.mlp(layer, self.norm(x, f"h.{layer}.ln_2"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        normalised = self.normalise(x, self.epsilon(name))
        return normalised * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def normalise(self, x: Tensor, epsilon: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()

    def epsilon(self, name: str) -> float:
        """Return what the LayerNorm of this name adds to the variance."""
        return self.config.layer_norm_epsilon

    def attention(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.split(self.linear(x, f"h.{layer}.attn.c_attn"))
        k, v = self.remember(k, v)
        attended = self.attention_weights(self.scores(q, k, layer), mask) @ v
        return self.linear(self.merge(attended), f"h.{layer}.attn.c_proj")

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each [batch, n_head, time, head_width]."""
        q, k, v = (self.heads(part) for part in qkv.chunk(3, dim=-1))
        return q, k, v

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)

    @property
    def n_head(self) -> int:
        return self.config.n_head

    def remember(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values that the queries see. A cache puts earlier ones before."""
        return k, v

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        """Return the attention scores [batch, n_head, time, seen]."""
        return q @ k.mT * self.attention_scale(layer, q.size(-1))

    def attention_scale(self, layer: int, head_width: int) -> float:
        return 1 / math.sqrt(head_width)

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        # Not minus infinity: a row that is padding alone sees nothing, and would be NaN.
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)

    def merge(self, attended: Tensor) -> Tensor:
        """Put the heads side by side: [batch, time, n_embd]."""
        return attended.transpose(1, 2).flatten(2)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        hidden = self.activation(self.linear(x, f"h.{layer}.mlp.c_fc"))
        return self.linear(hidden, f"h.{layer}.mlp.c_proj")

    def activation(self, x: Tensor) -> Tensor:
        """GELU in its tanh form."""
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def final_norm(self, x: Tensor) -> Tensor:
        return self.norm(x, "ln_f")

    def head(self, x: Tensor) -> Tensor:
        return x @ self.weights["wte.weight"][self.shown].t()
