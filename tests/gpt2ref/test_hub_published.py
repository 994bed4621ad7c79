"""Published sizes are downloaded at a pinned commit, checked by hash, and cached."""

import contextlib
import hashlib
import re
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.utils
import pytest
import torch
from huggingface_hub import constants

from gpt2ref import CheckpointError, load_checkpoint
from gpt2ref.checkpoint import hub
from gpt2ref.checkpoint.hub import PUBLISHED
from tests.shared.hub_server import FILES, Answer, Server, git_hash


def forget_connections():
    """Make huggingface_hub forget its connections. The function has another name before 1.0."""
    for name in ("close_session", "reset_sessions"):
        getattr(huggingface_hub.utils, name, lambda: None)()


@pytest.fixture
def server(tmp_path, tiny_folder, monkeypatch):
    """Serve gpt2's commit locally, with the weights of a tiny model, and use an empty cache."""
    with Server() as server:
        server.publish("gpt2", tiny_folder)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # Before 0.26, huggingface_hub has another copy of it.
        monkeypatch.setattr(
            "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
        )
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
    """Let huggingface_hub try again at once."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)


def cached(tmp_path, name="gpt2"):
    """Read the files that are in the cache: name -> bytes."""
    repository, revision = PUBLISHED[name]
    folder = f"models--{repository.replace('/', '--')}/snapshots/{revision}"
    paths = [tmp_path / "cache" / folder / file for file in FILES]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def contents(folder):
    return {file: (folder / file).read_bytes() for file in FILES}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


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


def test_each_published_size_has_a_commit_of_its_own():
    assert {name: repository for name, (repository, _) in PUBLISHED.items()} == REPOSITORIES
    assert len({revision for _, revision in PUBLISHED.values()}) == len(REPOSITORIES)


def test_a_cached_file_is_neither_requested_nor_checked_again(server, tiny_folder, monkeypatch):
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


@pytest.mark.usefixtures("no_pauses")
def test_a_download_that_breaks_off_is_resumed(server, tmp_path, tiny_folder):
    size = (tiny_folder / "model.safetensors").stat().st_size
    server.send = lambda request: (
        size // 2 if "/cdn" in request.path and not request.headers["Range"] else None
    )
    assert same(load_checkpoint("gpt2"), tiny_folder)
    assert len(server.sent()) == 2
    assert server.sent()[1]["Range"].startswith("bytes=")
    assert cached(tmp_path) == contents(tiny_folder)


DAMAGES = {
    "corrupted": lambda right: right[:-1] + bytes([right[-1] ^ 1]),
    "shorter": lambda right: right[:-5],
    "longer": lambda right: right + b"12345",
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_download_is_refused_and_the_next_try_starts_afresh(
    server, tmp_path, tiny_folder, file, damage
):
    """A wrong hash is found by hub.py, a wrong size by huggingface_hub."""
    right = (tiny_folder / file).read_bytes()
    wrong = DAMAGES[damage](right)
    error: type[Exception]
    if damage != "corrupted":
        error, reason = FileNotFoundError, rf"{len(right)} .*{len(wrong)} .*{re.escape(file)}"
    else:
        error = CheckpointError
        digest, hashed = ("sha1", git_hash) if file == "config.json" else ("sha256", sha256)
        reason = f"{re.escape(file)}: expected {digest} {hashed(right)}, found {hashed(wrong)}"
    server.damage = lambda body: wrong if body == right else body
    with pytest.raises(error, match=reason):
        load_checkpoint("gpt2")
    assert cached(tmp_path).keys() == set(FILES[: FILES.index(file)])

    server.damage = lambda body: body
    assert same(load_checkpoint("gpt2"), tiny_folder)
    assert cached(tmp_path) == contents(tiny_folder)


def test_an_interrupted_check_is_repeated_without_a_download(
    server, tmp_path, tiny_folder, monkeypatch
):
    def ctrl_c(path, _):
        if path.name == "model.safetensors":
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr(hub, "_difference", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        load_checkpoint("gpt2")
    assert cached(tmp_path).keys() == {"config.json"}
    checked = []
    monkeypatch.setattr(hub, "_difference", lambda path, etag: checked.append((path.name, etag)))
    assert same(load_checkpoint("gpt2"), tiny_folder)
    digest = sha256((tiny_folder / "model.safetensors").read_bytes())
    assert checked == [("model.safetensors", digest)]
    assert len(server.sent()) == 1


def test_an_etag_that_is_no_hash_is_not_taken_for_one(server, tiny_folder):
    server.headers = {
        file: {"ETag": f'"a mirror\'s {file}"', "X-Linked-ETag": f'"a mirror\'s {file}"'}
        for file in FILES
    }
    assert same(load_checkpoint("gpt2"), tiny_folder)


@pytest.mark.parametrize("header", ["X-Repo-Commit", "ETag"])
def test_the_login_page_of_a_network_is_not_taken_for_the_hubs_answer(server, tmp_path, header):
    server.headers = {"config.json": {header: None}}
    with pytest.raises(FileNotFoundError, match=r"(?s)^checkpoint 'gpt2'.*hub did not give it: "):
        load_checkpoint("gpt2")
    assert cached(tmp_path) == {}


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


NEEDED = (
    r"gpt2 is config\.json and model\.safetensors of openai-community/gpt2: "
    r"connect to the hub once, or give a folder with them$"
)


@pytest.mark.parametrize("there", [[], ["config.json"]])
def test_offline_the_error_says_what_is_needed_and_what_to_do(server, tmp_path, monkeypatch, there):
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
def test_an_unreachable_hub_gives_the_same_error(server, monkeypatch):
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
def test_offline_a_cached_checkpoint_is_loaded(tiny_folder, monkeypatch):
    load_checkpoint("gpt2")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_connections()
    assert same(load_checkpoint("gpt2"), tiny_folder)
