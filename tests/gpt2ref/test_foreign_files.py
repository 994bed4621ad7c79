"""Another tool's file is named in one sentence, whatever its name, with what to do."""

import io
import json
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from gpt2ref import CheckpointError, load_checkpoint
from tests.shared.smallest import TENSORS, named, same, state


def written(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"\x80\x02.")
    return buffer.getvalue()


# The first bytes of each format, and words of the sentence that must name it.
FOREIGN = {
    "gguf": (b"GGUF\3\0\0\0" + bytes(40), "a GGUF file of llama.cpp"),
    "ggml": (b"lmgg" + bytes(40), "GGML"),
    "ggjt": (b"tjgg\3\0\0\0" + bytes(40), "GGML"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "an HDF5 file"),
    "flax": (b"\x81\xabtransformer\x84\xa1h\x8c\xa10", "a msgpack file of Flax"),
    "flax, without head": (b"\x84\xa1h\x8c\xa10", "Flax"),
    "flax, train state": (b"\xde\x00\x10\xa6params\x81", "Flax"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:\xc4", "an ONNX model"),
    "onnx, without producer": (b"\x08\x08:\xc4\x12\n\x10", "an ONNX model"),
    "saved model": (b"\x08\x01\x12\xe4\x08\n", "SavedModel"),
    "npy": (written(lambda file: np.save(file, np.ones(3))), "NumPy"),
    "npz": (written(lambda file: np.savez(file, a=np.ones(3))), "MLX"),
    "keras": (zipped("config.json", "model.weights.h5", "metadata.json"), "Keras"),
    "zip": (zipped("gpt2/model.safetensors"), "a zip archive"),
    "torchscript": (zipped("m/constants.pkl", "m/data.pkl", "m/code/x.py"), "TorchScript"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git lfs pull"),
    "html": (b"<!DOCTYPE html>\n<html lang=en>", "a web page"),
    "html, later": (b"\n\n  <html><head>", "a web page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied', "a web page or an XML"),
    "json": (b'{"error": "not found"}', "a JSON text without weights"),
    "empty": (b"", "an empty file"),
    "zeros": (bytes(5000), "zeros"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "a gzip archive"),
    "tar": (b"model".ljust(257, b"\0") + b"ustar\x0000", "a tar archive"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
    "ctranslate2": (b"\6\0\0\0\x09\0GPT2Spec\0\7\0\0\0", "CTranslate2"),
    "llm.c's tokens": (b"\x88\xd8\x34\x01\1\0\0\0", "token ids for llm.c"),
    "list of checkpoints": (b'model_checkpoint_path: "model.ckpt"', "TensorFlow's list"),
}
NAMES = [
    "model.safetensors",
    "pytorch_model.bin",
    "model.pt",
    "model.pth",
    "model.ckpt",
    "weights.anything",
    "weights",
]
ADVICE = re.compile("weights_only|\x1b|https?://|pickle.load|trust|file an issue|add_safe_globals")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_named_whatever_its_name(tmp_path, kind, name):
    data, words = FOREIGN[kind]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(
        CheckpointError, match=named(f"{tmp_path / name}: this is ", words)
    ) as error:
        load_checkpoint(tmp_path / name)
    assert re.search(r"which is not read here: \w.*\w", str(error.value))
    assert "\n" not in str(error.value)
    assert not ADVICE.search(str(error.value))


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_with_a_published_name_is_named_for_its_folder(checkpoint, kind):
    data, words = FOREIGN[kind]
    (checkpoint / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=named(checkpoint / "model.safetensors", words)):
        load_checkpoint(checkpoint)
    (checkpoint / "part").write_bytes(data)
    (checkpoint / "model.safetensors").unlink()
    index = {"weight_map": {"wte.weight": "part"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=named(checkpoint / "part", words)):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.Q4_K_M.gguf", "gguf"),
        ("tf_model.h5", "hdf5"),
        ("flax_model.msgpack", "flax"),
        ("model.onnx", "onnx"),
        ("weights.npz", "npz"),
    ],
)
def test_a_folder_with_only_a_foreign_file_names_it(tmp_path, name, kind):
    (tmp_path / name).write_bytes(FOREIGN[kind][0])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("<html>")
    with pytest.raises(CheckpointError, match=named(tmp_path / name, FOREIGN[kind][1])):
        load_checkpoint(tmp_path)


def test_a_folder_with_weights_of_another_name_says_to_give_the_file(checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "step-100.safetensors")
    with pytest.raises(
        FileNotFoundError, match=named(checkpoint, "model.safetensors", "step-100.safetensors")
    ):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.usefixtures("reads_pickles")
def test_a_peft_folder_and_its_file_are_named(tmp_path, name):
    base = "base_model.model.transformer.h.0.attn.c_attn"
    lora = {f"{base}.lora_A.weight": torch.ones(2, 4), f"{base}.lora_B.weight": torch.ones(12, 2)}
    (save_file if name.endswith("safetensors") else torch.save)(lora, tmp_path / name)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(
            CheckpointError, match=named(path, "a PEFT adapter", "merge_and_unload")
        ):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.ckpt.data-00000-of-00001", "model.ckpt.index"),
        ("model.ckpt.meta", "model.ckpt.index"),
        ("__0_0.distcp", "dcp_to_torch_save"),
    ],
)
def test_a_part_of_a_checkpoint_is_named_with_what_to_give(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"\n\x05" + b"\x3f" * 100)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match=named(tmp_path / name, words)):
            load_checkpoint(path)


@pytest.mark.parametrize("name", ["weights.anything", "weights"])
def test_bytes_of_no_known_format_are_shown(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xa5" * 100)
    with pytest.raises(
        CheckpointError, match=named(tmp_path / name, "no known format", "a5 a5 a5", "safetensors")
    ):
        load_checkpoint(tmp_path / name)


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_known_format_is_read_under_any_name(checkpoint, kind, name):
    expected = state(load_checkpoint(checkpoint))
    if kind == "safetensors":
        save_file(TENSORS, checkpoint / name)
    else:
        torch.save(TENSORS, checkpoint / name, _use_new_zipfile_serialization=kind == "zip")
    assert same(load_checkpoint(checkpoint / name), expected)


@pytest.mark.usefixtures("reads_pickles")
def test_a_pickle_named_safetensors_is_read(checkpoint):
    expected = state(load_checkpoint(checkpoint))
    torch.save(TENSORS, checkpoint / "model.safetensors")
    assert same(load_checkpoint(checkpoint), expected)


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_that_torch_did_not_write_is_named(tmp_path, protocol):
    for value in (TENSORS, {"a": np.ones(3)}):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
        with pytest.raises(CheckpointError, match=named(tmp_path / "w.pkl", "torch.save")) as error:
            load_checkpoint(tmp_path / "w.pkl")
        assert not ADVICE.search(str(error.value))


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [4, 5])
def test_a_pickle_protocol_that_is_not_torchs_is_named(tmp_path, protocol, zipped):
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    torch.save(TENSORS, tmp_path / "w.pt", **options)
    with pytest.raises(CheckpointError, match=named("w.pt", f"it has pickle protocol {protocol}")):
        load_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize("name", NAMES)
def test_safetensors_that_are_cut_off_are_named_whatever_their_name(tmp_path, name):
    save_file(TENSORS, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for length in (100, len(data) - 1):
        (tmp_path / name).write_bytes(data[:length])
        words = ("not a readable safetensors file", "cut off, get it again")
        with pytest.raises(CheckpointError, match=named(tmp_path / name, *words)):
            load_checkpoint(tmp_path / name)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(FOREIGN)),
    name=st.sampled_from(NAMES),
    cut=st.integers(0, 60),
    more=st.binary(max_size=40),
)
@pytest.mark.usefixtures("reads_pickles")
def test_any_bytes_are_refused_by_the_files_name(tmp_path_factory, kind, name, cut, more):
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / name).write_bytes(FOREIGN[kind][0][:cut] + more)
    with pytest.raises(CheckpointError, match=re.escape(str(folder / name))) as error:
        load_checkpoint(folder / name)
    assert not ADVICE.search(str(error.value))
