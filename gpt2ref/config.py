"""The numbers that define a GPT-2's shape, under Hugging Face's field names."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

EOS = 50256  # <|endoftext|>: ends a text, and starts one that has no prompt

# config.json may describe other architectures under model_type "gpt2".
# Field -> its values for the one that OpenAI published.
_FIXED_FIELDS: dict[str, tuple[object, ...]] = {
    "model_type": ("gpt2",),
    # Names of the tanh form in transformers' ACT2FN. They differ in speed alone.
    "activation_function": tuple(
        f"gelu_{name}" for name in ("new", "pytorch_tanh", "fast", "accurate", "python_tanh")
    ),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True, False),
}
_LARGEST_SIZE = 2**24  # beyond any model; the bytes of a matrix still fit an int64


@dataclass(frozen=True)
class GPT2Config:
    """Shape of a GPT-2 (Hugging Face's `GPT2Config`, OpenAI's `hparams.json`), by default 124M's.

    Raises ValueError, naming the field and its value, for a shape that no GPT-2 can have.
    """

    vocab_size: int = 50257
    n_positions: int = 1024  # longest context, in tokens
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None  # width of the MLP; None is 4 * n_embd
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True  # False: a checkpoint must have lm_head.weight, too

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"):
            value = getattr(self, name)
            if name == "n_inner" and value is None:
                continue
            is_integer = isinstance(value, int) and not isinstance(value, bool)
            if not is_integer or not 1 <= value <= _LARGEST_SIZE:
                raise ValueError(f"{name}={value!r}: expected an integer from 1 to {_LARGEST_SIZE}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_head={self.n_head}: expected a divisor of n_embd={self.n_embd}")
        epsilon = self.layer_norm_epsilon
        is_number = isinstance(epsilon, (int, float)) and not isinstance(epsilon, bool)
        if not is_number or not 0 < epsilon <= sys.float_info.max:
            raise ValueError(f"layer_norm_epsilon={epsilon!r}: expected a finite number above 0")

    @property
    def mlp_width(self) -> int:
        return self.n_inner or 4 * self.n_embd

    @property
    def head_width(self) -> int:
        return self.n_embd // self.n_head

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> GPT2Config:
        """Read the fields of a config.json, but not dropout and other training fields.

        Raises ValueError for a field that asks for another architecture than GPT-2's.
        """
        for name, allowed in _FIXED_FIELDS.items():
            if name in fields and fields[name] not in allowed:
                raise ValueError(
                    f"{name}={fields[name]!r}: expected {' or '.join(map(repr, allowed))}"
                )
        known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Make the fields of a config.json that Hugging Face's `from_pretrained` reads."""
        eos = EOS if self.vocab_size > EOS else None
        return asdict(self) | {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "activation_function": "gelu_new",
            "n_ctx": self.n_positions,  # an older name, which some readers ask for
            "bos_token_id": eos,
            "eos_token_id": eos,
        }


PUBLISHED_CONFIGS: dict[str, GPT2Config] = {
    "gpt2": GPT2Config(),
    "gpt2-medium": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
}
