"""A local server that speaks the part of the Hugging Face hub's protocol that hub.py needs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gpt2ref.checkpoint.hub import PUBLISHED

FILES = ["config.json", "model.safetensors"]


class Server(ThreadingHTTPServer):
    """Serves published files. Like the hub, it redirects a request for weights to another host."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[tuple[str, str, str], bytes] = {}  # (repository, commit, file) -> bytes
        # (method, path, headers) of each request, in the order of arrival
        self.asked: list[tuple[str, str, Message]] = []
        # request -> how many bytes of the body to send, None for all
        self.send: Callable[[Answer], int | None] = lambda _: None
        # the announced body -> the body that is sent
        self.damage: Callable[[bytes], bytes] = lambda body: body
        # file -> headers that replace the right ones; None removes one
        self.headers: dict[str, dict[str, str | None]] = {}

    def publish(self, name, folder):
        for file in FILES:
            self.files[(*PUBLISHED[name], file)] = (folder / file).read_bytes()

    def sent(self, method="GET", file="model.safetensors"):
        """Return the headers of each request for the file's bytes."""
        return [
            headers
            for asked, path, headers in self.asked
            if (asked, path.split("/")[1]) == (method, "cdn") and file in path
        ]


class Answer(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        asked = re.fullmatch(r"/(cdn/)?(.+)/resolve/([^/]+)/([^/]+)", self.path)
        if not asked:  # huggingface_hub's requests for its own ends
            self.answer(404, {})
            return
        self.server.asked.append((self.command, self.path, self.headers))
        elsewhere, repository, commit, file = asked.groups()
        if (body := self.server.files.get((repository, commit, file))) is None:
            known = any(repository == other for other, _, _ in self.server.files)
            code = "EntryNotFound" if known else "RepoNotFound"
            self.answer(404, {"X-Error-Code": code, "X-Repo-Commit": commit})
            return
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_hash(body)}"'}
        if elsewhere:
            headers = {"ETag": '"of another server"'}
        elif file.endswith(".safetensors"):
            headers |= {
                "X-Linked-Size": str(len(body)),
                "X-Linked-ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            }
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
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                headers |= {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
                status, body = 206, body[start:]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and body:
            count = self.server.send(self)
            self.wfile.write(body[:count])
            self.close_connection = count is not None

    def log_message(self, *_):
        pass


def git_hash(body):
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
