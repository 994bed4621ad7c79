"""The blocks of a model, for tests that change one or watch it."""

from gpt2ref import GPT2
from gpt2ref.model import Block


def block(model: GPT2, layer: int) -> Block:
    """Return a block with its type, which `nn.ModuleList` does not know."""
    found = model.transformer.h[layer]
    assert isinstance(found, Block)
    return found
