"""A small HTTP server whose answers a test writes, and what the tests of fetching share."""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

WEIGHTS = bytes(range(256)) * 3000


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Asked:
    """One request as it came."""

    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]


Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        web = self.server.web
        web.asked.append(
            Asked(parts.path, parse_qs(parts.query), {k.lower(): v for k, v in self.headers.items()})
        )
        answers = web.answers.get(parts.path)
        if not answers:
            self.reply(404, b"no such thing")
            return
        answer = answers.pop(0) if len(answers) > 1 else answers[0]  # the last one stays
        answer(self)

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    web: Web

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what some tests are about."""


@dataclass
class Web:
    """``answers``: for each path what is said to the first request, the second, …"""

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    tls: ssl.SSLContext | None = None

    def __enter__(self) -> Web:
        self.server = _Server(("127.0.0.1", 0), Handler)
        self.server.web = self
        if self.tls:
            self.server.socket = self.tls.wrap_socket(self.server.socket, server_side=True)
        self.released = threading.Event()
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def said(self, path: str) -> list[Asked]:
        return [one for one in self.asked if one.path == path]


def body(data: bytes, status: int = 200, **headers: str) -> Answer:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return lambda handler: handler.reply(status, data, named)


def redirect(url: str) -> Answer:
    return body(b"", 302, Location=url)


def truncated(data: bytes) -> Answer:
    """Half of what was announced, then the connection ends."""

    def answer(handler: Handler) -> None:
        handler.close_connection = True
        handler.reply(200, data[: len(data) // 2], {"Content-Length": str(len(data))})

    return answer


def stalled(data: bytes) -> Answer:
    """Half of what was announced, then nothing while the server lives."""

    def answer(handler: Handler) -> None:
        handler.reply(200, data[: len(data) // 2], {"Content-Length": str(len(data))})
        handler.wfile.flush()
        handler.server.web.released.wait()
        handler.close_connection = True

    return answer
