"""Fetch the published sizes by name, or any repository of the Hugging Face hub, into the hub's cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from ..conversion import CheckpointError

# Name -> repository and commit, so that what a name stands for can't change.
PUBLISHED: dict[str, tuple[str, str]] = {
    "gpt2": ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
    "gpt2-medium": ("openai-community/gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"),
    "gpt2-large": ("openai-community/gpt2-large", "32b71b12589c2f8d625668d2335a01cac3249519"),
    "gpt2-xl": ("openai-community/gpt2-xl", "15ea56dee5df4983c59b2538573817e1667135e2"),
    "distilgpt2": ("distilbert/distilgpt2", "2290a62682d06624634c1f46a6ad5be0f47f38aa"),
}
_FILES = ("config.json", "model.safetensors")


def download(name: str, weight_files: Sequence[str]) -> Path:
    """The folder, in the hub's cache, of a published size or of a repository, with its config.json and its weights.

    What is missing of a published size is fetched, from where an interrupted download stopped. A file is put in the folder
    when it is whole and has the hub's hash. Of other repositories the newest commit is fetched by huggingface_hub:
    safetensors, or .bin if no safetensors are among the `weight_files`.

    Raises FileNotFoundError if it is neither in the cache nor to be had from the hub, and CheckpointError, with the file's
    name, if what came is not what the hub announced.
    """
    try:
        return _published(name) if name in PUBLISHED else _newest(name, weight_files)
    except CheckpointError:
        raise
    except Exception as error:  # those of the HTTP library too, which is not the same in all versions of huggingface_hub
        reason = f"checkpoint {name!r}: no such file or folder here, and the Hugging Face hub did not give it: {error}"
        if name in PUBLISHED:
            needed = f"{' and '.join(_FILES)} of {PUBLISHED[name][0]}"
            reason += f"\n{name} is {needed}: connect to the hub once (what has arrived is kept), or give a folder with them"
        raise FileNotFoundError(reason) from error


def _newest(repository: str, weight_files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    for names in (("model*.safetensors", "model.safetensors.index.json"), ("pytorch_model*.bin*",)):
        folder = Path(snapshot_download(repository, allow_patterns=["config.json", *names]))
        if any((folder / name).is_file() for name in weight_files):
            break
    return folder


def _published(name: str) -> Path:
    from huggingface_hub import constants

    repository, revision = PUBLISHED[name]
    # The hub still answers to the bare name, under which transformers may have cached the same commit.
    caches = [
        Path(constants.HF_HUB_CACHE) / f"models--{known.replace('/', '--')}"
        for known in (repository, name)
    ]
    folders = [cache / "snapshots" / revision for cache in caches]
    for folder in folders:
        if all((folder / file).is_file() for file in _FILES):
            return folder
    for file in _FILES:
        _fetch(
            repository,
            revision,
            file,
            folders[0] / file,
            caches[0] / "blobs" / f"{revision}.{file}.incomplete",
        )
    return folders[0]


def _fetch(repository: str, revision: str, file: str, target: Path, partial: Path) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined] # not said to be exported

    partial.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(partial.with_suffix(".lock")):
        if target.is_file():
            return
        url = hf_hub_url(repository, file, revision=revision)
        said = get_hf_file_metadata(url)
        if said.commit_hash != revision or said.size is None or not said.etag:
            raise OSError(
                f"{url}: expected commit {revision}, a size and an ETag in the answer's headers, found {said}"
            )
        with partial.open("ab") as data:
            if (arrived := data.tell()) < said.size:
                headers = build_hf_headers() | {
                    "Accept-Encoding": "identity"
                }  # compressed, it could not be resumed
                http_get(url, data, resume_size=arrived, headers=headers, displayed_filename=file)
        if problem := _difference(partial, said.size, said.etag):
            partial.unlink()
            raise CheckpointError(
                f"{repository}/{file}: {problem}: discarded, the next try starts afresh"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, target)


def _difference(path: Path, size: int, etag: str) -> str:
    """What is wrong with the file: its size, or its hash, which the hub gives as ETag (SHA-256, or a git blob's SHA-1)."""
    if (found := path.stat().st_size) != size:
        return f"expected {size} bytes, found {found}"
    digest = (
        hashlib.sha256()
        if len(etag) == 64
        else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    )
    with path.open("rb") as data:
        while chunk := data.read(1 << 20):
            digest.update(chunk)
    known = len(etag) in (40, 64)  # a mirror may have an ETag of its own
    return (
        f"expected {digest.name} {etag}, found {digest.hexdigest()}"
        if known and digest.hexdigest() != etag
        else ""
    )
