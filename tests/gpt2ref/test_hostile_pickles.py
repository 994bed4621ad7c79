"""Hostile and damaged pickles are refused, and the error names the file."""

import zipfile

import pytest
import torch

from gpt2ref import CheckpointError, load_checkpoint
from tests.shared.smallest import TENSORS, named, same, state


@pytest.fixture
def pickled(checkpoint):
    """Write the smallest checkpoint, with its weights in a .bin file."""
    (checkpoint / "model.safetensors").unlink()
    torch.save(TENSORS, checkpoint / "pytorch_model.bin")
    return checkpoint / "pytorch_model.bin"


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """Rewrite the archive: each member's content becomes `change(name, content)`."""
    with zipfile.ZipFile(path) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, change(name, content))


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_archive_is_refused(pickled, compression):
    """torch would map the compressed bytes into memory as weights."""
    rewritten(pickled, lambda _, content: content + bytes(10_000), compression)
    with pytest.raises(CheckpointError, match=named(pickled, "data.pkl is compressed")):
        load_checkpoint(pickled)


@pytest.mark.usefixtures("reads_pickles")
def test_a_zip_bomb_is_not_inflated(pickled):
    with (
        zipfile.ZipFile(pickled, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("bomb", "w") as member,
    ):
        for _ in range(200):
            member.write(bytes(10**6))
    assert pickled.stat().st_size < 10**6
    with pytest.raises(CheckpointError, match=named(pickled, "bomb is compressed")):
        load_checkpoint(pickled)


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize(
    "pickle_of",
    [
        b"\x80\x02}X\xff\xff\xff\xff",  # a string of 4 GB
        b"\x80\x02\x8e" + b"\xff" * 7 + b"\x7f",  # more bytes than there can be
        b"\x80\x02" + b"]q\x00h\x00a.",  # a list that holds itself
        b"\x80\x02" + b"](" * 10_000 + b"e" * 10_000 + b".",
        b"\x80\x02h\x63.",  # an entry of the memo that does not exist
        b"\x80\x02t.",
        b"\x80\x02",
        b"",
        b"0" * 100,
    ],
)
def test_a_malformed_pickle_is_refused_by_file(pickled, pickle_of):
    rewritten(pickled, lambda name, content: pickle_of if name.endswith("data.pkl") else content)
    with pytest.raises(CheckpointError, match=named(pickled)):
        load_checkpoint(pickled)


HOLLOW = {
    "expanded": lambda tensor: torch.zeros(1).expand(tensor.shape),
    "meta": lambda tensor: tensor.to("meta"),
    "sparse": lambda tensor: tensor.to_sparse(),
    "compressed sparse": lambda tensor: tensor.to_sparse_csr(),
    "nested": lambda tensor: torch.nested.as_nested_tensor([tensor, tensor]),
    "number": lambda _: 5,
    "list": lambda tensor: [tensor],
}
OTHER_NUMBERS = {
    "complex": lambda tensor: tensor.to(torch.complex64),
    "quantised": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    "eight bits": lambda tensor: tensor.to(torch.float8_e4m3fn),
}


@pytest.mark.filterwarnings("ignore")  # torch says that these kinds of tensors are in beta
@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize("kind", [*HOLLOW, *OTHER_NUMBERS])
def test_an_unsupported_kind_of_tensor_is_refused_by_name(pickled, kind):
    torch.save(
        TENSORS | {"wte.weight": (HOLLOW | OTHER_NUMBERS)[kind](TENSORS["wte.weight"])}, pickled
    )
    reason = (
        "found something else at wte.weight"
        if kind in HOLLOW
        else "not a floating-point dtype that GPT-2 runs in: wte.weight is"
    )
    # torch 2.15 refuses nested tensors itself.
    with pytest.raises(CheckpointError, match=named(pickled, reason) + "|_rebuild_nested_tensor"):
        load_checkpoint(pickled)


@pytest.mark.usefixtures("reads_pickles")
def test_a_tensor_beyond_its_storage_is_refused(pickled):
    start, beyond = b"QK\x00", b"QJ\xff\xff\xff\x7f"  # a tensor's offset in its storage
    rewritten(
        pickled,
        lambda name, content: (
            content.replace(start, beyond, 1) if name.endswith("data.pkl") else content
        ),
    )
    with pytest.raises(CheckpointError, match=named(pickled, "not a file of plain tensors")):
        load_checkpoint(pickled)


@pytest.mark.usefixtures("reads_pickles")
def test_parameters_and_views_are_plain_tensors(pickled):
    expected = state(load_checkpoint(pickled))
    both = torch.stack([TENSORS["ln_f.weight"], TENSORS["ln_f.bias"]], 1)
    views = TENSORS | {"ln_f.weight": both[:, 0], "ln_f.bias": both[:, 1]}
    torch.save({key: torch.nn.Parameter(tensor) for key, tensor in views.items()}, pickled)
    assert same(load_checkpoint(pickled), expected)
