"""Repositories by name: what is requested from huggingface_hub, and the error if it fails."""

import fnmatch
import shutil

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from gpt2ref import load_checkpoint

TOKEN_IDS = torch.tensor([[15496, 995]])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Replace snapshot_download: copy from the folder `remote` to `local`, and record requests."""
    asked = []

    def snapshot_download(repository, *, allow_patterns):
        asked.append((repository, allow_patterns))
        for path in (tmp_path / "remote").iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, tmp_path / "local")
        return str(tmp_path / "local")

    (tmp_path / "local").mkdir()
    (tmp_path / "remote").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_only_safetensors_are_requested_if_there_are_any(hub, tmp_path, folder, model):
    shutil.copytree(folder, tmp_path / "remote", dirs_exist_ok=True)
    for other in (
        "pytorch_model.bin",
        "tf_model.h5",
        "rust_model.ot",
        "tokenizer.json",
        "README.md",
    ):
        (tmp_path / "remote" / other).touch()
    loaded = load_checkpoint("openai-community/gpt2")
    assert torch.equal(loaded(TOKEN_IDS), model(TOKEN_IDS))
    assert [repository for repository, _ in hub] == ["openai-community/gpt2"]
    assert names(tmp_path / "local") == {"config.json", "model.safetensors"}


@pytest.mark.usefixtures("hub")
def test_shards_come_with_their_index(tmp_path, hugging_face, model):
    hugging_face.save_pretrained(tmp_path / "remote", max_shard_size="50KB")
    (tmp_path / "remote" / "generation_config.json").unlink()
    assert torch.equal(load_checkpoint("someone/gpt2")(TOKEN_IDS), model(TOKEN_IDS))
    assert names(tmp_path / "local") == names(tmp_path / "remote")


@pytest.mark.usefixtures("reads_pickles")
def test_a_pickle_is_requested_if_there_are_no_safetensors(hub, tmp_path, folder, tensors, model):
    shutil.copy(folder / "config.json", tmp_path / "remote")
    torch.save(tensors, tmp_path / "remote" / "pytorch_model.bin")
    assert torch.equal(load_checkpoint("someone/gpt2")(TOKEN_IDS), model(TOKEN_IDS))
    assert [any(".bin" in pattern for pattern in patterns) for _, patterns in hub] == [False, True]


def test_a_repository_without_weights_is_refused_with_the_expected_files(hub, tmp_path):
    (tmp_path / "remote" / "config.json").touch()
    with pytest.raises(
        FileNotFoundError, match=r"expected one of model\.safetensors, .*pytorch_model\.bin"
    ):
        load_checkpoint("someone/data")
    assert len(hub) == 2


def test_a_folder_of_the_same_name_goes_before_the_hub(hub, tmp_path, folder, model):
    shutil.copytree(folder, tmp_path / "gpt2")
    assert torch.equal(load_checkpoint("gpt2")(TOKEN_IDS), model(TOKEN_IDS))
    assert hub == []


class HTTPLibraryError(Exception):
    """An error that is no OSError, as those of the HTTP library."""


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError, ConnectionError, TimeoutError, HTTPLibraryError]
)
def test_a_hub_that_does_not_answer_is_a_checkpoint_not_found(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error("offline")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(
        FileNotFoundError,
        match=r"^checkpoint 'openai-community/gpt2': no such file .* hub .*: offline",
    ):
        load_checkpoint("openai-community/gpt2")


@pytest.mark.parametrize("name", ["openai-community/gpt2", "-gpt2-", "a..b/c"])
def test_offline_the_hubs_own_refusal_is_a_checkpoint_not_found(tmp_path, monkeypatch, name):
    """huggingface_hub refuses the last two names itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        FileNotFoundError, match=f"^checkpoint '{name}': no such file or folder here"
    ):
        load_checkpoint(name)
