import copy
import json
import shutil

import pytest
import torch
from torch.testing import assert_close
from transformers import GPT2LMHeadModel

from conformance.checkpoints.tensors import write_checkpoint
from gpt2ref import GPT2, GPT2Config, load_checkpoint, save_checkpoint
from gpt2ref.checkpoint import save as saving

TOKEN_IDS = torch.tensor([[15496, 995, 0, 50256, 198], [3, 1, 4, 1, 5]])


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def same_weights(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_what_is_saved_is_loaded(folder, tmp_path, dtype):
    model = load_checkpoint(folder, dtype=dtype)
    save_checkpoint(model, tmp_path / "new" / "folder")
    loaded = load_checkpoint(tmp_path / "new" / "folder")
    assert loaded.config == model.config
    assert loaded.dtype == dtype
    assert same_weights(loaded, model)


def test_exactly_two_files_are_written(model, tmp_path):
    save_checkpoint(model, str(tmp_path))
    assert contents(tmp_path).keys() == {"config.json", "model.safetensors"}
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_transformers_loads_every_saved_tensor(model, tmp_path):
    save_checkpoint(model, tmp_path)
    theirs, info = GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        assert_close(theirs.eval()(TOKEN_IDS).logits, model(TOKEN_IDS), rtol=0, atol=2e-5)


def test_a_model_made_directly_can_be_saved(tmp_path):
    model = GPT2(GPT2Config(vocab_size=5, n_positions=3, n_embd=4, n_layer=2, n_head=2, n_inner=3))
    save_checkpoint(model, tmp_path)
    assert same_weights(load_checkpoint(tmp_path), model)


def test_a_checkpoint_can_be_overwritten_by_the_model_that_is_mapped_from_it(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    model = load_checkpoint(tmp_path)
    model.transformer.wte.weight[15496] += 1
    expected = copy.deepcopy(model)
    save_checkpoint(model, tmp_path)
    assert same_weights(load_checkpoint(tmp_path), expected)
    assert same_weights(model, expected)  # which still reads the file that has been replaced


def no_space(*_, **__):
    raise OSError(28, "No space left on device")


def half_written(_, path, **__):
    path.write_bytes(b"half")
    no_space()


@pytest.mark.parametrize("fail", [no_space, half_written])
def test_a_full_disk_leaves_the_folder_as_it_was(model, tiny_folder, tmp_path, monkeypatch, fail):
    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    monkeypatch.setattr(saving, "save_file", fail)
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(model, tmp_path)
    assert contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_new_folder_that_could_not_be_filled_is_no_checkpoint(model, tmp_path, monkeypatch):
    monkeypatch.setattr(json, "dumps", no_space)
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(model, tmp_path)
    assert contents(tmp_path) == {}
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path)


def test_saved_weights_go_before_pickled_ones_that_were_there(model, tiny, tmp_path):
    config = tiny.config
    write_checkpoint(tmp_path, config, {})
    (tmp_path / "model.safetensors").unlink()
    torch.save({"wte.weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    save_checkpoint(model, tmp_path)
    assert same_weights(load_checkpoint(tmp_path), model)


def test_the_config_is_text_that_a_person_can_read(model, tmp_path):
    save_checkpoint(model, tmp_path)
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert json.loads(text)["n_embd"] == 24
