"""Pickles made to mislead or to wear the reader out: they are refused by name, at once."""

import itertools
import pickle
import re
import subprocess
import sys
import zipfile

import pytest
import torch

from gpt2ref import CheckpointError, load_checkpoint
from gpt2ref.checkpoint.pickles import _MOST_PARTS
from tests.shared.smallest import TENSORS, named, same, state


@pytest.fixture
def pickled(checkpoint):
    """The same as a .bin file."""
    (checkpoint / "model.safetensors").unlink()
    torch.save(TENSORS, checkpoint / "pytorch_model.bin")
    return checkpoint / "pytorch_model.bin"


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """The archive with each member's content as `change(name, content)` has it."""
    with zipfile.ZipFile(path) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, change(name, content))


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_archive_is_refused(pickled, compression):
    """Mapped into memory, the compressed bytes would be taken for the weights."""
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


BOMBS = {
    "nested a million times": b"})" + b"\x85" * 10**6 + b"Ns.",  # to hash it takes all of the stack
    "doubled sixty times": b"})"
    + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
    + b"Ns.",  # to hash it takes 2**60 steps
    "in a set": b"\x8f()" + b"\x85" * 10**6 + b"\x90.",
    "as a storage's name": b"()" + b"\x85" * 10**6 + b"tQ.",
}


LOADS = """
import sys
import torch
from gpt2ref import load_checkpoint
torch.__version__ = max(torch.__version__, "2.6.0")
for path in sys.argv[1:]:
    try:
        load_checkpoint(path)
    except ValueError as error:
        print(error, flush=True)
"""


def test_a_tuple_that_is_too_much_to_hash_is_refused(pickled):
    """In a process of its own: to read them ends it, or does not end."""
    paths = []
    for name, (kind, bomb) in zip(
        "abcdefgh", itertools.product(["zip", "legacy"], BOMBS.values()), strict=True
    ):
        path = pickled.parent / f"{name}.bin"
        torch.save(TENSORS, path, _use_new_zipfile_serialization=kind == "zip")
        if kind == "zip":
            rewritten(
                path,
                lambda member, content, bomb=bomb: (
                    b"\x80\x02" + bomb if member.endswith("data.pkl") else content
                ),
            )
        else:
            with path.open("rb") as file:
                for _ in range(3):
                    pickle.load(file)  # what comes before the tensors
                start = file.tell()
            path.write_bytes(path.read_bytes()[:start] + b"\x80\x02" + bomb)
        paths.append(path)
    result = subprocess.run(
        [sys.executable, "-c", LOADS, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    errors = result.stdout.splitlines()
    assert len(errors) == len(paths)
    for path, error in zip(paths, errors, strict=True):
        assert re.fullmatch(
            rf"{re.escape(str(path))}: .*tuple of \d+ parts, expected at most {_MOST_PARTS}", error
        ), error


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize(
    "pickle_of",
    [
        b"\x80\x02}X\xff\xff\xff\xff",  # a text of 4 GB
        b"\x80\x02\x8e" + b"\xff" * 7 + b"\x7f",  # bytes, more than there can be
        b"\x80\x02" + b"]q\x00h\x00a.",  # a list that holds itself
        b"\x80\x02" + b"](" * 10_000 + b"e" * 10_000 + b".",
        b"\x80\x02h\x63.",  # what was never put there
        b"\x80\x02t.",
        b"\x80\x02",
        b"",
        b"0" * 100,
    ],
)
def test_a_pickle_of_nonsense_is_refused_by_file(pickled, pickle_of):
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


@pytest.mark.filterwarnings("ignore")  # of torch, that these kinds of tensors are in beta
@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize("kind", [*HOLLOW, *OTHER_NUMBERS])
def test_a_tensor_that_does_not_hold_its_numbers_is_refused_by_name(pickled, kind):
    torch.save(
        TENSORS | {"wte.weight": (HOLLOW | OTHER_NUMBERS)[kind](TENSORS["wte.weight"])}, pickled
    )
    reason = (
        "not so: wte.weight"
        if kind in HOLLOW
        else "not a floating-point dtype that GPT-2 runs in: wte.weight is"
    )
    # Nested ones torch 2.15 itself refuses to read.
    with pytest.raises(CheckpointError, match=named(pickled, reason) + "|_rebuild_nested_tensor"):
        load_checkpoint(pickled)


@pytest.mark.usefixtures("reads_pickles")
def test_a_tensor_beyond_its_storage_is_refused(pickled):
    start, beyond = b"QK\x00", b"QJ\xff\xff\xff\x7f"  # where in its storage a tensor begins
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
