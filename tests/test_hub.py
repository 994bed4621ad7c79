"""What the Hugging Face hub is asked for: repositories without asking it, published sizes of a server of the tests' own."""

import contextlib
import fnmatch
import hashlib
import re
import shutil
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.utils
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import enable_progress_bars

from gpt2ref import CheckpointError, load_checkpoint
from gpt2ref.hub import PUBLISHED

TOKEN_IDS = torch.tensor([[15496, 995]])
FILES = ["config.json", "model.safetensors"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Like snapshot_download, from the folder `remote` to the folder `local`; notes what it was asked for."""
    asked = []

    def snapshot_download(repository, *, allow_patterns):
        asked.append((repository, allow_patterns))
        for path in (tmp_path / "remote").iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, tmp_path / "local")
        return str(tmp_path / "local")

    (tmp_path / "local").mkdir()
    (tmp_path / "remote").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_safetensors_are_asked_for_and_nothing_else_when_they_are_there(hub, tmp_path, folder, model):
    shutil.copytree(folder, tmp_path / "remote", dirs_exist_ok=True)
    for other in ("pytorch_model.bin", "tf_model.h5", "rust_model.ot", "tokenizer.json", "README.md"):
        (tmp_path / "remote" / other).touch()
    loaded = load_checkpoint("openai-community/gpt2")
    assert torch.equal(loaded(TOKEN_IDS), model(TOKEN_IDS))
    assert [repository for repository, _ in hub] == ["openai-community/gpt2"]
    assert names(tmp_path / "local") == {"config.json", "model.safetensors"}


@pytest.mark.usefixtures("hub")
def test_shards_come_with_their_index(tmp_path, hugging_face, model):
    hugging_face.save_pretrained(tmp_path / "remote", max_shard_size="50KB")
    (tmp_path / "remote" / "generation_config.json").unlink()
    assert torch.equal(load_checkpoint("someone/gpt2")(TOKEN_IDS), model(TOKEN_IDS))
    assert names(tmp_path / "local") == names(tmp_path / "remote")


@pytest.mark.usefixtures("reads_pickles")
def test_a_pickle_is_asked_for_when_there_are_no_safetensors(hub, tmp_path, folder, tensors, model):
    shutil.copy(folder / "config.json", tmp_path / "remote")
    torch.save(tensors, tmp_path / "remote" / "pytorch_model.bin")
    assert torch.equal(load_checkpoint("someone/gpt2")(TOKEN_IDS), model(TOKEN_IDS))
    assert [any(".bin" in pattern for pattern in patterns) for _, patterns in hub] == [False, True]


def test_a_repository_without_weights_says_what_was_expected(hub, tmp_path):
    (tmp_path / "remote" / "config.json").touch()
    with pytest.raises(FileNotFoundError, match=r"expected one of model\.safetensors, .*pytorch_model\.bin"):
        load_checkpoint("someone/data")
    assert len(hub) == 2


def test_a_folder_of_the_same_name_goes_before_the_hub(hub, tmp_path, folder, model):
    shutil.copytree(folder, tmp_path / "gpt2")
    assert torch.equal(load_checkpoint("gpt2")(TOKEN_IDS), model(TOKEN_IDS))
    assert hub == []


class HTTPLibraryError(Exception):
    """What httpx raises is no OSError."""


@pytest.mark.parametrize("error", [LocalEntryNotFoundError, ConnectionError, TimeoutError, HTTPLibraryError])
def test_a_hub_that_does_not_answer_is_a_checkpoint_not_found(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error("offline")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(FileNotFoundError, match=r"^checkpoint 'openai-community/gpt2': no such file .* hub .*: offline"):
        load_checkpoint("openai-community/gpt2")


@pytest.mark.parametrize("name", ["openai-community/gpt2", "-gpt2-", "a..b/c"])
def test_offline_the_hubs_own_refusal_is_a_checkpoint_not_found(tmp_path, monkeypatch, name):
    """The last two are names that the hub itself refuses to look up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=f"^checkpoint '{name}': no such file or folder here"):
        load_checkpoint(name)


class Server(ThreadingHTTPServer):
    """The part of the hub's protocol that is used. Weights are elsewhere, as on the hub: a redirect to another host's name."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {}  # (repository, commit, file) -> bytes
        self.asked = []  # (method, path, the headers), in the order of arrival
        self.send = lambda _: None  # called, before the body is sent, with the request; returns how much to send, None for all
        self.damage = lambda body: body  # what arrives of what was announced
        self.headers = {}  # file -> headers in the place of the right ones

    def publish(self, name, folder):
        for file in FILES:
            self.files[(*PUBLISHED[name], file)] = (folder / file).read_bytes()

    def sent(self, method="GET", file="model.safetensors"):
        """The headers with which the file's bytes were asked for."""
        return [
            headers for asked, path, headers in self.asked if (asked, path.split("/")[1]) == (method, "cdn") and file in path
        ]


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        asked = re.fullmatch(r"/(cdn/)?(.+)/resolve/([^/]+)/([^/]+)", self.path)
        if not asked:  # what huggingface_hub asks once for its own ends, such as naming itself in the headers
            self.answer(404, {})
            return
        self.server.asked.append((self.command, self.path, self.headers))
        elsewhere, repository, commit, file = asked.groups()
        if (body := self.server.files.get((repository, commit, file))) is None:
            known = any(repository == other for other, _, _ in self.server.files)
            self.answer(404, {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound", "X-Repo-Commit": commit})
            return
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_hash(body)}"'}
        if elsewhere:
            headers = {"ETag": '"of another server"'}
        elif file.endswith(".safetensors"):
            headers |= {"X-Linked-Size": str(len(body)), "X-Linked-ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
            headers["Location"] = f"http://localhost:{self.server.server_port}/cdn{self.path}"
            self.answer(302, headers | self.server.headers.get(file, {}))
            return
        headers |= {"Accept-Ranges": "bytes"} | self.server.headers.get(file, {})
        self.answer(200, headers, body)

    do_GET = do_HEAD  # noqa: N815 - the name that http.server asks for

    def answer(self, status, headers, body=b""):
        if self.command == "GET":
            body = self.server.damage(body) if status == 200 else body
            if status == 200 and (asked := self.headers["Range"]):
                start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
                headers |= {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
                status, body = 206, body[start:]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and body:
            count = self.server.send(self)
            self.wfile.write(body[:count])
            if count is not None:
                self.server.after(self)
                self.close_connection = True

    def log_message(self, *_):
        pass


def git_hash(body):
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def forget_connections():
    for name in ("close_session", "reset_sessions"):  # the names since and before huggingface_hub 1.0
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
        monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)  # before 0.26
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
        if (path := tmp_path / "cache" / f"models--{repository.replace('/', '--')}" / "snapshots" / revision / file).exists()
    }


def partials(tmp_path):
    return list((tmp_path / "cache").rglob("*.incomplete"))


def contents(folder):
    return {file: (folder / file).read_bytes() for file in FILES}


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
    assert {re.sub("^/cdn", "", path).rsplit("/", 3)[0] for _, path, _ in server.asked} == {"/" + REPOSITORIES[name]}
    assert all(re.fullmatch("[0-9a-f]{40}", path.split("/")[-2]) for _, path, _ in server.asked)
    assert not partials(tmp_path)


def test_the_published_sizes_are_these_and_each_has_a_commit_of_its_own():
    assert {name: repository for name, (repository, _) in PUBLISHED.items()} == REPOSITORIES
    assert len({revision for _, revision in PUBLISHED.values()}) == len(REPOSITORIES)


def test_what_is_cached_is_neither_asked_for_nor_read_again_to_be_checked(server, tiny_folder, monkeypatch):
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
        path = huggingface_hub.hf_hub_download(repository, file, revision=revision, cache_dir=constants.HF_HUB_CACHE)
        assert Path(path).read_bytes() == (tiny_folder / file).read_bytes()
    assert len(server.asked) == before


def test_what_was_cached_under_the_bare_name_is_used(server, tmp_path, tiny_folder):
    load_checkpoint("gpt2")
    (tmp_path / "cache" / "models--openai-community--gpt2").rename(tmp_path / "cache" / "models--gpt2")
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
    assert {headers["Authorization"] for _, path, headers in server.asked if "/cdn" not in path} == {"Bearer hf_secret"}


@pytest.mark.usefixtures("no_pauses")
def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path, tiny_folder):
    """The connection breaks in the middle of the weights, and until the next call none gets any further."""
    size = (tiny_folder / "model.safetensors").stat().st_size
    server.send = lambda request: None if "/cdn" not in request.path else 0 if request.headers["Range"] else size // 2
    with pytest.raises(FileNotFoundError, match=r"(?s)^checkpoint 'gpt2'.*what has arrived is kept"):
        load_checkpoint("gpt2")
    assert cached(tmp_path).keys() == {"config.json"}
    arrived = partials(tmp_path)[0].stat().st_size
    assert 0 < arrived <= size // 2

    server.send = lambda _: None
    server.asked.clear()
    assert same(load_checkpoint("gpt2"), tiny_folder)
    assert [headers["Range"] for headers in server.sent()] == [f"bytes={arrived}-"]
    assert cached(tmp_path) == contents(tiny_folder)
    assert not partials(tmp_path)


def test_ctrl_c_leaves_a_cache_from_which_the_next_call_goes_on(server, tmp_path, tiny_folder):
    """The server stalls in the middle of the weights."""
    size = (tiny_folder / "model.safetensors").stat().st_size
    caller, pressed, over = threading.main_thread().ident, threading.Event(), threading.Event()

    def press(_):
        while not (partials(tmp_path) and partials(tmp_path)[0].stat().st_size) and not over.wait(0.01):
            pass
        if not pressed.is_set():
            pressed.set()
            signal.pthread_kill(caller, signal.SIGINT)
        over.wait(10)

    server.send, server.after = lambda request: size // 2 if "/cdn" in request.path else None, press
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            load_checkpoint("gpt2")
    finally:
        over.set()
        signal.signal(signal.SIGINT, handler)
    assert cached(tmp_path).keys() == {"config.json"}
    arrived = partials(tmp_path)[0].stat().st_size
    assert 0 < arrived <= size // 2

    server.send = lambda _: None
    server.asked.clear()
    assert same(load_checkpoint("gpt2"), tiny_folder)
    assert [headers["Range"] for headers in server.sent()] == [f"bytes={arrived}-"]
    assert cached(tmp_path) == contents(tiny_folder)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["corrupted", "shorter", "longer"])
def test_what_is_not_as_announced_is_refused_by_file_expected_and_found(server, tmp_path, tiny_folder, file, damage):
    right = (tiny_folder / file).read_bytes()
    wrong = {"corrupted": right[:-1] + bytes([right[-1] ^ 1]), "shorter": right[:-5], "longer": right + b"12345"}[damage]
    if damage == "corrupted" and file == "config.json":
        expected, found = f"sha1 {git_hash(right)}", git_hash(wrong)
    elif damage == "corrupted":
        expected, found = f"sha256 {hashlib.sha256(right).hexdigest()}", hashlib.sha256(wrong).hexdigest()
    else:
        expected, found = f"{len(right)} bytes", len(wrong)
    server.damage = lambda body: wrong if body == right else body
    with pytest.raises(CheckpointError, match=f"^openai-community/gpt2/{re.escape(file)}: expected {expected}, found {found}"):
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
    server.headers = {file: {"ETag": '"a mirror\'s"', "X-Linked-ETag": '"a mirror\'s"'} for file in FILES}
    assert same(load_checkpoint("gpt2"), tiny_folder)


@pytest.mark.parametrize("header", ["X-Repo-Commit", "ETag"])
def test_the_page_of_a_network_that_wants_a_login_is_not_taken_for_the_hubs_answer(server, tmp_path, header):
    server.headers = {"config.json": {header: ""}}
    with pytest.raises(FileNotFoundError, match=r"(?s)^checkpoint 'gpt2'.*config\.json: expected commit 607a30d"):
        load_checkpoint("gpt2")
    assert cached(tmp_path) == {}
    assert not partials(tmp_path)


@pytest.mark.parametrize("missing", [["model.safetensors"], FILES])
def test_a_file_or_a_repository_that_the_hub_does_not_have_is_a_checkpoint_not_found(server, tmp_path, missing):
    for file in missing:
        del server.files[(*PUBLISHED["gpt2"], file)]
    with pytest.raises(FileNotFoundError, match=rf"(?s)^checkpoint 'gpt2'.* 404 .*/{re.escape(missing[0])}"):
        load_checkpoint("gpt2")
    assert cached(tmp_path).keys() == set(FILES) - set(missing)
    assert not partials(tmp_path)


NEEDED = r"gpt2 is config\.json and model\.safetensors of openai-community/gpt2: connect to the hub once .* or give a folder"


@pytest.mark.parametrize("there", [[], ["config.json"]])
def test_offline_the_message_says_what_is_needed_and_what_to_do(server, tmp_path, monkeypatch, there):
    if there:
        load_checkpoint("gpt2")
        next((tmp_path / "cache").rglob("model.safetensors")).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_connections()
    server.asked.clear()
    with pytest.raises(FileNotFoundError, match=rf"(?s)^checkpoint 'gpt2': no such file .*offline mode is enabled.*{NEEDED}"):
        load_checkpoint("gpt2")
    assert not server.asked
    assert cached(tmp_path).keys() == set(there)


@pytest.mark.usefixtures("no_pauses")
def test_a_hub_out_of_reach_is_said_in_the_same_way(server, monkeypatch):
    with contextlib.closing(ThreadingHTTPServer(("127.0.0.1", 0), Answer).socket) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    with pytest.raises(FileNotFoundError, match=rf"(?s)^checkpoint 'gpt2': no such file .*refused.*{NEEDED}"):
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
    threads = [threading.Thread(target=lambda: loaded.append(load_checkpoint("gpt2"))) for _ in range(2)]
    threads[0].start()
    started.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert [same(model, tiny_folder) for model in loaded] == [True, True]
    assert len(server.sent()) == 1
    assert not partials(tmp_path)
