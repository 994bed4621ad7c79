"""The smallest checkpoint, for tests that damage it. The fixture `checkpoint` writes it."""

import re

import torch
from torch import Tensor

from conformance.checkpoints.tensors import trained_like
from gpt2ref import GPT2, GPT2Config

CONFIG = GPT2Config(vocab_size=5, n_positions=3, n_embd=4, n_layer=1, n_head=2)
TENSORS = trained_like(CONFIG, seed=0)


def named(*names: object) -> str:
    """Return a pattern that finds the names in this order, on any lines."""
    return "(?s)" + ".*".join(re.escape(str(name)) for name in names)


def state(model: GPT2) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def same(model: GPT2, expected: dict[str, Tensor]) -> bool:
    ours = model.state_dict()
    return ours.keys() == expected.keys() and all(
        torch.equal(ours[key], expected[key]) for key in expected
    )
