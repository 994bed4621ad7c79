"""A missing, damaged or foreign checkpoint is refused with the file and the reason."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gpt2ref import CheckpointError, load_checkpoint
from tests.shared.smallest import CONFIG, TENSORS, named


@pytest.fixture
def no_weights(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    return checkpoint


@pytest.mark.parametrize(
    "path", ["/no/such/folder", "./gpt2", "a/b/c", "../checkpoint", "what a name", ""]
)
def test_a_missing_path_is_named(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=named(path)):
        load_checkpoint(path)


def test_a_folder_without_weights_is_named_with_the_expected_files(no_weights):
    with pytest.raises(
        FileNotFoundError, match=named(no_weights, "model.safetensors", "pytorch_model.bin")
    ):
        load_checkpoint(no_weights)


def test_a_missing_config_is_named(checkpoint):
    (checkpoint / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=named(checkpoint / "config.json")):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "Expecting value"),
        (b"{'n_layer': 1}", "Expecting property name"),
        (b'{"n_layer": 1', "delimiter"),
        (b"\xff\xfe{\x00}\x00", "decode"),
        (b"[1, 2]", "expected a JSON object, found list"),
        (b"null", "expected a JSON object, found NoneType"),
        (b'{"model_type": "llama"}', "model_type='llama'"),
        (b'{"activation_function": "relu"}', "activation_function='relu'"),
        (b'{"n_layer": 0}', "n_layer=0"),
    ],
)
def test_a_config_that_is_not_a_gpt2s_is_refused_by_file_and_reason(checkpoint, text, reason):
    (checkpoint / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=named(checkpoint / "config.json", reason)):
        load_checkpoint(checkpoint)


def test_tensors_of_another_shape_than_the_configs_are_refused_by_file_and_name(checkpoint):
    (checkpoint / "config.json").write_text(
        json.dumps(CONFIG.to_dict() | {"n_layer": 2, "n_positions": 4})
    )
    with pytest.raises(
        CheckpointError,
        match=named(checkpoint / "model.safetensors", "missing: h.1.", "wpe.weight is [3, 4]"),
    ):
        load_checkpoint(checkpoint)


DAMAGES = {
    "header cut": lambda data: data[:20],
    "last byte cut": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "garbage": lambda data: b"\xa5" * len(data),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_safetensors_file_is_refused_by_name(checkpoint, damage):
    path = checkpoint / "model.safetensors"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(CheckpointError, match=named(path, "not a readable safetensors file")):
        load_checkpoint(checkpoint)


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pickle_is_refused_by_name(no_weights, damage, zipped):
    path = no_weights / "pytorch_model.bin"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(CheckpointError, match=named(path, "not a file of plain tensors")):
        load_checkpoint(no_weights)


class Opens:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize(
    "save",
    [
        torch.save,
        lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
        lambda value, path: path.write_bytes(pickle.dumps(value)),
    ],
    ids=["zip", "legacy", "plain pickle"],
)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_code_in_a_pickle_is_never_run(no_weights, tmp_path, save, name):
    path, marker = no_weights / name, tmp_path / "marker"
    save(TENSORS | {"wte.weight": Opens(marker)}, path)
    with pytest.raises(CheckpointError, match=named(path, "not a file of plain tensors")):
        load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize(
    "value",
    [
        [torch.ones(2)],
        torch.ones(2),
        {"state_dict": {"a": torch.ones(2)}},
        TENSORS | {"epoch": 3},
        {0: torch.ones(2)},
    ],
    ids=["list", "tensor", "nested", "number among them", "number for a name"],
)
def test_a_pickle_of_anything_but_named_tensors_is_refused_by_name(no_weights, value):
    path = no_weights / "pytorch_model.bin"
    torch.save(value, path)
    with pytest.raises(
        CheckpointError, match=named(path, "expected a dictionary of names and dense tensors")
    ):
        load_checkpoint(no_weights)


def test_a_pickle_is_not_read_by_a_torch_that_would_run_its_code(no_weights, monkeypatch):
    torch.save(TENSORS, no_weights / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu124")
    with pytest.raises(CheckpointError, match=named("pytorch_model.bin", "2.6", "2.5.1+cu124")):
        load_checkpoint(no_weights)


def write_index(folder, value):
    (folder / "model.safetensors.index.json").write_text(
        value if isinstance(value, str) else json.dumps(value)
    )


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "{tmp_path}/outside.safetensors",
        "sub/inside.safetensors",
        "..",
        ".",
        "",
        7,
        None,
    ],
)
def test_an_index_may_name_only_files_beside_it(no_weights, tmp_path, name):
    (no_weights / "sub").mkdir()
    for path in (tmp_path / "outside.safetensors", no_weights / "sub" / "inside.safetensors"):
        save_file(TENSORS, path)
    name = name.format(tmp_path=tmp_path) if isinstance(name, str) else name
    write_index(no_weights, {"weight_map": dict.fromkeys(TENSORS, name)})
    with pytest.raises(
        CheckpointError, match=named("model.safetensors.index.json", f"weight_map names {name!r}")
    ):
        load_checkpoint(no_weights)


def test_an_index_that_names_itself_is_refused(no_weights):
    write_index(no_weights, {"weight_map": dict.fromkeys(TENSORS, "model.safetensors.index.json")})
    with pytest.raises(
        CheckpointError, match=r"weight_map names 'model\.safetensors\.index\.json'"
    ):
        load_checkpoint(no_weights)


def test_a_missing_shard_is_named(no_weights):
    save_file(TENSORS, no_weights / "a.safetensors")
    write_index(
        no_weights,
        {"weight_map": dict.fromkeys(TENSORS, "a.safetensors") | {"ln_f.bias": "b.safetensors"}},
    )
    with pytest.raises(
        CheckpointError,
        match=named("model.safetensors.index.json", "'b.safetensors'", "not in the folder"),
    ):
        load_checkpoint(no_weights)


def test_a_damaged_shard_is_named(no_weights):
    save_file(TENSORS, no_weights / "a.safetensors")
    data = (no_weights / "a.safetensors").read_bytes()
    (no_weights / "a.safetensors").write_bytes(data[:-1])
    write_index(no_weights, {"weight_map": dict.fromkeys(TENSORS, "a.safetensors")})
    with pytest.raises(
        CheckpointError,
        match=named(no_weights / "a.safetensors", "not a readable safetensors file"),
    ):
        load_checkpoint(no_weights)


def test_a_tensor_in_two_shards_is_named(no_weights):
    save_file(TENSORS, no_weights / "a.safetensors")
    save_file({"ln_f.bias": torch.zeros(4)}, no_weights / "b.safetensors")
    write_index(
        no_weights,
        {"weight_map": dict.fromkeys(TENSORS, "a.safetensors") | {"ln_f.bias": "b.safetensors"}},
    )
    with pytest.raises(
        CheckpointError, match=named("b.safetensors: another shard has these too: ln_f.bias")
    ):
        load_checkpoint(no_weights)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "{",
        [],
        {},
        {"weight_map": None},
        {"weight_map": []},
        {"weight_map": {"a": ["b"]}},
        {"weight_map": {"a": 1, "b": "c"}},
    ],
)
def test_an_index_without_a_weight_map_is_refused_by_name(no_weights, value):
    write_index(no_weights, value)
    with pytest.raises(CheckpointError, match=named("model.safetensors.index.json", "weight_map")):
        load_checkpoint(no_weights)


def test_an_empty_index_gives_no_tensors(no_weights):
    write_index(no_weights, {"weight_map": {}})
    with pytest.raises(
        CheckpointError, match=named("model.safetensors.index.json", "missing: h.0.")
    ):
        load_checkpoint(no_weights)


def test_a_shard_may_be_a_link_to_elsewhere(no_weights, tmp_path):
    """Every file in the hub's cache is such a link."""
    save_file(TENSORS, tmp_path / "blob")
    Path(no_weights / "a.safetensors").symlink_to(tmp_path / "blob")
    write_index(no_weights, {"weight_map": dict.fromkeys(TENSORS, "a.safetensors")})
    assert torch.equal(load_checkpoint(no_weights).transformer.wte.weight, TENSORS["wte.weight"])
