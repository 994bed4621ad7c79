"""Download the published sizes, or any repository of the Hugging Face hub, into the hub's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..conversion import CheckpointError

# Name -> repository and commit: a name stands for the same bytes for ever.
PUBLISHED: dict[str, tuple[str, str]] = {
    "gpt2": ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
    "gpt2-medium": ("openai-community/gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"),
    "gpt2-large": ("openai-community/gpt2-large", "32b71b12589c2f8d625668d2335a01cac3249519"),
    "gpt2-xl": ("openai-community/gpt2-xl", "15ea56dee5df4983c59b2538573817e1667135e2"),
    "distilgpt2": ("distilbert/distilgpt2", "2290a62682d06624634c1f46a6ad5be0f47f38aa"),
}
_FILES = ("config.json", "model.safetensors")


def download(name: str, weight_files: Sequence[str]) -> Path:
    """Return the folder, in the hub's cache, of a published size or of a repository.

    A published size is one commit, and each file is compared with the hash that the hub announces
    when it is downloaded. Of another repository the newest commit is downloaded: its config.json
    and safetensors, or its .bin files if no safetensors are among the `weight_files`.

    Raises FileNotFoundError if it is neither in the cache nor to be had from the hub, and
    CheckpointError, with the file's name, if its hash is wrong.
    """
    try:
        return _published(name) if name in PUBLISHED else _newest(name, weight_files)
    except CheckpointError:
        raise
    except Exception as error:  # the HTTP library's errors, too: which one depends on the version
        nothing = f"checkpoint {name!r}: no such file or folder here"
        reason = f"{nothing}, and the Hugging Face hub did not give it: {error}"
        if name in PUBLISHED:
            needed = f"{' and '.join(_FILES)} of {PUBLISHED[name][0]}"
            reason += f"\n{name} is {needed}: connect to the hub once, or give a folder with them"
        raise FileNotFoundError(reason) from error


def _newest(repository: str, weight_files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    for names in (("model*.safetensors", "model.safetensors.index.json"), ("pytorch_model*.bin*",)):
        folder = Path(snapshot_download(repository, allow_patterns=["config.json", *names]))
        if any((folder / name).is_file() for name in weight_files):
            break
    return folder


def _published(name: str) -> Path:
    from huggingface_hub import try_to_load_from_cache

    repository, revision = PUBLISHED[name]
    # The hub answers to the bare name, too: transformers may have cached the commit under it.
    for known in (repository, name):
        cached = [try_to_load_from_cache(known, file, revision=revision) for file in _FILES]
        if all(isinstance(path, str) for path in cached):
            return Path(str(cached[0])).parent
    for file in _FILES:
        path = _checked(repository, revision, file)
    return path.parent


def _checked(repository: str, revision: str, file: str) -> Path:
    """Return a file's path in the cache. Download it and check its hash if it is not there."""
    from huggingface_hub import (
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )

    if isinstance(cached := try_to_load_from_cache(repository, file, revision=revision), str):
        return Path(cached)
    announced = get_hf_file_metadata(hf_hub_url(repository, file, revision=revision)).etag or ""
    path = Path(hf_hub_download(repository, file, revision=revision))
    try:
        if problem := _difference(path, announced):
            path.resolve().unlink(missing_ok=True)  # the blob: the next try downloads it again
            raise CheckpointError(f"{repository}/{file}: {problem}: discarded, please try again")
    except BaseException:  # ctrl-C, too: what was not checked to its end must not count as cached
        path.unlink(missing_ok=True)
        raise
    return path


def _difference(path: Path, etag: str) -> str:
    """Compare a file with its hash, which is its ETag: SHA-256, or SHA-1 for a git blob.

    A mirror may have an ETag of its own, which says nothing.
    """
    if len(etag) not in (40, 64):
        return ""
    size = path.stat().st_size
    git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    digest = hashlib.sha256() if len(etag) == 64 else git
    with path.open("rb") as data:
        while chunk := data.read(1 << 20):
            digest.update(chunk)
    found = digest.hexdigest()
    return "" if found == etag else f"expected {digest.name} {etag}, found {found}"
