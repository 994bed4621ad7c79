"""Read the file that has a model's shape: Hugging Face's config.json, OpenAI's hparams.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import GPT2Config
from ..conversion import CheckpointError

MOST_BYTES = 100_000_000  # of a JSON file, as many as safetensors lets a header have


def read_config(
    path: Path, names: Mapping[str, str] | None = None
) -> tuple[GPT2Config, dict[str, Any]]:
    """Read the shape, and all fields of the file.

    `names` maps the file's names of the fields to ours: see `renamed`.

    Raises FileNotFoundError if there is no such file, and CheckpointError, with the file's name,
    if it is not a GPT-2's.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a file with the model's shape beside its weights"
        )
    try:
        fields = read_json_object(path)
        return (renamed(fields, names) if names else GPT2Config.from_dict(fields)), fields
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> GPT2Config:
    """Make the shape of fields with other names. Raises ValueError for those that are missing."""
    if missing := names.keys() - fields.keys():
        raise ValueError(f"missing: {', '.join(sorted(missing))}")
    return GPT2Config(**{ours: fields[theirs] for theirs, ours in names.items()})


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError for other JSON or a file of more than MOST_BYTES."""
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{size} bytes, expected at most {MOST_BYTES}")
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value
