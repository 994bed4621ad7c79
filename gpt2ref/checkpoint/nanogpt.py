"""Read pickles: nanoGPT's ckpt.pt, and state dicts by themselves or within another dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import GPT2Config
from ..conversion import CheckpointError, Layout
from .biases import with_biases
from .config_file import read_config, renamed
from .foreign import refuse_adapter
from .pickles import gpt2_tensors, read_pickle

# nanoGPT's names of the fields of a GPT2Config -> ours.
_MODEL_ARGS = {
    "vocab_size": "vocab_size",
    "block_size": "n_positions",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}
FILE = "ckpt.pt"
PUBLISHED_NAME = "pytorch_model.bin"  # Hugging Face's


def read(path: Path) -> tuple[GPT2Config, dict[str, Tensor], Layout | None]:
    """Read a file that has its shape in it, as nanoGPT's has, or one beside its config.json.

    A state dict may be anybody's, so its layout is unknown, unless the file is Hugging Face's by
    its name. Raises CheckpointError, with the file's name, if it is not a GPT-2's.
    """
    saved: Any = read_pickle(path)
    nanogpts = isinstance(saved, dict) and saved.keys() >= {"model", "model_args"}
    tensors = gpt2_tensors(path, saved["model"] if nanogpts else saved)
    refuse_adapter(path, tensors)
    layout: Layout | None = "in_out" if path.name == PUBLISHED_NAME and tensors is saved else None
    fields = _own_fields(saved)
    if fields is None:
        config, fields = read_config(path.parent / "config.json")
        return config, with_biases(path, tensors, fields, config), layout
    try:
        if "n_positions" in fields:
            config = GPT2Config.from_dict(fields)
        else:
            config, layout = renamed(fields, _MODEL_ARGS), "out_in"
    except ValueError as error:
        raise CheckpointError(f"{path}: model_args: {error}") from None
    return config, with_biases(path, tensors, fields, config), layout


def _own_fields(saved: Any) -> Mapping[str, Any] | None:
    """Return the shape that is saved with the tensors: `model_args`, or a whole `config`."""
    if not isinstance(saved, dict):
        return None
    if "model_args" in saved:
        return saved["model_args"] if isinstance(saved["model_args"], dict) else {}
    config = saved.get("config")
    if isinstance(config, dict) and (
        _MODEL_ARGS.keys() <= config.keys() or "n_positions" in config
    ):
        return config
    return None
