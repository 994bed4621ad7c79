"""Load a checkpoint: find its file, choose the module that reads its format, make the model.

A format is a module with `read(path)`, which returns the config, the tensors under Hugging Face's
names, and how the matrices are stored (None if the file does not tell). To add one, write such a
module and add it to `_find`, `_read` and `foreign.recognise`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from torch import Tensor

from ..config import GPT2Config
from ..conversion import CheckpointError, Layout, from_tensors
from ..devices import check_device
from ..fast.products import arrange
from ..model import GPT2
from . import hugging_face, llmc, nanogpt, tensorflow
from .foreign import folder_without_weights, recognise
from .hub import download

_TINY = Path(__file__).parents[1] / "data" / "tiny"  # in the package: see the model card there
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_checkpoint(
    checkpoint: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> GPT2:
    """Load a model for inference from a folder, a weights file, a hub repository or a known name.

    Known names are "tiny", which is in the package, and the published "gpt2", "gpt2-medium",
    "gpt2-large", "gpt2-xl" and "distilgpt2". A file or folder of that name comes first.
    A folder has Hugging Face's config.json and weights, OpenAI's hparams.json and
    `model.ckpt.index`, or nanoGPT's ckpt.pt. A weights file is recognised by its first bytes,
    whatever its name. It has its config.json beside it; nanoGPT's ckpt.pt and llm.c's .bin (version
    3, float32, and 5, bfloat16) need none. A file of torch.save may have the tensors in a
    dictionary of its own, such as `model_state_dict` or `state_dict`, if it has only one.
    Where nanoGPT's file, or the config.json, says `bias=False`, the absent biases are zeros, which
    is logged as a warning. No file says which GELU nanoGPT trained with (since 2023 the exact one):
    GPT-2's is used.

    On the CPU, in the file's own dtype (the default), the weights are the memory-mapped file: no
    copy is made and a page is read when it is first used, so the file must not change while the
    model lives. In half precision the matrices of the blocks are copied into an order that is
    multiplied faster (`fast.products.arrange`). On another device the weights are contiguous
    copies. Nothing looks for NaN and infinity among them: the sampler refuses their logits.

    Raises FileNotFoundError if there is no such checkpoint, CheckpointError, with the file's name,
    if it is not a GPT-2's, and ValueError for a device or dtype that cannot be used.
    """
    check_device(device)
    weights = _find(checkpoint)
    config, tensors, layout = _read(weights)
    try:
        model = from_tensors(tensors, config, layout=layout, device=device, dtype=dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{weights}:\n{error}") from None
    except TypeError as error:  # mps has no float64
        raise ValueError(f"device={str(device)!r}: {error}") from None
    del tensors  # the model alone has them now
    if model.device.type == "cpu":
        arrange(model)
    return model


def _find(checkpoint: str | os.PathLike[str]) -> Path:
    """Find the file with the weights, or with their index."""
    path = Path(checkpoint)
    if path.is_file():
        return path
    if path.is_dir():
        names = (*hugging_face.WEIGHT_FILES, tensorflow.INDEX, nanogpt.FILE)
        for name in names:
            if (path / name).is_file():
                return path / name
        raise folder_without_weights(path, ", ".join(names))
    if str(checkpoint) == "tiny":
        return _find(_TINY)
    if _HUB_ID.fullmatch(str(checkpoint)):
        return _find(download(str(checkpoint), hugging_face.WEIGHT_FILES))
    raise FileNotFoundError(
        f"checkpoint {str(checkpoint)!r}: no such file or folder, nor a hub repository's name"
    )


def _read(weights: Path) -> tuple[GPT2Config, dict[str, Tensor], Layout | None]:
    if weights.name.endswith(".index.json"):
        return hugging_face.read(weights)
    read = {
        "safetensors": hugging_face.read,
        "pickle": nanogpt.read,
        "llm.c": llmc.read,
        "tensorflow": tensorflow.read,
    }[recognise(weights)]
    return read(weights)
