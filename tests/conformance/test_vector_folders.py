"""A folder of vectors that is not whole is refused, and none is half written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conformance.vectors.errors import VectorsError
from conformance.vectors.folder import read_vectors
from conformance.vectors.write import sha256, write_vectors
from tests.shared.vectors import written


def copied(tmp_path):
    return Path(shutil.copytree(written().folder, tmp_path / "copy"))


def edit(name, change):
    def edited(folder):
        file = folder / name
        file.write_bytes(change(file.read_bytes()))

    return edited


def as_json(change):
    return lambda raw: json.dumps(change(json.loads(raw))).encode()


def changed(name, change):
    return edit(name, as_json(change))


def in_place(change):
    def changed(content):
        change(content)
        return content

    return changed


def entry(name):
    return changed(
        "index.json",
        in_place(lambda index: index["files"].update({name: {"bytes": 1, "sha256": "0" * 64}})),
    )


def huge(folder):
    with (folder / "cases/mlp.json").open("wb") as file:
        file.truncate(2**40)  # a sparse file, which no memory can hold


def as_folder(folder):
    (folder / "cases/mlp.json").unlink()
    (folder / "cases/mlp.json").mkdir()


BAD = {
    "cases/mlp.json: its sha256 is not": edit("cases/mlp.json", lambda raw: raw[:-2] + b" \n"),
    "cases/mlp.json: has 100 bytes": edit("cases/mlp.json", lambda raw: raw[:100]),
    "cases/mlp.json: has 1099511627776 bytes": huge,
    "cases/mlp.json: there is no such file": as_folder,
    "die/config.json: there is": lambda folder: (folder / "checkpoints/die/config.json").unlink(),
    "index.json: can't be read": lambda folder: (folder / "index.json").unlink(),
    "index.json: not JSON: Unterminated": edit("index.json", lambda raw: raw[:100]),
    "index.json: not JSON: 'utf-8' codec": edit("index.json", lambda _: b"\xff\xfe"),
    "index.json: not JSON: 'format' is there twice": edit(
        "index.json", lambda raw: b'{"format": 1, ' + raw[1:]
    ),
    "index.json: format 7 is from a later version": changed(
        "index.json", lambda each: each | {"format": 7}
    ),
    "index.json: format: None": changed("index.json", lambda each: each | {"format": None}),
    "index.json: not an index": changed("index.json", lambda each: each | {"cases": 3}),
    "index.json: there are no cases": changed("index.json", lambda each: each | {"cases": []}),
    "index.json: case 'head' is listed twice": changed(
        "index.json", in_place(lambda each: each["cases"].append(each["cases"][0]))
    ),
    "index.json: case [1]: expected a text": changed(
        "index.json", in_place(lambda each: each["cases"][0].update(id=[1]))
    ),
    "index.json: case 'head': [] is not among its files": changed(
        "index.json", in_place(lambda each: each["cases"][0].update(file=[]))
    ),
    "cases/mlp.json: id: 'mlp', and index.json says 'head'": changed(
        "index.json", in_place(lambda each: each["cases"][0].update(file="cases/mlp.json"))
    ),
    "index.json: a list": edit("index.json", lambda _: b"[]"),
    "index.json: '../index.json' is not a file of this folder": entry("../index.json"),
    "index.json: '/etc/hosts' is not a file of this folder": entry("/etc/hosts"),
    "index.json: 'a\\x00b' is not a file of this folder": entry("a\0b"),
    "index.json: 'a\\ud800' is not a file of this folder": entry("a\ud800"),
}


@pytest.mark.parametrize("words", BAD)
def test_a_folder_that_is_not_whole_is_refused_in_one_sentence(words, tmp_path):
    folder = copied(tmp_path)
    BAD[words](folder)
    refused(folder, words)


def refused(folder, words):
    with pytest.raises(VectorsError) as raised:
        read_vectors(folder)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


WRONG_CASES = {
    "sentence: None, expected a text": lambda case: case.pop("sentence"),
    "calls: 3, expected a list": lambda case: case.update(calls=3),
    "requirements: none": lambda case: case.update(requirements=[]),
    "checkpoint: '../..' is not in this folder": lambda case: case.update(checkpoint="../.."),
    "expected.answers: [], expected one": lambda case: case["expected"].update(answers=[]),
}


@pytest.mark.parametrize("words", WRONG_CASES)
def test_a_case_that_is_none_is_refused_though_its_hash_is_right(words, tmp_path):
    folder = copied(tmp_path)
    changed("cases/mlp.json", in_place(WRONG_CASES[words]))(folder)
    file = folder / "cases/mlp.json"
    about = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    changed("index.json", in_place(lambda each: each["files"].update({"cases/mlp.json": about})))(
        folder
    )
    refused(folder, f"{file}: {words}")


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(VectorsError, match="not overwritten"):
        write_vectors(tmp_path / "taken")
    for place in (tmp_path / "missing" / "folder", tmp_path / ("long" * 100)):
        with pytest.raises(VectorsError, match="can't be written"):
            write_vectors(place)

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("conformance.vectors.write.write_case", fail)
    monkeypatch.setattr("conformance.vectors.write.write_checkpoint", lambda *_: None)
    with pytest.raises(VectorsError, match="the disk is full"):
        write_vectors(tmp_path / "new")
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]
