"""Saving that is stopped, fails or is not alone: afterwards there is one whole checkpoint, or none, and nothing else."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from conformance.checkpoints.tensors import trained_like, write_checkpoint
from gpt2ref import GPT2Config, load_checkpoint, save_checkpoint
from gpt2ref.checkpoint import save as saving

# One shape, two meanings: the config of the one would load with the weights of the other, and say something else.
FIRST = GPT2Config(vocab_size=5, n_positions=3, n_embd=4, n_layer=1, n_head=1)
SECOND = GPT2Config(vocab_size=5, n_positions=3, n_embd=4, n_layer=1, n_head=2)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """Also where the tests were started in the background of a shell, which has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def old(tmp_path):
    """The folder that is saved into, with the first checkpoint in it."""
    return write_checkpoint(tmp_path / "checkpoint", FIRST, trained_like(FIRST, seed=1))


@pytest.fixture
def new(tmp_path):
    """A model of the second."""
    return load_checkpoint(
        write_checkpoint(tmp_path / "second", SECOND, trained_like(SECOND, seed=2))
    )


def which(folder):
    """1 or 2 for the whole checkpoint in the folder, where config and weights belong together and nothing else lies."""
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    model = load_checkpoint(folder)
    number = {FIRST: 1, SECOND: 2}[model.config]
    expected = trained_like(model.config, seed=number)["wte.weight"]
    assert torch.equal(model.transformer.wte.weight, expected)
    return number


def failing(function, error, *, at=0, after=False):
    """The function, whose call number `at` fails, before it does its work or after."""
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
def test_what_fails_before_all_is_written_leaves_the_old_checkpoint(
    old, new, monkeypatch, step, error, after
):
    owner, name = STEPS[step]
    monkeypatch.setattr(owner, name, failing(getattr(owner, name), error, after=after))
    with pytest.raises(type(error)):
        save_checkpoint(new, old)
    assert which(old) == 1


@pytest.mark.parametrize("at", [0, 1])
def test_a_move_that_fails_leaves_the_old_checkpoint(old, new, monkeypatch, at):
    monkeypatch.setattr(os, "replace", failing(os.replace, FULL, at=at))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(new, old)
    assert which(old) == 1


def test_a_move_that_fails_when_the_weights_are_in_place_leaves_no_config_beside_them(
    old, new, monkeypatch
):
    monkeypatch.setattr(os, "replace", failing(os.replace, FULL, at=2))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(new, old)
    assert [path.name for path in old.iterdir()] == ["model.safetensors"]


def test_a_new_folder_is_no_checkpoint_until_all_is_there(new, tmp_path, monkeypatch):
    for at in (0, 1):  # there is no config to move away, which is tried nevertheless
        monkeypatch.setattr(os, "replace", failing(os.replace, FULL, at=at))
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(new, tmp_path / "new")
        assert list((tmp_path / "new").iterdir()) == []
        monkeypatch.undo()


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # see below
def test_ctrl_c_at_any_line_leaves_a_whole_checkpoint(old, new):
    """At the first line that is run, the second, and so on, until it is saved without having been stopped.

    Between two lines `with` may not be reached again, and then its object warns when it cleans up after itself.
    """
    seen = set()
    for number in range(1000):
        shutil.rmtree(old)
        write_checkpoint(old, FIRST, trained_like(FIRST, seed=1))
        left = number

        def trace(frame, event, _):
            nonlocal left
            if frame.f_code.co_filename != saving.__file__:
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    sys.settrace(None)
                    os.kill(os.getpid(), signal.SIGINT)
            return trace

        before = sys.gettrace()
        try:
            sys.settrace(trace)
            save_checkpoint(new, old)
        except KeyboardInterrupt:
            pass
        else:
            break
        finally:
            sys.settrace(before)
        seen.add(which(old))
    assert which(old) == 2
    assert number > 10
    assert seen == {1, 2}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_ctrl_c_while_the_files_are_moved_waits_until_they_are(old, new, monkeypatch, at, after):
    replace, moves = os.replace, []

    def interrupted(*paths):
        moves.append(paths)
        if after:
            replace(*paths)
        if len(moves) == at + 1:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
        if not after:
            replace(*paths)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(new, old)
    assert which(old) == 2


if sys.platform == "linux":
    LIMITED = """
import resource, signal, sys
from gpt2ref import load_checkpoint, save_checkpoint
model = load_checkpoint(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
errors = []
for most in (0, 100, 400, 2000):  # bytes in a file: no config, a part of it, nothing of the weights, a part of them
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, -1))
    try:
        save_checkpoint(model, sys.argv[2])
    except OSError as error:
        errors += [str(error)]
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
print(*errors, sep="\\n")
"""

    def test_a_disk_that_takes_no_more_leaves_the_old_checkpoint(old, new, tmp_path):  # noqa: ARG001 - new writes it
        command = [sys.executable, "-c", LIMITED, str(tmp_path / "second"), str(old)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert result.stdout.count("File too large") == 4
        assert result.stdout.count(f"{old / 'model.safetensors'}: can't be written") == 2
        assert which(old) == 1

    RACES = """
import sys
from gpt2ref import load_checkpoint, save_checkpoint
model = load_checkpoint(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    save_checkpoint(model, sys.argv[2])
"""

    def test_two_processes_that_save_into_one_folder_leave_the_checkpoint_of_one(
        old,
        new,  # noqa: ARG001 - it writes the other checkpoint
        tmp_path,
    ):
        shutil.copytree(old, tmp_path / "first")
        command = [sys.executable, "-c", RACES]
        both = [
            subprocess.Popen(
                [*command, str(tmp_path / name), str(old)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in ("first", "second")
        ]
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.wait(timeout=60) for process in both] == [0, 0]
        for process in both:
            process.stdin.close()
            process.stdout.close()
        assert which(old) in (1, 2)

    def test_one_that_moves_its_files_waits_for_another_that_does(old, new, monkeypatch):
        """The first is held up between its two moves; without a lock the second would put its own in between."""
        first = load_checkpoint(old)
        moved, replace = [], os.replace
        second = ThreadPoolExecutor(1)

        def held_up(source, target):
            replace(source, target)
            moved.append(target)
            if len(moved) == 2:
                waiting = second.submit(save_checkpoint, new, old)
                with pytest.raises(TimeoutError):
                    waiting.result(timeout=0.5)
                assert len(moved) == 2

        monkeypatch.setattr(os, "replace", held_up)
        save_checkpoint(first, old)
        second.shutdown()
        assert len(moved) == 6
        assert which(old) == 2


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_in_the_place_of_a_file_is_refused_by_name_and_kept(old, new, name):
    (old / name).unlink()
    (old / name / "inside").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=name):
        save_checkpoint(new, old)
    assert sorted(path.name for path in old.iterdir()) == ["config.json", "model.safetensors"]
    assert (old / name / "inside").is_dir()


def test_links_are_replaced_and_not_written_through(old, new, tmp_path):
    """As in the hub's cache, whose blobs other folders link to."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("config.json", "model.safetensors"):
        (cache / name).symlink_to(old / name)
    save_checkpoint(new, cache)
    assert (which(cache), which(old)) == (2, 1)
    assert not any(path.is_symlink() for path in cache.iterdir())


def test_both_files_may_be_read_by_the_same_users(old, new):
    save_checkpoint(new, old)
    assert (old / "model.safetensors").stat().st_mode == (old / "config.json").stat().st_mode
