"""llm.c's checkpoints are read as its train_gpt2.py writes them."""

import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from conformance.checkpoints.tensors import trained_like
from gpt2ref import CheckpointError, GPT2Config, from_tensors, generate, load_checkpoint
from gpt2ref.conversion import TRANSPOSED
from tests.shared.changed_files import check_refused_or_loads
from tests.shared.smallest import named

CONFIG = GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_layer=3, n_head=2)
TENSORS = trained_like(CONFIG, seed=0)
DTYPES = {3: torch.float32, 5: torch.bfloat16}
# The order of `write_tensors` in train_gpt2.py.
ORDER = [
    "ln_1.weight",
    "ln_1.bias",
    "attn.c_attn.weight",
    "attn.c_attn.bias",
    "attn.c_proj.weight",
    "attn.c_proj.bias",
    "ln_2.weight",
    "ln_2.bias",
    "mlp.c_fc.weight",
    "mlp.c_fc.bias",
    "mlp.c_proj.weight",
    "mlp.c_proj.bias",
]


def write(path, tensors, config, version=3, padded=None, **changed):
    """Write the file of `write_model`; `changed` overwrites numbers of the header by position."""
    padded = padded or -(-config.vocab_size // 128) * 128
    header = [0] * 256
    header[:4] = [20240326, version, config.n_positions, config.vocab_size]
    header[4:8] = [config.n_layer, config.n_head, config.n_embd, padded]
    for position, number in changed.items():
        header[int(position.lstrip("_"))] = number
    rows = torch.full((padded - config.vocab_size, config.n_embd), 99.0)
    linear = {name.partition("{layer}.")[2] for name in TRANSPOSED}
    parts = [tensors["wte.weight"], rows, tensors["wpe.weight"]]
    for name in ORDER:
        layers = [tensors[f"h.{layer}.{name}"] for layer in range(config.n_layer)]
        parts += [matrix.t() if name in linear else matrix for matrix in layers]
    parts += [tensors["ln_f.weight"], tensors["ln_f.bias"]]
    numbers = torch.cat([part.flatten() for part in parts]).to(DTYPES.get(version, torch.float32))
    data = numbers.view(torch.uint8).numpy().tobytes()
    path.write_bytes(struct.pack("<256i", *header) + data)
    return path


@pytest.mark.parametrize("version", DTYPES)
@pytest.mark.parametrize("name", ["gpt2_124M.bin", "pytorch_model.bin", "any.safetensors", "w"])
def test_both_versions_are_read_under_any_name(tmp_path, version, name):
    loaded = load_checkpoint(write(tmp_path / name, TENSORS, CONFIG, version))
    expected = from_tensors(TENSORS, CONFIG, dtype=DTYPES[version])
    assert loaded.config == CONFIG
    state = loaded.state_dict()
    for key, tensor in expected.state_dict().items():
        assert state[key].dtype == DTYPES[version]
        assert torch.equal(state[key], tensor), key


@pytest.mark.parametrize("padded", [7, 8, 100])
def test_the_vocabularys_padding_is_cut_off(tmp_path, padded):
    loaded = load_checkpoint(write(tmp_path / "w.bin", TENSORS, CONFIG, padded=padded))
    token_ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        logits = loaded(token_ids)
        assert_close(logits, from_tensors(TENSORS, CONFIG)(token_ids))
    assert logits.shape == (1, 3, 7)


def test_it_generates_text(tmp_path, config, tensors, model):
    path = write(tmp_path / "w.bin", tensors, config)
    text = generate("The dog", path, max_new_tokens=8, seed=1, device="cpu")
    assert text == generate("The dog", model, max_new_tokens=8, seed=1)


def test_the_weights_are_the_mapped_file(tmp_path):
    path = write(tmp_path / "w.bin", TENSORS, CONFIG)
    before = path.read_bytes()
    loaded = load_checkpoint(path)
    storages = {each.untyped_storage().data_ptr() for each in loaded.parameters()}
    assert len(storages) == 1
    loaded.transformer.wte.weight.zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"_1": 1}, "version 1, expected 3 (float32) or 5 (bfloat16)"),
        ({"_1": 4}, "version 4"),
        ({"_2": 0}, "n_positions=0"),
        ({"_3": -7}, "vocab_size=-7"),
        ({"_4": 2**31 - 1}, "n_layer=2147483647"),
        ({"_4": 2**24}, "bytes, expected"),
        ({"_5": 3}, "n_head=3"),
        ({"_6": 8}, "bytes, expected"),
        ({"_7": 6}, "padded_vocab_size=6, expected at least 7"),
        ({"_7": 2**31 - 1}, "bytes, expected"),
    ],
)
def test_a_false_header_is_refused_by_file_and_reason(tmp_path, changed, reason):
    path = write(tmp_path / "w.bin", TENSORS, CONFIG, **changed)
    with pytest.raises(CheckpointError, match=named(path, "llm.c", reason)):
        load_checkpoint(path)


def test_a_file_cut_anywhere_or_with_more_is_refused(tmp_path):
    path = write(tmp_path / "w.bin", TENSORS, CONFIG)
    data = path.read_bytes()
    for length in [4, 100, 1023, 1024, 1025, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=named(path, "llm.c", f"{length} bytes")):
            load_checkpoint(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(CheckpointError, match=named(path, "llm.c", f"{len(data) + 1} bytes")):
        load_checkpoint(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.integers(0, 40) | st.integers(0, 2**20),
    new=st.binary(max_size=6),
    old=st.integers(0, 6),
)
def test_a_file_changed_anywhere_is_refused_by_name_or_loads(tmp_path_factory, place, new, old):
    path = write(tmp_path_factory.getbasetemp() / "changed.bin", TENSORS, CONFIG)
    check_refused_or_loads(path, place, new, old)
