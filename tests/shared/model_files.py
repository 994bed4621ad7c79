"""Files with a GPT-2 and no adapter, in the styles in which people write one.

Each is a whole `model.py`. `ENCODER` is short, since torch's encoder layer is a block of GPT-2; it
is made into files that differ in one thing.
"""

from __future__ import annotations

from textwrap import indent

# The names of Hugging Face, [out, in], a dataclass, and the last position's logits without targets.
NANO = """
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.n_head = config.n_head
        size = config.block_size
        self.register_buffer("bias", torch.ones(size, size).tril()[None, None])

    def forward(self, x):
        heads = (*x.shape[:2], self.n_head, -1)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.c_attn(x).chunk(3, -1))
        scores = q @ k.mT / math.sqrt(q.size(-1))
        hidden = self.bias[:, :, : x.size(1), : x.size(1)] == 0
        mixed = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
        return self.c_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(config.n_embd), Attention(config)
        self.ln_2, self.mlp = nn.LayerNorm(config.n_embd), MLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


@dataclass
class GPTConfig:
    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.1
    bias: bool = False


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        print("a model is made")
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "drop": nn.Dropout(config.dropout),
                "h": nn.ModuleList([Block(config) for _ in range(config.n_layer)]),
                "ln_f": nn.LayerNorm(config.n_embd),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx, targets=None):
        parts = self.transformer
        x = parts.drop(parts.wte(idx) + parts.wpe(torch.arange(idx.size(1))))
        for block in parts.h:
            x = block(x)
        x = parts.ln_f(x)
        if targets is None:
            return self.lm_head(x[:, [-1]]), None
        logits = self.lm_head(x)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @classmethod
    def from_pretrained(cls, model_type):
        from transformers import GPT2LMHeadModel

        sizes = {"gpt2": (12, 12, 768)}[model_type]
        model = GPT(GPTConfig(1024, 50257, *sizes, bias=True))
        theirs, ours = GPT2LMHeadModel.from_pretrained(model_type).state_dict(), model.state_dict()
        for name in theirs:
            turned = ".c_" in name and name.endswith("weight")
            with torch.no_grad():
                ours[name].copy_(theirs[name].t() if turned else theirs[name])
        return model

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, temperature=1.0, top_k=None):
        for _ in range(max_new_tokens):
            logits, _ = self(idx[:, -self.config.block_size :])
            logits = logits[:, -1] / temperature
            if top_k is not None:
                smallest = torch.topk(logits, min(top_k, logits.size(-1)))[0][:, [-1]]
                logits[logits < smallest] = -math.inf
            idx = torch.cat([idx, torch.multinomial(logits.softmax(-1), 1)], 1)
        return idx
"""

# A dictionary for a config, q, k and v apart, LayerNorms with scale and shift, a greedy function.
SEPARATE = """
import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, context, heads, bias):
        super().__init__()
        self.heads = heads
        self.W_query = nn.Linear(width, width, bias=bias)
        self.W_key = nn.Linear(width, width, bias=bias)
        self.W_value = nn.Linear(width, width, bias=bias)
        self.out_proj = nn.Linear(width, width)
        self.register_buffer("mask", torch.ones(context, context).triu(1))

    def forward(self, x):
        shape = (*x.shape[:2], self.heads, -1)
        k, q, v = (
            part(x).view(shape).transpose(1, 2) for part in (self.W_key, self.W_query, self.W_value)
        )
        scores = q @ k.mT / q.size(-1) ** 0.5
        scores = scores.masked_fill(self.mask.bool()[: x.size(1), : x.size(1)], -torch.inf)
        return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return self.scale * centred / spread + self.shift


class Feed(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        width = cfg["emb_dim"]
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        return self.layers(x)


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        width = cfg["emb_dim"]
        self.att = Attention(width, cfg["context_length"], cfg["n_heads"], cfg["qkv_bias"])
        self.ff, self.norm1, self.norm2 = Feed(cfg), Norm(width), Norm(width)
        self.drop = nn.Dropout(cfg["drop_rate"])

    def forward(self, x):
        x = x + self.drop(self.att(self.norm1(x)))
        return x + self.drop(self.ff(self.norm2(x)))


class GPTModel(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["emb_dim"])
        self.trf_blocks = nn.Sequential(*[Block(cfg) for _ in range(cfg["n_layers"])])
        self.final_norm = Norm(cfg["emb_dim"])
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)

    def forward(self, in_idx):
        x = self.tok_emb(in_idx) + self.pos_emb(torch.arange(in_idx.size(1)))
        return self.out_head(self.final_norm(self.trf_blocks(x)))


def generate_simple(model, idx, max_new_tokens, context_size):
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = model(idx[:, -context_size:])
        idx = torch.cat([idx, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return idx
"""

_ENCODER = """
import torch
from torch import nn
from torch.nn import functional as F
BEFORE

class GPT(nn.Module):
    def __init__(ARGUMENTS):
        super().__init__()
        vocab, positions, width, layers, heads = SIZES

        def layer():
            return nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, lambda x: F.gelu(x, approximate="tanh"),
                batch_first=True, norm_first=True,
            )

        self.token_embedding = nn.Embedding(vocab, width)
        self.positions = nn.Embedding(positions, width)
        self.layers = nn.ModuleList([layer() for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        MORE

    def forward(self, idx, labels=None):
        time = idx.size(1)
        x = self.token_embedding(idx) + self.positions(torch.arange(time))
        mask = nn.Transformer.generate_square_subsequent_mask(time, dtype=x.dtype)
        for each in self.layers:
            x = each(x, src_mask=mask)
        logits = self.head(self.norm(x))
        return OUTPUT
METHODS
"""
_KEYWORDS = {
    "ARGUMENTS": "self, vocab_size, max_seq_len, d_model=8, num_layers=1, num_heads=1, p_drop=0.1",
    "SIZES": "vocab_size, max_seq_len, d_model, num_layers, num_heads",
}


_FIELDS = "config.vocab_size, config.block_size, config.n_embd, config.n_layer, config.n_head"


def of_config(fields: str = _FIELDS) -> dict[str, str]:
    """Return the parts of a class whose config has these fields."""
    return {"ARGUMENTS": "self, config", "SIZES": fields}


def encoder(
    *, before: str = "", output: str = "logits", more: str = "pass", methods: str = "", **parts: str
) -> str:
    """Return a file with a GPT: the code before it, its output, and more of its parts."""
    parts = {"BEFORE": before, "OUTPUT": output, "MORE": more} | (parts or _KEYWORDS)
    text = _ENCODER.replace("METHODS", indent(methods, "    "))
    for name, value in parts.items():
        text = text.replace(name, value)
    return text
