"""Hostile and damaged files are refused by name, at once, or give the model that was saved."""

import itertools
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from conformance.checkpoints.tensors import trained_like, write_checkpoint
from gpt2ref import CheckpointError, GPT2Config, load_checkpoint, sample
from gpt2ref.checkpoint import config_file
from tests.shared.changed_files import check_refused_or_loads
from tests.shared.smallest import CONFIG, TENSORS, named, same, state


def refused_or_same(path, expected):
    """Return whether the file is refused, by its name. If not, it must give the saved model."""
    try:
        model = load_checkpoint(path)
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017 - or no error
        return True
    assert same(model, expected)
    return False


def test_a_safetensors_file_cut_anywhere_is_refused(checkpoint):
    path = checkpoint / "model.safetensors"
    data, expected = path.read_bytes(), state(load_checkpoint(checkpoint))
    header = 8 + int.from_bytes(data[:8], "little")
    ends = {int(end) for end in re.findall(rb"data_offsets\":\[\d+,(\d+)", data[:header])}
    assert len(ends) == len(TENSORS)
    for length in [
        *range(0, header, 3),
        header,
        *sorted(header + end - 1 for end in ends),
        *sorted(header + end for end in ends)[:-1],
    ]:
        path.write_bytes(data[:length])
        assert refused_or_same(path, expected), length


def test_a_flipped_bit_in_a_safetensors_header_is_refused_or_changes_nothing(checkpoint):
    path = checkpoint / "model.safetensors"
    data, expected = path.read_bytes(), state(load_checkpoint(checkpoint))
    header = 8 + int.from_bytes(data[:8], "little")
    flips = [
        *itertools.product(range(8), range(8)),
        *((place, place % 7) for place in range(8, header)),
    ]
    refused = 0
    for place, bit in flips:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        refused += refused_or_same(path, expected)
    # Metadata and padding may be anything.
    assert refused > len(flips) - len('"format":"pt"' + "_" * 8)


LIES = {
    "a shape beyond the file": lambda header: header["wte.weight"].update(shape=[2**40, 4]),
    "a shape beyond any number": lambda header: header["wte.weight"].update(shape=[2**63, 2**63]),
    "a negative shape": lambda header: header["wte.weight"].update(shape=[-5, -4]),
    "another shape of the same size": lambda header: header["wte.weight"].update(shape=[4, 5]),
    "no shape": lambda header: header["wte.weight"].update(shape=[]),
    "data beyond the file": lambda header: header["wte.weight"].update(data_offsets=[0, 2**50]),
    "data that ends before it begins": lambda header: header["wte.weight"][
        "data_offsets"
    ].reverse(),
    "data of another tensor": lambda header: header["ln_f.bias"].update(
        data_offsets=header["ln_f.weight"]["data_offsets"]
    ),
    "another dtype of the same size": lambda header: header["wte.weight"].update(dtype="I32"),
    "an unknown dtype": lambda header: header["wte.weight"].update(dtype="F33"),
    "a tensor less": lambda header: header.pop("ln_f.bias"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_false_safetensors_header_is_refused_by_file(checkpoint, lie):
    path = checkpoint / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    LIES[lie](header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(CheckpointError, match=named(path)):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("length", [0, 1, 2**27, 2**40, 2**63, 2**64 - 1])
def test_a_false_header_length_is_refused_by_file(checkpoint, length):
    path = checkpoint / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match=named(path, "not a readable safetensors file")):
        load_checkpoint(checkpoint)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2**20), new=st.binary(max_size=6), old=st.integers(0, 6))
def test_a_bin_file_changed_anywhere_is_refused_by_name_or_loads(tmp_path_factory, place, new, old):
    folder = write_checkpoint(tmp_path_factory.getbasetemp() / "changed", CONFIG, {})
    for zipped in (True, False):
        path = folder / "pytorch_model.bin"
        torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
        check_refused_or_loads(path, place, new, old)


# JSON values of any size and kind. The tensors determine which are right.
sizes = st.sampled_from(["vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"])
values = (
    st.integers()
    | st.sampled_from([0, -1, 2**24, 2**31, 2**40, 2**63, 2**64, 10**400])
    | st.floats()
    | st.text(max_size=3)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        sizes, values | st.booleans() | st.none() | st.lists(st.integers(), max_size=2), min_size=1
    )
)
def test_a_config_that_contradicts_the_tensors_is_refused_by_file(tmp_path_factory, fields):
    folder = write_checkpoint(
        tmp_path_factory.getbasetemp() / "contradicted", CONFIG, TENSORS, fields
    )
    try:
        loaded = load_checkpoint(folder).config
    except CheckpointError as error:
        assert str(folder) in str(error)  # noqa: PT017 - or no error
    else:
        right = CONFIG.to_dict() | {"n_inner": (None, 16)}
        assert all(
            fields[name] in (right[name] if name == "n_inner" else (right[name],))
            for name in fields
            if name != "n_head"
        )
        assert loaded.n_embd % loaded.n_head == 0


@pytest.mark.parametrize("name", ["vocab_size", "n_positions", "n_embd", "n_layer", "n_inner"])
@pytest.mark.parametrize("value", [2**24, 2**24 + 2, 10**9, 2**40, 2**62, 2**70])
def test_a_huge_size_is_refused_before_a_model_is_made(checkpoint, name, value):
    """A model of that size would take all time and memory, or raise an error of torch."""
    (checkpoint / "config.json").write_text(json.dumps(CONFIG.to_dict() | {name: value}))
    with pytest.raises(CheckpointError, match=named(checkpoint)) as caught:
        load_checkpoint(checkpoint)
    assert (f"config.json: {name}={value}: expected" in str(caught.value)) == (value > 2**24)
    assert len(str(caught.value)) < 1_000_000


def test_a_single_shard_is_refused_by_its_missing_layers(checkpoint):
    config = GPT2Config(vocab_size=5, n_positions=3, n_embd=4, n_layer=40, n_head=2)
    last = {
        key: tensor
        for key, tensor in trained_like(config, seed=0).items()
        if key.startswith("h.39.")
    }
    write_checkpoint(checkpoint, config, last)
    with pytest.raises(CheckpointError, match=r"missing: h\.0\..*h\.38\.") as caught:
        load_checkpoint(checkpoint)
    assert "unexpected" not in str(caught.value)


def test_a_json_file_of_gigabytes_is_not_read(checkpoint):
    with (checkpoint / "config.json").open("ab") as file:
        file.truncate(2**40)
    with pytest.raises(
        CheckpointError,
        match=named(checkpoint / "config.json", 2**40, f"at most {config_file.MOST_BYTES}"),
    ):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 200_000, '{"n_embd": ' + "9" * 10_000 + "}"]
)
def test_endless_json_is_refused_by_file(checkpoint, text):
    for name in ("config.json", "model.safetensors.index.json"):
        (checkpoint / name).write_text(text)
        with pytest.raises(CheckpointError, match=named(checkpoint / name)):
            load_checkpoint(checkpoint / name if "index" in name else checkpoint)
        write_checkpoint(checkpoint, CONFIG, TENSORS)


WHERE_FILES_BELONG = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "a.safetensors",
)
STAND_INS = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "endless device": lambda path: os.symlink("/dev/zero", path),
    "link to itself": lambda path: os.symlink(path.name, path),
    "link to nothing": lambda path: os.symlink("nothing", path),
}

if sys.platform == "linux":

    @pytest.mark.parametrize("name", WHERE_FILES_BELONG)
    @pytest.mark.parametrize("kind", STAND_INS)
    def test_a_pipe_or_device_is_neither_waited_for_nor_read(checkpoint, name, kind):
        if name != "config.json":
            (checkpoint / "model.safetensors").unlink()
        if name == "a.safetensors":
            (checkpoint / "model.safetensors.index.json").write_text(
                '{"weight_map": {"x": "a.safetensors"}}'
            )
        (checkpoint / name).unlink(missing_ok=True)
        STAND_INS[kind](checkpoint / name)
        with pytest.raises((CheckpointError, FileNotFoundError), match=named(checkpoint)):
            load_checkpoint(checkpoint)
        if name != "config.json" and kind != "folder":
            with pytest.raises(FileNotFoundError, match=named(checkpoint / name)):
                load_checkpoint(checkpoint / name)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"],
)
@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), OSError(5, "Input/output error"), None],
    ids=repr,
)
def test_a_file_that_cannot_be_read_or_is_gone_when_it_is_opened_is_named(
    checkpoint, monkeypatch, name, error
):
    path = checkpoint / name
    if name.startswith("pytorch"):
        torch.save(TENSORS, path)
    elif "index" in name:
        path.write_text('{"weight_map": {}}')
    is_file = Path.is_file
    opens: Callable[..., Any]

    def unreadable(self):
        found = is_file(self)
        if self == path and error is None:
            path.unlink()
        return found

    def fails(opened, *rest, **others):
        if error is not None and os.fspath(opened) == str(path):
            raise type(error)(error.errno, error.strerror, str(path))
        return opens(opened, *rest, **others)

    monkeypatch.setattr(Path, "is_file", unreadable)
    if name == "model.safetensors":
        opens = safe_open
        monkeypatch.setattr("gpt2ref.checkpoint.hugging_face.safe_open", fails)
    elif name == "pytorch_model.bin":
        opens = torch.load
        monkeypatch.setattr(torch, "load", fails)
    else:
        opens = Path.read_text
        monkeypatch.setattr(Path, "read_text", lambda self, **options: fails(self, **options))
    with pytest.raises((CheckpointError, OSError), match=named(path)):
        load_checkpoint(path if name != "config.json" else checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", TENSORS)
def test_nan_or_infinity_in_a_weight_is_an_error_of_the_sampler(checkpoint, key, value):
    """Loading does not read the weights, so it does not find them; the sampler does."""
    tensors = {name: tensor.clone() for name, tensor in TENSORS.items()}
    tensors[key][(0,) * tensors[key].dim()] = value
    model = load_checkpoint(write_checkpoint(checkpoint, CONFIG, tensors))
    with pytest.raises(
        ValueError, match=r"^logits: the largest one is not a finite number in row\(s\) \[0\]"
    ):
        sample(model, [[0, 1]], max_new_tokens=1, temperature=0)
