"""Put zeros in the place of the biases that a model was trained without (nanoGPT's bias=False)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import GPT2Config
from ..conversion import shapes
from ..wrappers import plain_names

_log = logging.getLogger(__name__)


def with_biases(
    path: Path, tensors: dict[str, Tensor], fields: Mapping[str, Any], config: GPT2Config
) -> dict[str, Tensor]:
    """Return the tensors, with zeros for all biases if the file's own config says `bias=False`.

    A Linear or a LayerNorm without a bias is one whose bias is zero. This is logged as a warning.
    Tensors that have a bias in spite of it, or whose config does not say so, are returned as they
    are.
    """
    names = plain_names(tensors)
    few = replace(config, n_layer=min(config.n_layer, len(tensors) + 1))  # a hostile one: millions
    biases = {name: shape for name, shape in shapes(few).items() if name.endswith(".bias")}
    if fields.get("bias") is not False or not biases.keys().isdisjoint(names.values()):
        return tensors
    # A bias stands beside its weight, under the same wrappers.
    zeros = {
        f"{key.removesuffix('weight')}bias": torch.zeros(biases[bias], dtype=tensors[key].dtype)
        for key, name in names.items()
        if (bias := f"{name.removesuffix('weight')}bias") in biases
    }
    _log.warning("%s: trained with bias=False: its %d biases are zeros", path, len(zeros))
    return tensors | zeros
