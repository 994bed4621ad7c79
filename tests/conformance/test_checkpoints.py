"""The checkpoints that the suite writes have the tensors of Hugging Face's model."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conformance.checkpoints.tensors import shapes
from gpt2ref import PUBLISHED_CONFIGS


@pytest.mark.parametrize("size", PUBLISHED_CONFIGS)
def test_the_shapes_of_a_published_size_are_hugging_faces(size: str) -> None:
    config = PUBLISHED_CONFIGS[size]
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(**config.to_dict()))
    theirs = {name: t.shape for name, t in model.transformer.state_dict().items()}
    assert shapes(config) == theirs
