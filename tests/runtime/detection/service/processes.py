"""The real commands as processes, and requests to what they serve."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from tests.runtime.detection.service.shop_past import TOKEN
from tests.support.serving import Answer, ask, finish

RUNTIME = Path(__file__).resolve().parents[4] / "runtime"
STARTS_IN_S = 60.0
BEARER = {"Authorization": f"Bearer {TOKEN}"}
BASIC = {"Authorization": "Basic " + base64.b64encode(f"anyone:{TOKEN}".encode()).decode()}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(RUNTIME), "NO_COLOR": "1", **more}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "modelway_runtime", *map(str, arguments)]


def run(
    *arguments: str | Path, cwd: Path | None = None, timeout_s: float = 90.0, **more: str
) -> subprocess.CompletedProcess[str]:
    """A command that ends."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=cwd,
        env=environment(**more),
    )


@dataclass(frozen=True)
class Running:
    """A detector that stays. ``lines`` is its anomaly log."""

    process: subprocess.Popen[bytes]
    ports: dict[str, int]
    folder: Path

    def ask(self, body: Any = None, headers: Mapping[str, str] = BEARER) -> Answer:
        """A question to the gate; bytes are sent as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return ask(self.ports["gate"], "POST", "/v1/gate", data, headers)

    def get(self, path: str, headers: Mapping[str, str] = BEARER, port: str = "gate") -> Answer:
        return ask(self.ports[port], "GET", path, None, headers)

    def log(self) -> str:
        return (self.folder / "stderr").read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = (self.folder / "stdout").read_text()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)


@contextmanager
def staying(folder: Path, *arguments: str | Path, **more: str) -> Iterator[Running]:
    """``watch`` or ``gate`` on 127.0.0.1, as soon as it listens."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stderr").open("wb") as errors, (folder / "stdout").open("wb") as output:
        process = subprocess.Popen(
            command(*arguments, "--host", "127.0.0.1"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=environment(**more),
        )
    try:
        yield Running(process, _ports(process, folder / "stderr"), folder)
    finally:
        finish(process)


def _ports(process: subprocess.Popen[bytes], log: Path) -> dict[str, int]:
    end = time.monotonic() + STARTS_IN_S
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text().splitlines(keepends=True):
            if line.startswith('{"listening"') and line.endswith("\n"):
                return dict(json.loads(line)["listening"])
        time.sleep(0.02)
    raise AssertionError(f"it did not start (exit code {process.poll()}):\n{log.read_text()}")


@contextmanager
def proxy(target: str, *, delay_s: float = 0.0, refuse: str | None = None) -> Iterator[str]:
    """Before a Prometheus: slow, or it refuses queries that hold a text."""
    host = urlsplit(target)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if refuse is not None and refuse in unquote_plus(body.decode()):
                self.answer(400, b'{"status": "error", "error": "refused here"}')
                return
            time.sleep(delay_s)
            connection = http.client.HTTPConnection(str(host.hostname), host.port, timeout=20)
            connection.request("POST", self.path, body, {"Content-Type": self.headers["Content-Type"]})
            got = connection.getresponse()
            self.answer(got.status, got.read())
            connection.close()

        def answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(OSError):  # who asked has gone
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Handler) as url:
        yield url


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A small HTTP server on a free port; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def eventually(true: Any, within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
