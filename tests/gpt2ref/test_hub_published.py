"""The published sizes by name, from a server of the tests' own: one commit, resumed, checked, kept."""

import contextlib
import hashlib
import re
import signal
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.utils
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import enable_progress_bars

from gpt2ref import CheckpointError, load_checkpoint
from gpt2ref.checkpoint.hub import PUBLISHED
from tests.shared.hub_server import FILES, Answer, Server, git_hash


def forget_connections():
    for name in (
        "close_session",
        "reset_sessions",
    ):  # the names since and before huggingface_hub 1.0
        getattr(huggingface_hub.utils, name, lambda: None)()


@pytest.fixture
def server(tmp_path, tiny_folder, monkeypatch):
    """Has gpt2's commit, with the weights of a tiny model; the cache is empty."""
    with Server() as server:
        server.after = lambda _: None
        server.publish("gpt2", tiny_folder)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(
            "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
        )  # before 0.26
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
        forget_connections()
        yield server
        forget_connections()
        server.shutdown()
        thread.join()


@pytest.fixture
def no_pauses(monkeypatch):
    """Between huggingface_hub's attempts to go on."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)


def cached(tmp_path, name="gpt2"):
    """What of the model another reader of the cache finds: file -> its bytes."""
    repository, revision = PUBLISHED[name]
    return {
        file: path.read_bytes()
        for file in FILES
        if (
            path := tmp_path
            / "cache"
            / f"models--{repository.replace('/', '--')}"
            / "snapshots"
            / revision
            / file
        ).exists()
    }


def partials(tmp_path):
    return list((tmp_path / "cache").rglob("*.incomplete"))


def contents(folder):
    return {file: (folder / file).read_bytes() for file in FILES}


def assert_next_call_goes_on(server, tmp_path, folder):
    """After a call that has the config and a part of the weights."""
    assert cached(tmp_path).keys() == {"config.json"}
    arrived = partials(tmp_path)[0].stat().st_size
    assert arrived > 0
    server.send = lambda _: None
    server.asked.clear()
    assert same(load_checkpoint("gpt2"), folder)
    assert [headers["Range"] for headers in server.sent()] == [f"bytes={arrived}-"]
    assert cached(tmp_path) == contents(folder)
    assert not partials(tmp_path)


def same(model, folder):
    expected = load_checkpoint(folder).state_dict()
    return all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


REPOSITORIES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_published_size_is_one_commit_of_its_repository(server, tmp_path, tiny_folder, name):
    server.publish(name, tiny_folder)
    assert same(load_checkpoint(name), tiny_folder)
    assert cached(tmp_path, name) == contents(tiny_folder)
    assert {re.sub("^/cdn", "", path).rsplit("/", 3)[0] for _, path, _ in server.asked} == {
        "/" + REPOSITORIES[name]
    }
    assert all(re.fullmatch("[0-9a-f]{40}", path.split("/")[-2]) for _, path, _ in server.asked)
    assert not partials(tmp_path)


def test_the_published_sizes_are_these_and_each_has_a_commit_of_its_own():
    assert {name: repository for name, (repository, _) in PUBLISHED.items()} == REPOSITORIES
    assert len({revision for _, revision in PUBLISHED.values()}) == len(REPOSITORIES)


def test_what_is_cached_is_neither_asked_for_nor_read_again_to_be_checked(
    server, tiny_folder, monkeypatch
):
    load_checkpoint("gpt2")
    before = len(server.asked)
    monkeypatch.setattr("hashlib.sha256", None)
    assert same(load_checkpoint("gpt2"), tiny_folder)
    assert len(server.asked) == before


def test_huggingface_hub_finds_it_in_the_cache(server, tiny_folder):
    load_checkpoint("gpt2")
    before = len(server.asked)
    repository, revision = PUBLISHED["gpt2"]
    for file in FILES:
        path = huggingface_hub.hf_hub_download(
            repository, file, revision=revision, cache_dir=constants.HF_HUB_CACHE
        )
        assert Path(path).read_bytes() == (tiny_folder / file).read_bytes()
    assert len(server.asked) == before


def test_what_was_cached_under_the_bare_name_is_used(server, tmp_path, tiny_folder):
    load_checkpoint("gpt2")
    (tmp_path / "cache" / "models--openai-community--gpt2").rename(
        tmp_path / "cache" / "models--gpt2"
    )
    before = len(server.asked)
    assert same(load_checkpoint("gpt2"), tiny_folder)
    assert len(server.asked) == before


@pytest.mark.usefixtures("server")
def test_a_progress_bar_for_the_weights(monkeypatch, capsys):
    enable_progress_bars()  # other tests may have switched them off
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    load_checkpoint("gpt2")
    assert re.search(r"(^|[\r\n])model\.safetensors: 100%", capsys.readouterr().err)


def test_a_token_is_for_the_hub_alone(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    load_checkpoint("gpt2")
    assert [headers["Authorization"] for headers in server.sent()] == [None]
    assert {
        headers["Authorization"] for _, path, headers in server.asked if "/cdn" not in path
    } == {"Bearer hf_secret"}


@pytest.mark.usefixtures("no_pauses")
def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path, tiny_folder):
    """The connection breaks in the middle of the weights, and until the next call none gets any further."""
    size = (tiny_folder / "model.safetensors").stat().st_size
    server.send = lambda request: (
        None if "/cdn" not in request.path else 0 if request.headers["Range"] else size // 2
    )
    with pytest.raises(
        FileNotFoundError, match=r"(?s)^checkpoint 'gpt2'.*what has arrived is kept"
    ):
        load_checkpoint("gpt2")
    assert partials(tmp_path)[0].stat().st_size <= size // 2
    assert_next_call_goes_on(server, tmp_path, tiny_folder)


def test_ctrl_c_leaves_a_cache_from_which_the_next_call_goes_on(server, tmp_path, tiny_folder):
    """The server stalls in the middle of the weights."""
    size = (tiny_folder / "model.safetensors").stat().st_size
    caller, pressed, over = threading.main_thread().ident, threading.Event(), threading.Event()

    def press(_):
        while not (partials(tmp_path) and partials(tmp_path)[0].stat().st_size) and not over.wait(
            0.01
        ):
            pass
        if not pressed.is_set():
            pressed.set()
            signal.pthread_kill(caller, signal.SIGINT)
        over.wait(10)

    server.send, server.after = lambda request: size // 2 if "/cdn" in request.path else None, press
    handler = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a job in the background of a shell ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            load_checkpoint("gpt2")
    finally:
        over.set()
        signal.signal(signal.SIGINT, handler)
    assert partials(tmp_path)[0].stat().st_size <= size // 2
    assert_next_call_goes_on(server, tmp_path, tiny_folder)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["corrupted", "shorter", "longer"])
def test_what_is_not_as_announced_is_refused_by_file_expected_and_found(
    server, tmp_path, tiny_folder, file, damage
):
    right = (tiny_folder / file).read_bytes()
    wrong = {
        "corrupted": right[:-1] + bytes([right[-1] ^ 1]),
        "shorter": right[:-5],
        "longer": right + b"12345",
    }[damage]
    if damage == "corrupted" and file == "config.json":
        expected, found = f"sha1 {git_hash(right)}", git_hash(wrong)
    elif damage == "corrupted":
        expected, found = (
            f"sha256 {hashlib.sha256(right).hexdigest()}",
            hashlib.sha256(wrong).hexdigest(),
        )
    else:
        expected, found = f"{len(right)} bytes", len(wrong)
    server.damage = lambda body: wrong if body == right else body
    with pytest.raises(
        CheckpointError,
        match=f"^openai-community/gpt2/{re.escape(file)}: expected {expected}, found {found}",
    ):
        load_checkpoint("gpt2")
    assert cached(tmp_path).keys() == set(FILES[: FILES.index(file)])
    assert not partials(tmp_path)

    server.damage = lambda body: body
    assert same(load_checkpoint("gpt2"), tiny_folder)


def test_what_arrived_earlier_is_checked_with_the_rest(server, tmp_path, tiny_folder):
    repository, revision = PUBLISHED["gpt2"]
    folder = tmp_path / "cache" / f"models--{repository.replace('/', '--')}" / "blobs"
    folder.mkdir(parents=True)
    (folder / f"{revision}.model.safetensors.incomplete").write_bytes(bytes(3000))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected sha256"):
        load_checkpoint("gpt2")
    assert [headers["Range"] for headers in server.sent()] == ["bytes=3000-"]
    assert cached(tmp_path).keys() == {"config.json"}
    assert same(load_checkpoint("gpt2"), tiny_folder)


def test_an_etag_that_is_no_hash_is_not_taken_for_one(server, tiny_folder):
    server.headers = {
        file: {"ETag": '"a mirror\'s"', "X-Linked-ETag": '"a mirror\'s"'} for file in FILES
    }
    assert same(load_checkpoint("gpt2"), tiny_folder)


@pytest.mark.parametrize("header", ["X-Repo-Commit", "ETag"])
def test_the_page_of_a_network_that_wants_a_login_is_not_taken_for_the_hubs_answer(
    server, tmp_path, header
):
    server.headers = {"config.json": {header: ""}}
    with pytest.raises(
        FileNotFoundError, match=r"(?s)^checkpoint 'gpt2'.*config\.json: expected commit 607a30d"
    ):
        load_checkpoint("gpt2")
    assert cached(tmp_path) == {}
    assert not partials(tmp_path)


@pytest.mark.parametrize("missing", [["model.safetensors"], FILES])
def test_a_file_or_a_repository_that_the_hub_does_not_have_is_a_checkpoint_not_found(
    server, tmp_path, missing
):
    for file in missing:
        del server.files[(*PUBLISHED["gpt2"], file)]
    with pytest.raises(
        FileNotFoundError, match=rf"(?s)^checkpoint 'gpt2'.* 404 .*/{re.escape(missing[0])}"
    ):
        load_checkpoint("gpt2")
    assert cached(tmp_path).keys() == set(FILES) - set(missing)
    assert not partials(tmp_path)


NEEDED = r"gpt2 is config\.json and model\.safetensors of openai-community/gpt2: connect to the hub once .* or give a folder"


@pytest.mark.parametrize("there", [[], ["config.json"]])
def test_offline_the_message_says_what_is_needed_and_what_to_do(
    server, tmp_path, monkeypatch, there
):
    if there:
        load_checkpoint("gpt2")
        next((tmp_path / "cache").rglob("model.safetensors")).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_connections()
    server.asked.clear()
    with pytest.raises(
        FileNotFoundError,
        match=rf"(?s)^checkpoint 'gpt2': no such file .*offline mode is enabled.*{NEEDED}",
    ):
        load_checkpoint("gpt2")
    assert not server.asked
    assert cached(tmp_path).keys() == set(there)


@pytest.mark.usefixtures("no_pauses")
def test_a_hub_out_of_reach_is_said_in_the_same_way(server, monkeypatch):
    with contextlib.closing(ThreadingHTTPServer(("127.0.0.1", 0), Answer).socket) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(
        "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
    )
    with pytest.raises(
        FileNotFoundError, match=rf"(?s)^checkpoint 'gpt2': no such file .*refused.*{NEEDED}"
    ):
        load_checkpoint("gpt2")
    assert not server.asked


@pytest.mark.usefixtures("server")
def test_offline_what_is_cached_is_loaded(tiny_folder, monkeypatch):
    load_checkpoint("gpt2")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_connections()
    assert same(load_checkpoint("gpt2"), tiny_folder)


def test_two_at_once_fetch_it_once(server, tmp_path, tiny_folder):
    """The weights wait until the second has had time to ask for them too."""
    started = threading.Event()

    def wait(request):
        if "/cdn" in request.path:
            started.set()
            time.sleep(1)

    server.send = wait
    loaded = []
    threads = [
        threading.Thread(target=lambda: loaded.append(load_checkpoint("gpt2"))) for _ in range(2)
    ]
    threads[0].start()
    started.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert [same(model, tiny_folder) for model in loaded] == [True, True]
    assert len(server.sent()) == 1
    assert not partials(tmp_path)
