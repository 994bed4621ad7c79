"""Read nanoGPT's and minGPT's files: pickles (.pt, .pth), with nn.Linear's matrices [out, in]."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..config import GPT2Config
from ..conversion import CheckpointError, Layout
from .config_file import read_config, renamed
from .pickles import named_tensors, read_pickle

# nanoGPT's names of the fields of a GPT2Config -> ours.
_MODEL_ARGS = {
    "vocab_size": "vocab_size",
    "block_size": "n_positions",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}


def read(path: Path) -> tuple[GPT2Config, dict[str, Tensor], Layout | None]:
    """Read nanoGPT's ckpt.pt, which has its shape in it, or a state dict beside its config.json.

    A state dict may be anybody's, so its layout is unknown. Raises CheckpointError, with the
    file's name, if it is not a GPT-2's.
    """
    saved = read_pickle(path)
    if not isinstance(saved, dict) or "model_args" not in saved:
        return read_config(path.parent / "config.json"), named_tensors(path, saved), None
    try:
        config = renamed(saved["model_args"], _MODEL_ARGS)
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: model_args: {error}") from None
    return config, named_tensors(path, saved.get("model")), "out_in"
