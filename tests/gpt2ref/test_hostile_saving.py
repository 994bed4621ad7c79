"""A save that is stopped or fails leaves the old checkpoint or the new one, and nothing else."""

import errno
import json
import os
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from conformance.checkpoints.tensors import trained_like, write_checkpoint
from gpt2ref import GPT2Config, load_checkpoint, save_checkpoint
from gpt2ref.checkpoint import save as saving
from tests.shared.calls import recorded

# Each config loads with the other's weights, and gives a wrong model: only n_head differs.
FIRST = GPT2Config(vocab_size=5, n_positions=3, n_embd=4, n_layer=1, n_head=1)
SECOND = GPT2Config(vocab_size=5, n_positions=3, n_embd=4, n_layer=1, n_head=2)


@pytest.fixture
def old(tmp_path):
    """Write the first checkpoint. The tests save into this folder."""
    return write_checkpoint(tmp_path / "checkpoint", FIRST, trained_like(FIRST, seed=1))


@pytest.fixture
def new(tmp_path):
    """Load a model of the second checkpoint."""
    return load_checkpoint(
        write_checkpoint(tmp_path / "second", SECOND, trained_like(SECOND, seed=2))
    )


def whole(folder):
    """Return 1 or 2 for the checkpoint in the folder; fail if its config and weights differ."""
    model = load_checkpoint(folder)
    number = {FIRST: 1, SECOND: 2}[model.config]
    expected = trained_like(model.config, seed=number)["wte.weight"]
    assert torch.equal(model.transformer.wte.weight, expected)
    return number


def which(folder):
    """Return what `whole` returns; fail if the folder has any other file."""
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    return whole(folder)


def failing(function, error, *, at=0, after=False):
    """Wrap a function so that call number `at` fails, before or after it does its work."""
    calls = iter(range(at + 1))

    def call(*arguments, **options):
        now = next(calls, None) == at
        if now and not after:
            raise error
        result = function(*arguments, **options)
        if now:
            raise error
        return result

    return call


FULL = OSError(errno.ENOSPC, "No space left on device")
STEPS = {
    "weights": (saving, "save_file"),
    "config": (Path, "write_text"),
    "rights": (Path, "chmod"),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full disk", "ctrl-C"])
@pytest.mark.parametrize("step", STEPS)
def test_a_failed_write_leaves_the_old_checkpoint(old, new, monkeypatch, step, error, after):
    owner, name = STEPS[step]
    monkeypatch.setattr(owner, name, failing(getattr(owner, name), error, after=after))
    with pytest.raises(type(error)):
        save_checkpoint(new, old)
    assert which(old) == 1


@pytest.mark.parametrize("at", [0, 1])
def test_a_failed_rename_leaves_the_old_checkpoint(old, new, monkeypatch, at):
    monkeypatch.setattr(os, "replace", failing(os.replace, FULL, at=at))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(new, old)
    assert which(old) == 1


def test_a_failed_rename_of_the_config_leaves_none_beside_the_new_weights(old, new, monkeypatch):
    monkeypatch.setattr(os, "replace", failing(os.replace, FULL, at=2))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(new, old)
    assert [path.name for path in old.iterdir()] == ["model.safetensors"]


def test_a_new_folder_is_empty_until_the_weights_are_in_place(new, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", failing(os.replace, FULL))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(new, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def states_seen(model, folder, monkeypatch):
    """Save, and return what a reader finds before and after each rename: `whole`, or 0 for none."""
    seen, replace = [], os.replace

    def look():
        seen.append(whole(folder) if (folder / "config.json").exists() else 0)

    def observed(*paths):
        look()
        replace(*paths)
        look()

    monkeypatch.setattr(os, "replace", observed)
    save_checkpoint(model, folder)
    return seen


def test_with_another_config_a_reader_finds_the_old_checkpoint_none_or_the_new(
    old, new, monkeypatch
):
    """A reader finds the same after the process is killed."""
    assert states_seen(new, old, monkeypatch) == [1, 0, 0, 0, 0, 2]


def test_with_the_same_config_a_single_rename_makes_the_new_checkpoint(old, new, monkeypatch):
    save_checkpoint(new, old)
    other = trained_like(SECOND, seed=7)
    write_checkpoint(old, SECOND, other)
    (old / "config.json").write_text(json.dumps(SECOND.to_dict(), indent=2) + "\n")
    replaced: list[tuple[Path, Path]] = []
    monkeypatch.setattr(os, "replace", recorded(os.replace, replaced))
    save_checkpoint(new, old)
    assert len(replaced) == 1
    assert which(old) == 2


# Between two lines, a TemporaryDirectory may be made whose `with` is not reached: then it warns.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_ctrl_c_at_any_line_leaves_no_config_beside_the_weights_of_another(old, new):
    """Interrupt the first line that is run, then the second, and so on, until a save succeeds."""
    seen = set()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for number in range(1000):
            shutil.rmtree(old)
            write_checkpoint(old, FIRST, trained_like(FIRST, seed=1))
            if not interrupted_at(number, new, old):
                break
            seen.add(whole(old) if (old / "config.json").exists() else 0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert which(old) == 2
    assert number > 10
    assert {1, 2} <= seen


def interrupted_at(number, model, folder):
    """Save with a ctrl-C before line `number` of save.py. Return whether there was one."""
    left = number

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != saving.__file__:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return trace

    tracing = sys.gettrace()
    try:
        sys.settrace(trace)
        save_checkpoint(model, folder)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(tracing)
    return False


if sys.platform == "linux":
    import resource

    # The most bytes that a file may have. At 0 and 100 the config does not fit; at 400 it fits, and
    # the weights do not; at 2000 a part of the weights is written.
    @pytest.mark.parametrize("most", [0, 100, 400, 2000])
    def test_a_full_disk_leaves_the_old_checkpoint(old, new, most):
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large") as error:
                save_checkpoint(new, old)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        cannot = f"{old / 'model.safetensors'}: cannot be written"
        assert (cannot in str(error.value)) == (most >= 400)
        assert which(old) == 1


def test_two_saves_at_once_leave_the_checkpoint_of_one_of_them(old, tmp_path):
    models = [load_checkpoint(old)]
    models += [
        load_checkpoint(write_checkpoint(tmp_path / "b", FIRST, trained_like(FIRST, seed=3)))
    ]
    save_checkpoint(models[0], old)

    def save_often(model):
        for _ in range(20):
            save_checkpoint(model, old)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(save_often, models))
    assert sorted(path.name for path in old.iterdir()) == ["config.json", "model.safetensors"]
    saved = load_checkpoint(old).transformer.wte.weight
    assert any(torch.equal(saved, model.transformer.wte.weight) for model in models)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_in_the_place_of_a_file_is_refused_by_name_and_kept(old, new, name):
    (old / name).unlink()
    (old / name / "inside").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=name):
        save_checkpoint(new, old)
    assert sorted(path.name for path in old.iterdir()) == ["config.json", "model.safetensors"]
    assert (old / name / "inside").is_dir()


def test_links_are_replaced_and_not_written_through(old, new, tmp_path):
    """The hub's cache has such links: other folders link to its blobs."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("config.json", "model.safetensors"):
        (cache / name).symlink_to(old / name)
    save_checkpoint(new, cache)
    assert (which(cache), which(old)) == (2, 1)
    assert not any(path.is_symlink() for path in cache.iterdir())


def test_both_files_have_the_same_permissions(old, new):
    save_checkpoint(new, old)
    assert (old / "model.safetensors").stat().st_mode == (old / "config.json").stat().st_mode
