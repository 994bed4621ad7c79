"""Write a checkpoint in Hugging Face's format."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from ..conversion import to_hugging_face_tensors
from ..model import GPT2


def save_checkpoint(model: GPT2, folder: str | os.PathLike[str]) -> None:
    """Write `config.json` and `model.safetensors` for `load_checkpoint` or `from_pretrained`.

    Both are written to a folder beside them and moved into place when they are whole, so a save
    that fails leaves the old checkpoint. Where the config stays the same, as in training, the move
    is a single rename. Where it changes, a process that is killed or interrupted between two
    renames leaves weights without a config.json, which do not load: weights never lie beside
    another model's config. Two processes must not save different configs into one folder at once.

    Raises OSError, with the file's name, for a file that cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = folder / "config.json", folder / "model.safetensors"
    for path in (config, weights):
        if path.is_dir():
            raise IsADirectoryError(f"{path}: a folder, expected a file or nothing")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        new_config, new_weights = Path(scratch, config.name), Path(scratch, weights.name)
        text = json.dumps(model.config.to_dict(), indent=2) + "\n"
        new_config.write_text(text, encoding="utf-8")
        try:
            save_file(to_hugging_face_tensors(model), new_weights, metadata={"format": "pt"})
        except SafetensorError as error:  # also for a full disk
            raise OSError(f"{weights}: cannot be written: {error}") from None
        new_weights.chmod(new_config.stat().st_mode)  # safetensors lets only the owner read
        if config.is_file() and config.read_bytes() == new_config.read_bytes():
            os.replace(new_weights, weights)
        else:
            _replace_both(new_config, config, new_weights, weights)


def _replace_both(new_config: Path, config: Path, new_weights: Path, weights: Path) -> None:
    """Take the old config away, move the weights, then move the config that belongs to them."""
    old_config = new_config.with_name("old-config.json")
    try:
        if config.exists():
            os.replace(config, old_config)
        os.replace(new_weights, weights)
    finally:
        belonging = old_config if new_weights.exists() else new_config
        if belonging.exists():
            os.replace(belonging, config)
