import copy
import json
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import GPT2LMHeadModel

from conformance.checkpoints.tensors import trained_like, write_checkpoint
from gpt2ref import GPT2, PUBLISHED_CONFIGS, GPT2Config, from_hugging_face, load_checkpoint
from gpt2ref.checkpoint.hugging_face import WEIGHT_FILES
from gpt2ref.conversion import to_hugging_face_tensors

TOKEN_IDS = torch.tensor([[15496, 995, 0, 50256, 198], [3, 1, 4, 1, 5]])


def write_shards(folder, tensors, suffix, save):
    """Write two shards and their index. `suffix`: model.safetensors or pytorch_model.bin."""
    stem, extension = suffix.rsplit(".", 1)
    names = [f"{stem}-0000{i}-of-00002.{extension}" for i in (1, 2)]
    keys = sorted(tensors)
    weight_map = {key: names[number % 2] for number, key in enumerate(keys)}
    for name in names:
        save({key: tensors[key] for key in keys if weight_map[key] == name}, folder / name)
    (folder / f"{suffix}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def save_legacy(tensors, path):
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


@pytest.fixture
def only_config(tmp_path, folder):
    shutil.copy(folder / "config.json", tmp_path)
    return tmp_path


def equal(model, other):
    state = other.state_dict()
    assert model.config == other.config
    assert model.state_dict().keys() == state.keys()
    return all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


def test_a_folder_a_file_in_it_and_a_string_are_the_same_checkpoint(folder, model):
    assert equal(load_checkpoint(str(folder)), model)
    assert equal(load_checkpoint(folder / "model.safetensors"), model)
    assert equal(load_checkpoint(str(folder / "model.safetensors")), model)


def test_a_weights_file_may_have_any_name(only_config, folder, model):
    shutil.copy(folder / "model.safetensors", only_config / "step-100.safetensors")
    assert equal(load_checkpoint(only_config / "step-100.safetensors"), model)


def test_safetensors_in_shards(only_config, hugging_face, model):
    hugging_face.save_pretrained(only_config, max_shard_size="50KB")
    assert len(list(only_config.glob("model-*.safetensors"))) > 1
    assert equal(load_checkpoint(only_config), model)
    assert equal(load_checkpoint(only_config / "model.safetensors.index.json"), model)


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize("save", [torch.save, save_legacy])
def test_a_pickled_checkpoint_new_or_from_before_torch_1_6(only_config, tensors, model, save):
    save(tensors, only_config / "pytorch_model.bin")
    assert equal(load_checkpoint(only_config), model)
    assert equal(load_checkpoint(only_config / "pytorch_model.bin"), model)


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize("save", [torch.save, save_legacy])
def test_pickled_shards(only_config, tensors, model, save):
    write_shards(only_config, tensors, "pytorch_model.bin", save)
    assert equal(load_checkpoint(only_config), model)


def test_safetensors_are_preferred_over_pickles_and_whole_files_over_shards(tmp_path):
    config = GPT2Config(vocab_size=5, n_positions=3, n_embd=4, n_layer=1, n_head=2)
    first, *others = [trained_like(config, seed) for seed in range(4)]
    write_checkpoint(tmp_path, config, first)
    # These shards are pickles under the names of safetensors, which would not load.
    write_shards(
        tmp_path, others[0], "model.safetensors", lambda part, path: torch.save(part, path)
    )
    torch.save(others[1], tmp_path / "pytorch_model.bin")
    write_shards(tmp_path, others[2], "pytorch_model.bin", torch.save)
    assert all((tmp_path / name).is_file() for name in WEIGHT_FILES)
    assert torch.equal(load_checkpoint(tmp_path).transformer.wpe.weight, first["wpe.weight"])


def test_the_logits_are_those_of_transformers(model, hugging_face, folder):
    with torch.no_grad():
        assert_close(model(TOKEN_IDS), hugging_face(TOKEN_IDS).logits, rtol=0, atol=2e-5)
        theirs = copy.deepcopy(hugging_face).double()(TOKEN_IDS).logits
    assert_close(
        load_checkpoint(folder, dtype=torch.float64)(TOKEN_IDS), theirs, rtol=0, atol=1e-11
    )


def test_what_transformers_saves_is_loaded(hugging_face, model, tmp_path):
    hugging_face.save_pretrained(tmp_path)
    assert equal(load_checkpoint(tmp_path), model)
    hugging_face.transformer.save_pretrained(tmp_path / "without head and prefix")
    assert equal(load_checkpoint(tmp_path / "without head and prefix"), model)


def test_a_model_for_inference_takes_no_gradients(model):
    assert not model.training
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_dtype_is_the_files_unless_another_is_requested(tmp_path, tensors, config, model):
    write_checkpoint(tmp_path, config, {key: tensor.bfloat16() for key, tensor in tensors.items()})
    assert {parameter.dtype for parameter in load_checkpoint(tmp_path).parameters()} == {
        torch.bfloat16
    }
    assert {
        parameter.dtype for parameter in load_checkpoint(tmp_path, dtype=torch.float64).parameters()
    } == {torch.float64}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_weights_go_to_the_device(folder, model):
    elsewhere = load_checkpoint(folder, device="meta", dtype=torch.float16)
    assert {(parameter.device.type, parameter.dtype) for parameter in elsewhere.parameters()} == {
        ("meta", torch.float16)
    }
    assert model.device == torch.device("cpu")


def test_a_live_model_of_transformers_shares_its_weights(hugging_face, model):
    ours = from_hugging_face(hugging_face)
    assert equal(ours, model)
    theirs = hugging_face.state_dict()
    back = to_hugging_face_tensors(ours)
    assert back.keys() == theirs.keys() - {"lm_head.weight"}
    assert all(tensor.data_ptr() == theirs[key].data_ptr() for key, tensor in back.items())
    with torch.no_grad():
        assert_close(ours(TOKEN_IDS), hugging_face(TOKEN_IDS).logits, rtol=0, atol=2e-5)


def test_sharing_leaves_the_live_models_gradients_and_mode_alone(hugging_face):
    live = GPT2LMHeadModel(hugging_face.config).train()
    ours = from_hugging_face(live)
    assert not ours.training
    assert live.training
    assert all(parameter.requires_grad for parameter in live.parameters())
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_changing_loaded_weights_does_not_change_the_file(folder):
    before = (folder / "model.safetensors").read_bytes()
    changed = load_checkpoint(folder)
    changed.transformer.wte.weight.zero_()
    assert (folder / "model.safetensors").read_bytes() == before
    assert load_checkpoint(folder).transformer.wte.weight.any()


def test_loading_imports_no_sympy(folder):
    """torch imports it, in a second, when initial weights are drawn on the meta device."""
    code = (
        "import sys, gpt2ref; gpt2ref.load_checkpoint(sys.argv[1]); print('sympy' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"


def write_empty_xl(folder):
    """Write gpt2-xl's 6.2 GB of zeros as a hole in a file, which takes no room on the disk."""
    config = PUBLISHED_CONFIGS["gpt2-xl"]
    with torch.device("meta"):
        shapes = {
            key: tensor.shape for key, tensor in to_hugging_face_tensors(GPT2(config)).items()
        }
    header, end = {}, 0
    for key, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return end


ANONYMOUS = """
import re, sys
from pathlib import Path
from gpt2ref import load_checkpoint
def anonymous():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
load_checkpoint(sys.argv[1])  # the first load imports modules of torch: do not count them
before = anonymous()
model = load_checkpoint(sys.argv[2])
print(anonymous() - before, model.transformer.h[47].mlp.c_proj.weight[0, 0].item())
"""

if sys.platform == "linux":  # other systems do not count the file's pages apart

    def test_loading_the_largest_published_size_takes_a_hundredth_of_its_memory(folder):
        # On a disk, reading ahead would fill the hole with gigabytes.
        with tempfile.TemporaryDirectory(dir="/dev/shm") as hollow:
            size = write_empty_xl(Path(hollow))
            assert size == 4 * 1557611200
            command = [sys.executable, "-c", ANONYMOUS, str(folder), hollow]
            grown, weight = subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.split()
        assert int(grown) < size / 100
        assert float(weight) == 0
