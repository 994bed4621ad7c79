"""The checkpoints that the suite writes have the tensors and the config of Hugging Face's model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conformance.checkpoints.tensors import (
    DICE,
    blank,
    shapes,
    write_checkpoint,
    write_sparse_checkpoint,
)
from gpt2ref import PUBLISHED_CONFIGS


@pytest.mark.parametrize("size", PUBLISHED_CONFIGS)
def test_the_shapes_of_a_published_size_are_hugging_faces(size: str) -> None:
    config = PUBLISHED_CONFIGS[size]
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(**config.to_dict()))
    theirs = {name: t.shape for name, t in model.transformer.state_dict().items()}
    assert shapes(config) == theirs


def test_config_json_has_the_fields_that_hugging_face_writes(tmp_path: Path) -> None:
    GPT2Config().save_pretrained(tmp_path)
    written = {"architectures", "dtype", "torch_dtype", "transformers_version"}
    theirs = json.loads((tmp_path / "config.json").read_text()).keys() - written
    for folder in (
        write_checkpoint(tmp_path / "whole", DICE, blank(DICE)),
        write_sparse_checkpoint(tmp_path / "sparse", DICE),
    ):
        ours = json.loads((folder / "config.json").read_text())
        assert theirs - ours.keys() <= {"add_cross_attention", "pad_token_id"}
