"""OpenAI's TensorFlow files are loaded unchanged, or refused by the file's name."""

import json
import re
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.checkpoints.tensors import write_checkpoint
from gpt2ref import CheckpointError, from_tensors, load_checkpoint
from gpt2ref.checkpoint.tensorflow import _masked_crc32c, read
from tests.shared.openai_files import (
    CONFIG,
    DATA,
    HPARAMS,
    TENSORS,
    block,
    bundle,
    crc,
    entry,
    footer,
    message,
    number,
    sealed,
    table,
    theirs,
    varint,
    write,
)


@pytest.fixture
def openai(tmp_path):
    return write(tmp_path / "117M")


def refused(folder, *reasons):
    with pytest.raises(
        CheckpointError, match=r"(?s)model\.ckpt\.index: .*" + ".*".join(map(re.escape, reasons))
    ):
        load_checkpoint(folder)


def assert_same_model(model, tensors=TENSORS):
    state = from_tensors(tensors, CONFIG).state_dict()
    assert model.config == CONFIG
    assert model.state_dict().keys() == state.keys()
    for key, tensor in model.state_dict().items():
        assert tensor.dtype == state[key].dtype, key
        assert torch.equal(tensor, state[key]), key
        assert tensor.stride() == state[key].stride(), key


def test_the_checksum_is_crc32c():
    # The values are in RFC 3720.
    assert (
        _masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32
    )
    assert _masked_crc32c(bytes(32)) == crc(bytes(32))


def test_tensors_have_openais_names():
    assert theirs("h.10.mlp.c_fc.weight") == "model/h10/mlp/c_fc/w"
    assert [
        theirs(key)
        for key in ("wte.weight", "ln_f.weight", "h.0.ln_1.bias", "h.0.attn.c_proj.bias")
    ] == [
        "model/wte",
        "model/ln_f/g",
        "model/h0/ln_1/b",
        "model/h0/attn/c_proj/b",
    ]


def test_a_folder_or_its_index_is_the_same_model_as_hugging_faces(openai, tmp_path):
    for path in (openai, openai / "model.ckpt.index"):
        model = load_checkpoint(path)
        assert_same_model(model)
    token_ids = torch.tensor([[1, 6, 0, 2]])
    other = load_checkpoint(write_checkpoint(tmp_path / "theirs", CONFIG, TENSORS))
    assert torch.equal(model(token_ids), other(token_ids))


@pytest.mark.parametrize("per_block", [1, 2, 1000])
def test_an_index_of_one_block_or_many(tmp_path, per_block):
    assert_same_model(load_checkpoint(write(tmp_path / "117M", per_block=per_block)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_floating_point_types(tmp_path, dtype):
    tensors = {key: tensor.to(dtype) for key, tensor in TENSORS.items()}
    assert_same_model(load_checkpoint(write(tmp_path / "117M", tensors)), tensors)


def test_the_weights_are_the_mapped_file_and_writing_to_them_does_not_change_it(openai):
    _, tensors, _ = read(openai / "model.ckpt.index")
    model = load_checkpoint(openai)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == 1
    assert len({tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}) == 1
    before = (openai / DATA).read_bytes()
    model.transformer.wte.weight.fill_(7)
    assert (openai / DATA).read_bytes() == before


def test_several_data_files(tmp_path):
    folder = write(tmp_path / "117M", change=lambda entries: entries | {b"": number(1, 2)})
    (folder / DATA).rename(folder / "model.ckpt.data-00000-of-00002")
    assert_same_model(load_checkpoint(folder))


def test_hugging_faces_files_come_first(openai):
    write_checkpoint(openai, CONFIG, {key: tensor + 1 for key, tensor in TENSORS.items()})
    assert torch.equal(load_checkpoint(openai).transformer.wpe.weight, TENSORS["wpe.weight"] + 1)


def test_missing_hparams_are_named(openai):
    (openai / "hparams.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"hparams\.json"):
        load_checkpoint(openai)


@pytest.mark.parametrize(
    ("text", "reason"), [('{"n_vocab": 7}', "missing: n_ctx, n_embd"), ("[]", "object"), ("{", "")]
)
def test_bad_hparams_are_refused(openai, text, reason):
    (openai / "hparams.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"hparams\.json: .*{reason}"):
        load_checkpoint(openai)


def test_tensors_that_are_not_the_configs_are_named(openai, tmp_path):
    (openai / "hparams.json").write_text(json.dumps(HPARAMS | {"n_layer": 12, "n_ctx": 6}))
    refused_text = (
        r"(?s)model\.ckpt\.index:\nmissing: h\.11\.attn.*wpe\.weight is \[5, 4\], expected \[6, 4\]"
    )
    with pytest.raises(CheckpointError, match=refused_text):
        load_checkpoint(openai)
    step = {
        b"global_step": entry(1, (), 0, 0, 4),
        b"model/h00/ln_1/g": entry(1, (4,), 0, 0, 16),
        b"wte": entry(1, (4,), 0, 0, 16),
    }
    folder = write(tmp_path / "more", change=lambda entries: entries | step)
    with pytest.raises(CheckpointError, match=r"unexpected: global_step, model/h00/ln_1/g, wte$"):
        load_checkpoint(folder)


END = sum(t.nbytes for t in TENSORS.values())
KEY = b"model/wpe"
HUGE = 2**64 - 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (entry(3, (5, 4), 0, 0, 80), "model/wpe is of type 3"),
        (entry(0, (5, 4), 0, 0, 80), "model/wpe is of type 0"),
        (entry(1, (5, 4), 1, 0, 80), "in shard 1, expected"),
        (entry(1, (5, 4), HUGE, 0, 80), f"in shard {HUGE}, expected"),
        (
            entry(1, (5, 4), 0, END, 80),
            f"model/wpe: 80 bytes from {END} on, in a data file of {END}",
        ),
        (entry(1, (5, 4), 0, END - 76, 80), "80 bytes from"),
        (entry(1, (5, 4), 0, HUGE - 3, 80), "80 bytes from"),
        (entry(1, (5, 4), 0, 2, 80), "80 bytes from 2 on"),
        (entry(1, (5, 4), 0, 0, 76), "76 bytes, which is not torch.float32 [5, 4]"),
        (entry(1, (5, 5), 0, 0, 80), "80 bytes, which is not torch.float32 [5, 5]"),
        (entry(1, (2**40, 2**40), 0, 0, 80), "80 bytes, which is not"),
        (entry(1, (2**32, 2**32), 0, 0, 0), "0 bytes, which is not"),
        (entry(1, (HUGE, 4), 0, 0, 80), "80 bytes, which is not"),
        (entry(1, (0, 4), 0, 0, 0), "0 bytes, which is not"),
        (entry(1, (1,) * 9, 0, 0, 4), "4 bytes, which is not"),
        (entry(1, (2**62, *(1,) * 100000), 0, 0, 4), "4 bytes, which is not"),
        (entry(1, (5, 4), 0, 0, 80, message(7, b"")), "type 1, partitioned"),
        (entry(1, (5, 4), 0, 0, 80)[:-2], "4 bytes expected"),
        (b"\x80" * 11, "an integer of more than 10 bytes"),
        (b"\x08" + b"\xff" * 10, "an integer of more than 10 bytes"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "an integer of more than 10 bytes"),
        (b"\x12\x7f", "127 bytes expected"),
        (b"\x12" + varint(HUGE), f"{HUGE} bytes expected"),
        (b"\x0b", "a field of type 3"),
        (b"\x08", "cut off"),
        (b"", "model/wpe is of type 0"),
    ],
)
def test_a_false_entry_is_refused_by_file_and_name(tmp_path, value, reason):
    refused(write(tmp_path / "117M", change=lambda entries: entries | {KEY: value}), reason)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "of 0 shards"),
        (b"", "of 0 shards"),
        (number(1, 1) + number(2, 1), "big-endian"),
        (b"\x08", "cut off"),
    ],
)
def test_a_false_header_is_refused(tmp_path, header, reason):
    change = (
        (lambda e: e | {b"": header})
        if header is not None
        else (lambda e: {k: v for k, v in e.items() if k})
    )
    refused(write(tmp_path / "117M", change=change), reason)


def test_missing_empty_and_short_data_is_refused_by_name(openai):
    data = (openai / DATA).read_bytes()
    (openai / DATA).write_bytes(data[:-1])
    refused(openai, f"in a data file of {END - 1}")
    (openai / DATA).write_bytes(b"")
    with pytest.raises(CheckpointError, match=DATA):
        load_checkpoint(openai)
    (openai / DATA).unlink()
    refused(openai, DATA, "no file")
    (openai / DATA).mkdir()
    refused(openai, DATA, "no file")


def test_a_compressed_index_is_refused_with_the_reason(tmp_path):
    refused(write(tmp_path / "117M", kind=1), "compressed (type 1; 1 is Snappy)")


def test_blocks_that_overlap_are_refused(tmp_path):
    """A small index could otherwise repeat one block without end."""
    folder = write(
        tmp_path / "117M",
        change_handles=lambda handles: [(key, handles[0][1]) for key, _ in handles],
    )
    refused(folder, "the block at 0 begins before the previous one ends")


def test_names_in_no_order_or_twice_are_refused(openai):
    pairs, _ = bundle(TENSORS)
    for wrong in (pairs[::-1], [*pairs, pairs[-1]]):
        (openai / "model.ckpt.index").write_bytes(table(wrong))
        refused(openai, "expected names in order")


def test_a_name_that_is_endless_or_no_text_is_refused(openai):
    pairs, _ = bundle(TENSORS)
    for key, reason in ((b"\xff", "decode"), (b"z" * 501, "expected at most 500")):
        (openai / "model.ckpt.index").write_bytes(table([*pairs, (key, entry())]))
        refused(openai, reason)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "smaller than its list"),
        (b"\0\0\0", "smaller than its list"),
        (struct.pack("<I", 1), "smaller than its list"),
        (struct.pack("<I", 2**32 - 1), "smaller than its list"),
        (b"\0\x01" + struct.pack("<II", 0, 1), "cut off"),
        (b"\x01\x01\0a" + struct.pack("<II", 0, 1), "a name of 1 + 1 bytes after one of 0"),
        (b"\0\x7f\0a" + struct.pack("<II", 0, 1), "127 bytes expected"),
        (b"\0\x01\x7fa" + struct.pack("<II", 0, 1), "127 bytes expected"),
        (b"\0\x01" + varint(HUGE) + b"a" + struct.pack("<II", 0, 1), f"{HUGE} bytes expected"),
        (b"\0\x01\x00a" + struct.pack("<II", 0, 1), "cut off"),  # a handle of nothing
        (block([(b"a", varint(HUGE) + varint(HUGE))]), "bytes expected"),
    ],
)
def test_a_false_index_block_is_refused(openai, content, reason):
    (openai / "model.ckpt.index").write_bytes(sealed(content) + footer((0, 0), (0, len(content))))
    refused(openai, reason)


def test_an_index_that_is_too_large_is_not_read(openai):
    with (openai / "model.ckpt.index").open("r+b") as file:
        file.truncate(2**40)
    refused(openai, "1099511627776 bytes, expected at most")


def test_cut_off_anywhere_it_is_refused(openai):
    path = openai / "model.ckpt.index"
    whole = path.read_bytes()
    for size in range(0, len(whole), 13):
        path.write_bytes(whole[:size])
        refused(openai, "not a readable TensorFlow index: ")
    for size in range(len(whole) - 60, len(whole)):
        path.write_bytes(whole[:size])
        refused(openai, "not a readable TensorFlow index: ")


INDEX = table(bundle(TENSORS)[0])


def reason(folder):
    """Return why the checkpoint is refused, or None if it loads as the same model."""
    try:
        assert_same_model(load_checkpoint(folder))
    except CheckpointError as error:
        return str(error)
    return None


@settings(max_examples=150)
@given(st.data())
def test_with_any_byte_changed_it_is_refused_or_the_same(tmp_path_factory, data):
    """The model is the same if the byte is padding, or is in the block that is not read."""
    folder = tmp_path_factory.getbasetemp() / "tensorflow-changed"
    if not folder.exists():
        write(folder)
    at = data.draw(
        st.one_of(st.integers(0, len(INDEX) - 1), st.integers(len(INDEX) - 60, len(INDEX) - 1))
    )
    changed = INDEX[at] ^ data.draw(st.integers(1, 255))
    (folder / "model.ckpt.index").write_bytes(INDEX[:at] + bytes([changed]) + INDEX[at + 1 :])
    why = reason(folder)
    assert why is None or "not a readable TensorFlow index" in why


@given(st.binary(max_size=60))
def test_any_bytes_for_an_entry_are_refused(tmp_path_factory, value):
    folder = write(
        tmp_path_factory.getbasetemp() / "tf-any",
        change=lambda entries: entries | {KEY: value},
        per_block=1000,
    )
    assert "model.ckpt.index" in (reason(folder) or "")
