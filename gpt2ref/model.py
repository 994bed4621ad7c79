"""GPT-2, as in "Language Models are Unsupervised Multitask Learners" and OpenAI's `model.py`.

Shapes in the comments: batch; time, the tokens fed now; seen, those of the longest row so far.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import GPT2Config
from .devices import limit_threads


class KVCache:
    """The keys and values of every token fed so far, in buffers allocated once.

    `keys` and `values` have shape [n_layer, batch, capacity, n_head, head_width]. `lengths` counts
    the tokens of each row: its next token takes that position. Nothing beyond a row's length
    changes a logit, so rows may differ in length, and lowering a length forgets tokens.
    """

    def __init__(
        self,
        config: GPT2Config,
        batch: int,
        capacity: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        capacity = config.n_positions if capacity is None else capacity
        if not 1 <= capacity <= config.n_positions:
            raise ValueError(f"capacity={capacity}: expected 1 to n_positions={config.n_positions}")
        shape = (config.n_layer, batch, capacity, config.n_head, config.head_width)
        self.capacity = capacity
        self.keys, self.values = torch.zeros((2, *shape), device=device, dtype=dtype)
        self.lengths = [0] * batch
        self.written = [0] * batch  # positions that hold something, forgotten tokens included

    def forget_beyond(self, ends: list[int]) -> None:
        """Put zeros in place of what forgotten tokens left at the position `ends` and beyond.

        Attention multiplies what a query does not see by 0, and 0 times a NaN is NaN.
        """
        for row, (end, written) in enumerate(zip(ends, self.written, strict=True)):
            if end < written:
                self.keys[:, row, end:written] = self.values[:, row, end:written] = 0
        self.written = list(ends)


LayerKV = tuple[Tensor, Tensor]  # keys and values [batch, capacity, n_head, head_width]
Places = tuple[Tensor, Tensor]  # of the tokens fed now: rows [batch, 1], positions [batch, time]
# Multiplies by each matrix. `gpt2ref/__init__.py` puts `fast.linear` here, which chooses by speed.
linear: Callable[..., Tensor] = F.linear


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class CausalSelfAttention(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, places: Places, mask: Tensor, past: LayerKV | None) -> Tensor:
        batch, time, n_embd = x.shape
        # c_attn's columns are queries | keys | values, and each third is its heads side by side.
        qkv = self.c_attn(x).view(batch, time, 3, self.n_head, n_embd // self.n_head)
        q, k, v = qkv.unbind(2)  # each [batch, time, n_head, head_width]
        if past is not None:
            keys, values = past
            keys[places], values[places] = k, v
            k, v = keys[:, : mask.size(-1)], values[:, : mask.size(-1)]
        # softmax(q k^T / sqrt(head_width)) v; the mask says which keys each query sees
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
        )  # [batch, n_head, time, head_width]
        return self.c_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, config.mlp_width)
        self.c_proj = Linear(config.mlp_width, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # as the weights were trained


class Block(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, places: Places, mask: Tensor, past: LayerKV | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), places, mask, past)
        return x + self.mlp(self.ln_2(x))


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        # On the meta device torch would import sympy for this, which takes a second.
        if not self.weight.is_meta:
            super().reset_parameters()


class Transformer(nn.Module):
    """Everything but the head: token ids in, final hidden states out."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.n_positions = config.n_positions
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(self, token_ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """int [batch, time] -> [batch, time, n_embd], after ln_f. Errors: see `GPT2.forward`."""
        if token_ids.dim() != 2 or 0 in token_ids.shape:
            raise ValueError(
                f"token_ids: shape {list(token_ids.shape)}, expected [batch, time], both at least 1"
            )
        batch, time = token_ids.shape
        lengths = [0] * batch if cache is None else cache.lengths
        capacity = self.n_positions if cache is None else cache.capacity
        if len(lengths) != batch:
            raise ValueError(f"token_ids: {batch} rows, but the cache was made for {len(lengths)}")
        seen = max(lengths) + time
        if seen > capacity:
            raise ValueError(
                f"token_ids: {time} tokens after {seen - time}, but there are {capacity} positions"
            )
        limit_threads()
        first = torch.tensor(lengths, device=self.wte.weight.device)[:, None]
        positions = first + torch.arange(time, device=first.device)
        if cache is not None:
            cache.lengths = [length + time for length in lengths]
            cache.forget_beyond(cache.lengths)
        return self.run(token_ids, positions, seen, cache)

    def run(self, token_ids: Tensor, positions: Tensor, seen: int, cache: KVCache | None) -> Tensor:
        """Compute what `forward` returns for tokens at these positions, int64 [batch, time].

        Checks nothing, and leaves `cache.lengths` to the caller.
        """
        x = self.wte(token_ids) + self.wpe(positions)
        # A query sees the keys up to its own position. The mask [batch, 1, time, seen] has four
        # dimensions, as torch's fast attention takes no three, and is added to the scores, as a
        # CUDA graph can't capture a bool mask's in torch 2.4 and 2.5 (pytorch #130712).
        hidden = torch.arange(seen, device=x.device) > positions[:, None, :, None]
        mask = torch.zeros_like(hidden, dtype=x.dtype).masked_fill_(hidden, float("-inf"))
        places = torch.arange(len(x), device=x.device)[:, None], positions
        for layer, block in enumerate(self.h):
            past = None if cache is None else (cache.keys[layer], cache.values[layer])
            x = block(x, places, mask, past)
        return self.ln_f(x)


class GPT2(nn.Module):
    """GPT-2 with its language-model head, which is the token embedding itself (tied).

    Parameters carry the checkpoint's names (`transformer.h.0.attn.c_attn.weight`); there is no
    `lm_head.weight`. A model made directly has torch's default initial weights.
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)

    @property
    def device(self) -> torch.device:
        return self.transformer.wte.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.wte.weight.dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GPT2:
        # No weight is a view off the CPU, since F.linear fails on a Mac then (pytorch #162730).
        return super()._apply(lambda t: t if (t := fn(t)).is_cpu else t.contiguous(), recurse)

    def make_cache(self, batch: int, capacity: int | None = None) -> KVCache:
        """Make an empty cache on the model's device: `batch` rows of up to `capacity` tokens.

        `capacity` defaults to n_positions.
        """
        return KVCache(self.config, batch, capacity, device=self.device, dtype=self.dtype)

    def forward(self, token_ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Compute the next token's logits: int [batch, time] -> [batch, time, vocab_size].

        With a cache the given tokens follow the ones that it holds, and are added to it.
        Raises ValueError if the model, or the cache, has too few positions for them.
        """
        return self.head(self.transformer(token_ids, cache))

    def head(self, hidden: Tensor) -> Tensor:
        """[..., n_embd] -> [..., vocab_size]"""
        return linear(hidden, self.transformer.wte.weight)
