"""Files with a GPT-2 that keeps its heads apart, in the two styles in which people write them."""

from __future__ import annotations

# A module for each head, and sizes that are names of the module, one of which only a run gives.
LISTS = """
import torch
from torch import nn
from torch.nn import functional as F

block_size, n_embd, n_layer, n_head = 8, 32, 2, 4
chars = open("a file that is not there").read()
vocab_size = len(chars)


class Head(nn.Module):
    def __init__(self, head_size):
        super().__init__()
        self.key = nn.Linear(n_embd, head_size, bias=BIAS)
        self.query = nn.Linear(n_embd, head_size, bias=BIAS)
        self.value = nn.Linear(n_embd, head_size, bias=BIAS)
        self.register_buffer("tril", torch.ones(block_size, block_size).tril())

    def forward(self, x):
        time = x.size(1)
        scores = self.query(x) @ self.key(x).mT * self.key.out_features**-0.5
        scores = scores.masked_fill(self.tril[:time, :time] == 0, -torch.inf)
        return scores.softmax(-1) @ self.value(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([Head(n_embd // n_head) for _ in range(n_head)])
        self.proj = nn.Linear(n_embd, n_embd)

    def forward(self, x):
        return self.proj(torch.cat([head(x) for head in self.heads], -1))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.sa = Attention()
        self.ff = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * n_embd, n_embd),
        )
        self.ln1, self.ln2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)

    def forward(self, x):
        x = x + self.sa(self.ln1(x))
        return x + self.ff(self.ln2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, n_embd)
        self.positions = nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*[Block() for _ in range(n_layer)])
        self.ln_f = nn.LayerNorm(n_embd)
        self.lm_head = nn.Linear(n_embd, vocab_size)

    def forward(self, idx):
        x = self.tokens(idx) + self.positions(torch.arange(idx.size(1)))
        return self.lm_head(self.ln_f(self.blocks(x)))
"""

# A dimension for the heads, and parameters without a type that says how they are stored.
EINSUM = """
import torch
from dataclasses import dataclass
from torch import nn
from torch.nn import functional as F


@dataclass
class Config:
    d_model: int = 768
    d_vocab: int = 50257
    n_ctx: int = 1024
    d_head: int = 64
    d_mlp: int = 3072
    n_heads: int = 12
    n_layers: int = 12
    device: str = "a device that is not there"


def empty(*shape):
    return nn.Parameter(torch.empty(shape))


class Norm(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.w, self.b = empty(cfg.d_model), empty(cfg.d_model)

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.w, self.b)


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        into = cfg.n_heads, cfg.d_model, cfg.d_head
        self.W_Q, self.W_K, self.W_V = empty(*into), empty(*into), empty(*into)
        self.b_Q, self.b_K, self.b_V = (empty(cfg.n_heads, cfg.d_head) for _ in range(3))
        self.W_O, self.b_O = empty(cfg.n_heads, cfg.d_head, cfg.d_model), empty(cfg.d_model)

    def forward(self, x):
        def heads(w, b):
            return torch.einsum("bpd,ndh->bpnh", x, w) + b

        q, k, v = heads(self.W_Q, self.b_Q), heads(self.W_K, self.b_K), heads(self.W_V, self.b_V)
        scores = torch.einsum("bqnh,bknh->bnqk", q, k) / q.size(-1) ** 0.5
        hidden = torch.ones(scores.shape[-2:]).triu(1).bool()
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        z = torch.einsum("bnqk,bknh->bqnh", weights, v)
        return torch.einsum("bqnh,nhd->bqd", z, self.W_O) + self.b_O


class MLP(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.W_in, self.b_in = empty(cfg.d_model, cfg.d_mlp), empty(cfg.d_mlp)
        self.W_out, self.b_out = empty(cfg.d_mlp, cfg.d_model), empty(cfg.d_model)

    def forward(self, x):
        return F.gelu(x @ self.W_in + self.b_in, approximate="tanh") @ self.W_out + self.b_out


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.ln1, self.attn, self.ln2, self.mlp = Norm(cfg), Attention(cfg), Norm(cfg), MLP(cfg)

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Transformer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.W_E, self.W_pos = empty(cfg.d_vocab, cfg.d_model), empty(cfg.n_ctx, cfg.d_model)
        self.blocks = nn.ModuleList([Block(cfg) for _ in range(cfg.n_layers)])
        self.ln_final = Norm(cfg)
        self.W_U, self.b_U = empty(cfg.d_model, cfg.d_vocab), empty(cfg.d_vocab)
        self.device = torch.device(cfg.device)

    def forward(self, tokens):
        x = self.W_E[tokens] + self.W_pos[: tokens.size(1)]
        for block in self.blocks:
            x = block(x)
        return self.ln_final(x) @ self.W_U + self.b_U
"""
