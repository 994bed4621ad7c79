"""Weights are found among the other things that training code saves with them."""

import argparse
import collections
import dataclasses
import json
import logging
import re
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from conformance.checkpoints.tensors import write_checkpoint
from gpt2ref import CheckpointError, from_tensors, load_checkpoint
from gpt2ref.conversion import TRANSPOSED
from tests.shared.smallest import CONFIG, TENSORS, named, same, state

pytestmark = pytest.mark.usefixtures("reads_pickles")

EXPECTED = state(from_tensors(TENSORS, CONFIG))
ADVICE = re.compile("weights_only|\x1b|https?://|pickle.load|trust|file an issue|add_safe_globals")
MODEL_ARGS = {"vocab_size": 5, "block_size": 3, "n_embd": 4, "n_layer": 1, "n_head": 2}
OPTIMIZER = {
    "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4, 12)}},
    "param_groups": [{"lr": 0.1, "params": [0]}],
}
# The same matrices as nn.Linear stores them.
LINEAR = {
    key: tensor.t() if key.replace("h.0.", "h.{layer}.") in TRANSPOSED else tensor
    for key, tensor in TENSORS.items()
}


def wrapped(prefix):
    return {prefix + key: tensor for key, tensor in TENSORS.items()}


NESTED: dict[str, Any] = {
    "LLMs-from-scratch": {"model_state_dict": TENSORS, "optimizer_state_dict": OPTIMIZER},
    "Lightning": {
        "epoch": 1,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": wrapped("model.") | {"model.lm_head.weight": TENSORS["wte.weight"]},
        "optimizer_states": [OPTIMIZER],
        "hyper_parameters": {"lr": 0.1},
        "loops": {"fit_loop": {"state_dict": {}}},
    },
    "DeepSpeed": {"module": wrapped("module."), "optimizer": OPTIMIZER, "dp_world_size": 2},
    "model": {"model": wrapped("_orig_mod."), "step": 5},
    "two levels": {"checkpoint": {"state": {"net": TENSORS}, "epoch": 2}},
    "Parameters": {"state_dict": collections.OrderedDict(TENSORS), "optimizer": None},
}


@pytest.mark.parametrize("name", ["model_and_optimizer.pth", "last.ckpt", "pytorch_model.bin"])
@pytest.mark.parametrize("kind", NESTED)
def test_the_only_dictionary_of_a_gpt2s_tensors_is_used(checkpoint, kind, name):
    torch.save(NESTED[kind], checkpoint / name)
    assert same(load_checkpoint(checkpoint / name), EXPECTED)


@pytest.mark.parametrize("linear", [False, True])
def test_a_nested_dictionary_may_have_either_layout(checkpoint, linear):
    for name in ("a.pt", "pytorch_model.bin"):
        torch.save({"model": LINEAR if linear else TENSORS}, checkpoint / name)
        assert same(load_checkpoint(checkpoint / name), EXPECTED)


def test_several_dictionaries_are_named(checkpoint):
    saved = {"model": TENSORS, "ema": {"shadow": TENSORS | {}}, "optimizer": OPTIMIZER}
    torch.save(saved, checkpoint / "a.pt")
    with pytest.raises(CheckpointError, match=named(checkpoint / "a.pt", "model, ema.shadow")):
        load_checkpoint(checkpoint / "a.pt")


def test_a_dictionary_without_a_gpt2s_tensors_is_refused_by_its_keys(checkpoint):
    torch.save({"optimizer": OPTIMIZER, "step": 3}, checkpoint / "a.pt")
    with pytest.raises(CheckpointError, match=named("a.pt", "found something else at optimizer")):
        load_checkpoint(checkpoint / "a.pt")
    torch.save({"model": TENSORS | {"epoch": 3}}, checkpoint / "a.pt")
    with pytest.raises(
        CheckpointError, match=named("a.pt: model", "found something else at epoch")
    ):
        load_checkpoint(checkpoint / "a.pt")


def test_dictionaries_that_hold_themselves_end(checkpoint):
    endless: dict[str, Any] = {f"key {i}": {} for i in range(50)}
    for value in list(endless.values()):
        value.update(endless, again=endless)
    torch.save(endless, checkpoint / "a.pt")
    with pytest.raises(CheckpointError, match=named(checkpoint / "a.pt", "found something else")):
        load_checkpoint(checkpoint / "a.pt")


def test_a_folder_with_only_nanogpts_file_loads(tmp_path):
    saved = {"model": LINEAR, "optimizer": OPTIMIZER, "model_args": MODEL_ARGS, "iter_num": 1}
    torch.save(saved, tmp_path / "ckpt.pt")
    assert same(load_checkpoint(tmp_path), EXPECTED)


@pytest.mark.parametrize("key", ["model_args", "config"])
@pytest.mark.parametrize("fields", [MODEL_ARGS, CONFIG.to_dict()], ids=["nanoGPT", "Hugging Face"])
def test_a_shape_that_is_saved_with_the_tensors_is_used(tmp_path, key, fields):
    torch.save({"model": LINEAR, key: fields}, tmp_path / "a.pt")
    assert same(load_checkpoint(tmp_path / "a.pt"), EXPECTED)


@dataclasses.dataclass
class GPTConfig:
    block_size: int = 3
    vocab_size: int = 5
    n_layer: int = 1
    n_head: int = 2
    n_embd: int = 4


CLASSES = {
    "a dataclass": (GPTConfig(), "test_nested_checkpoints.GPTConfig"),
    "a namespace": (argparse.Namespace(lr=1), "argparse.Namespace"),
    "a module": (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "an array": (np.ones(3), "numpy"),
    "a number of numpy": (np.float64(3), "numpy"),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_in_a_pickle_is_named_with_the_plain_way_to_save(tmp_path, kind, zipped):
    value, name = CLASSES[kind]
    path = tmp_path / "model_00005.pt"
    saved = {"model": LINEAR, "config": value, "step": 5}
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=named(path, name, "torch.save({'model': model.state_dict()")
    ) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not ADVICE.search(str(error.value))


def test_build_nanogpts_file_saved_plainly_loads(tmp_path):
    saved = {"model": LINEAR, "model_args": dataclasses.asdict(GPTConfig()), "step": 5}
    torch.save(saved, tmp_path / "a.pt")
    assert same(load_checkpoint(tmp_path / "a.pt"), EXPECTED)


WEIGHTS = {key: tensor for key, tensor in LINEAR.items() if not key.endswith(".bias")}
ZEROS = {
    key: torch.zeros_like(tensor) if key.endswith(".bias") else tensor
    for key, tensor in TENSORS.items()
}


@pytest.mark.parametrize("prefix", ["", "_orig_mod.transformer.", "model."])
def test_a_model_trained_without_biases_has_zeros_and_says_so(tmp_path, caplog, prefix):
    expected = state(from_tensors(ZEROS, CONFIG))
    path, model = tmp_path / "ckpt.pt", {prefix + key: each for key, each in WEIGHTS.items()}
    torch.save({"model": model, "model_args": MODEL_ARGS | {"bias": False}}, path)
    assert same(load_checkpoint(path), expected)
    said = f"{path}: trained with bias=False: its 7 biases are zeros"
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(logging.WARNING, said)]


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_a_config_may_say_that_there_are_no_biases(checkpoint, save):
    (checkpoint / "config.json").write_text(json.dumps(CONFIG.to_dict() | {"bias": False}))
    path = checkpoint / "step-9.safetensors"
    save({key: tensor.contiguous() for key, tensor in WEIGHTS.items()}, path)
    assert same(load_checkpoint(path), state(from_tensors(ZEROS, CONFIG)))
    halves = {key: tensor.contiguous().half() for key, tensor in WEIGHTS.items()}
    save(halves, path)
    assert load_checkpoint(path).transformer.ln_f.bias.dtype == torch.float16


@pytest.mark.parametrize("said", [{}, {"bias": True}, {"bias": 0}, {"bias": None}])
def test_absent_biases_that_no_config_explains_are_refused_with_the_cause(tmp_path, said):
    torch.save({"model": WEIGHTS, "model_args": MODEL_ARGS | said}, tmp_path / "ckpt.pt")
    with pytest.raises(
        CheckpointError, match=named("ckpt.pt", "missing: all 7 biases", "bias=False")
    ):
        load_checkpoint(tmp_path)


def test_a_single_bias_that_is_absent_is_not_made_up(tmp_path):
    model = {key: tensor for key, tensor in LINEAR.items() if key != "ln_f.bias"}
    torch.save({"model": model, "model_args": MODEL_ARGS | {"bias": False}}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=named("ckpt.pt", "missing: ln_f.bias")):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("absent", ["lm_head.weight", "wte.weight"])
@pytest.mark.parametrize("prefix", ["", "transformer.", "module.transformer."])
def test_a_tie_that_the_config_denies_is_an_error_by_file_and_tensor(tmp_path, absent, prefix):
    both = {prefix + key: tensor for key, tensor in TENSORS.items()}
    both["lm_head.weight"] = TENSORS["wte.weight"].clone()
    folder = write_checkpoint(tmp_path / "untied", CONFIG, both, {"tie_word_embeddings": False})
    assert same(load_checkpoint(folder), EXPECTED)
    one = {key: tensor for key, tensor in both.items() if not key.endswith(absent)}
    write_checkpoint(folder, CONFIG, one, {"tie_word_embeddings": False})
    with pytest.raises(
        CheckpointError, match=named(folder, f"missing: {absent}", "tie_word_embeddings=False")
    ):
        load_checkpoint(folder)


def test_mlx_stores_matrices_as_linear_does(checkpoint):
    tensors = {f"model.{key}": tensor.contiguous() for key, tensor in LINEAR.items()}
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "mlx"})
    assert same(load_checkpoint(checkpoint), EXPECTED)
