"""step.c is compiled once, and kept in a cache that can only make the next process faster."""

import multiprocessing
import os
import re
import shutil
import stat
import sys
from pathlib import Path

import pytest
import torch

from gpt2ref import compile_step, from_tensors
from gpt2ref.fast import library as compiling
from gpt2ref.fast.compiled_step import compiled_step
from tests.shared.compiled import filled, step_of, with_step
from tests.shared.smallest import CONFIG, TENSORS

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")


@pytest.fixture(autouse=True)
def nothing_compiled():
    """Forget what was compiled before, and what this test compiles."""
    compiling.library.cache_clear()
    yield
    compiling.library.cache_clear()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """Return the folder of an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "gpt2ref"


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Have a source that is compiled quickly, by a compiler that notes its calls.

    Returns a function that counts the libraries it made.
    """
    (tmp_path / "fast").mkdir()
    (tmp_path / "fast" / "step.c").write_text('#include "numbers.h"\nvoid step(void) {}\n')
    (tmp_path / "fast" / "numbers.h").write_text("")
    monkeypatch.setattr(compiling, "_SOURCE", tmp_path / "fast" / "step.c")
    path, notes = tmp_path / "compiler", tmp_path / "notes"
    path.write_text(f'#!/bin/sh\necho "$*" >> {notes}\nexec cc "$@"\n')
    path.chmod(0o700)
    monkeypatch.setenv("CC", str(path))
    return lambda: sum("-lm" in line for line in notes.read_text().splitlines())


def works():
    """Return whether a new process would get the library."""
    compiling.library.cache_clear()
    return hasattr(compiling.library(torch.float32), "step")


def test_the_second_process_compiles_nothing(cache, compiler):
    assert works()
    assert works()
    assert compiler() == 1
    (kept,) = cache.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_two_processes_may_compile_at_once(cache, compiler):
    with multiprocessing.get_context("fork").Pool(2) as processes:
        both = [processes.apply_async(works) for _ in range(2)]
        assert all(each.get(timeout=120) for each in both)
    compiled = compiler()
    assert works()
    assert compiler() == compiled
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("changed", ["source", "flags", "compiler", "processor"])
def test_a_library_made_otherwise_is_not_taken(monkeypatch, tmp_path, compiler, changed):
    assert works()
    if changed == "source":
        (tmp_path / "fast" / "numbers.h").write_text("/* another */")
    elif changed == "flags":
        monkeypatch.setattr(compiling, "_FLAGS", [*compiling._FLAGS, "-g"])
    else:  # with -v, the compiler says what it is, and what the processor has
        path = Path(os.environ["CC"])
        path.write_text(path.read_text().replace("exec", f"echo {changed} >&2; exec"))
    assert works()
    assert compiler() == 2


def shorten(kept):
    kept.write_bytes(kept.read_bytes()[:-1])


def change_a_bit(kept):
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)


def take_another(kept):
    """Put a library in its place that is whole, but was kept for something else."""
    other = kept.with_name("step-other")
    compiling._keep(other, b"another library")
    other.replace(kept)


@pytest.mark.parametrize(
    "damage",
    [
        shorten,
        change_a_bit,
        take_another,
        lambda kept: kept.write_bytes(b""),
        lambda kept: kept.chmod(0o620),
        lambda kept: kept.chmod(0o602),
        lambda kept: kept.parent.chmod(0o720),
        lambda kept: kept.parent.chmod(0o702),
        lambda kept: (kept.unlink(), kept.mkdir()),
    ],
    ids=["shorter", "a bit", "another", "empty", "group", "all", "folder's group", "all", "folder"],
)
def test_what_cannot_be_trusted_is_not_loaded(cache, compiler, damage):
    assert works()
    (kept,) = cache.iterdir()
    damage(kept)
    assert works()
    assert compiler() == 2


def test_a_library_of_somebody_else_is_not_loaded(monkeypatch, compiler):
    assert works()
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert works()
    assert compiler() == 2


def test_a_library_that_cannot_be_loaded_is_compiled_again(cache, compiler):
    assert works()
    (kept,) = cache.iterdir()
    compiling._keep(kept, b"whole, but no library")
    assert works()
    assert compiler() == 2


@pytest.mark.parametrize("obstacle", ["a file", "no home", "full"])
def test_without_a_cache_each_process_compiles(monkeypatch, cache, compiler, obstacle):
    if obstacle == "a file":
        cache.parent.write_text("")
    elif obstacle == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", "/dev/null")
    else:
        write = Path.write_bytes

        def fail(path, content):
            write(path, content[:100])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", fail)
    assert works()
    assert works()
    assert compiler() == 2
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_relative_path_of_the_cache_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    monkeypatch.setenv("HOME", str(tmp_path))
    for system, folder in [("linux", ".cache"), ("darwin", "Library/Caches")]:
        monkeypatch.setattr(sys, "platform", system)
        assert compiling._cache_folder() == tmp_path / folder / "gpt2ref"


def test_the_compilers_message_is_in_the_error(monkeypatch, tmp_path):
    broken = tmp_path / "step.c"
    broken.write_text("int main(void) { return nothing; }")
    monkeypatch.setattr(compiling, "_SOURCE", broken)
    model = from_tensors(TENSORS, CONFIG)
    with pytest.raises(RuntimeError, match=r"(?s)^\S.*step\.c -lm\n.*nothing"):
        compile_step(model)
    assert compiled_step(model, model.make_cache(1)) is None


@pytest.mark.usefixtures("compiler")
def test_nothing_else_is_left_on_disk(monkeypatch, tmp_path):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert works()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_without_openmp_one_thread_computes(monkeypatch, tmp_path):
    path = tmp_path / "compiler"
    refused = "echo no OpenMP >&2; exit 1"
    path.write_text(f'#!/bin/sh\ncase "$*" in *-fopenmp\\ *) {refused};; esac\nexec cc "$@" -O0\n')
    path.chmod(0o700)
    monkeypatch.setenv("CC", str(path))
    torch.set_num_threads(2)
    with pytest.warns(UserWarning, match=re.escape(f"{path} has no OpenMP")):
        model = with_step(from_tensors(TENSORS, CONFIG))
    logits = step_of(model, filled(model, [[1, 2]]))([2])
    torch.testing.assert_close(logits, model(torch.tensor([[1, 2]]))[:, -1])
