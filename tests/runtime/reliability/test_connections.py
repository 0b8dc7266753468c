"""What connections of strangers may cost the ports of the server: work, memory, threads, time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from modelway_runtime.process import listener
from modelway_runtime.serving.http_protocol import Limits, Uvicorn
from modelway_runtime.serving.metrics_port import LIMITS as OF_METRICS
from tests.support import serving
from tests.support.serving import Server

GET = b"GET /v2 HTTP/1.1\r\n\r\n"
SOON_S = 2.0  # a probe's patience
PROBES = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    serving.write_model(folder, "identity", serving.identity("UINT8"))
    with serving.serving_folder(folder) as running:
        yield running


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def slowest_probe(port: int, path: str, lasts_s: float = 1.5) -> float:
    """Of probes one after the other, as kubelet's: each on a connection of its own."""
    slowest, end = 0.0, time.monotonic() + lasts_s
    while time.monotonic() < end:
        began = time.monotonic()
        assert serving.ask(port, "GET", path).status == 200
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.05)
    return slowest


def flood(port: int, request: bytes, connections: int, stack: ExitStack) -> list[socket.socket]:
    """So many connections, each with 256 KiB of requests that nobody waits for."""
    lines = []
    for _ in range(connections):
        line = stack.enter_context(connected(port))
        line.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            line.send(request * (2**18 // len(request)))
        lines.append(line)
    return lines


def test_probes_are_answered_while_strangers_pipeline(server: Server) -> None:
    with ExitStack() as stack:
        flood(server.http_port, GET, 30, stack)
        assert slowest_probe(server.http_port, "/v2/health/live") < SOON_S
    assert slowest_probe(server.http_port, "/v2/health/live", 0.2) < SOON_S


def test_scrapes_are_answered_while_strangers_pipeline(server: Server) -> None:
    with ExitStack() as stack:
        flood(server.metrics_port, b"GET /metrics HTTP/1.1\r\n\r\n", 10, stack)
        assert slowest_probe(server.metrics_port, "/metrics") < SOON_S


def test_what_is_pipelined_is_answered_in_order_and_in_full(server: Server) -> None:
    """However much comes at once, and wherever the reads part it."""
    count = 2000
    paths = [f"/v2/models/{number}" for number in range(count)]
    text = b"".join(
        f"GET {path} HTTP/1.1\r\nx-request-id: {n}\r\n\r\n".encode() for n, path in enumerate(paths)
    )
    with connected(server.http_port) as line:
        sender = threading.Thread(target=line.sendall, args=(text,))
        sender.start()
        received = b""
        while received.count(b"x-request-id: ") < count:
            part = line.recv(65536)
            assert part, "the server has closed the connection"
            received += part
        sender.join()
    ids = [int(line[14:]) for line in received.split(b"\r\n") if line.startswith(b"x-request-id: ")]
    assert ids == list(range(count))


def test_bodies_are_pipelined_too(server: Server) -> None:
    one = b'{"inputs":[{"name":"x","datatype":"UINT8","shape":[1,1],"data":[7]}]' + b" " * 5000 + b"}"
    head = b"POST /v2/models/identity/infer HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(one)
    chunked = b"POST /v2/models/identity/infer HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(one), one)
    with connected(server.http_port) as line:
        sender = threading.Thread(target=line.sendall, args=((head + one + chunked + GET) * 100,))
        sender.start()
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 300:
            part = line.recv(65536)
            assert part, received[-1000:]
            received += part
        sender.join()


def test_silent_connections_take_no_threads_and_make_room(server: Server) -> None:
    """On the port of metrics, where each had a thread."""
    before = threads(server)
    with ExitStack() as stack:
        lines = [stack.enter_context(connected(server.metrics_port)) for _ in range(300)]
        assert serving.ask(server.metrics_port, "GET", "/metrics").status == 200
        assert threads(server) <= before + 2
        assert sum(map(ended, lines)) >= 300 - OF_METRICS.connections
        assert not ended(lines[-1])


def test_a_full_port_makes_room_for_a_probe(server: Server) -> None:
    most = Limits().connections
    with ExitStack() as stack:
        kept = stack.enter_context(connected(server.http_port))
        half = stack.enter_context(connected(server.http_port))
        half.sendall(GET[:-2])
        kept.sendall(GET)
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        lines = [stack.enter_context(connected(server.http_port)) for _ in range(most)]
        assert slowest_probe(server.http_port, "/v2/health/live", 0.3) < SOON_S
        assert sum(map(ended, lines)) > 0
        assert ended(half)
        assert not ended(kept)  # silent ones go before those that were of use


def threads(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/task").iterdir()))


def ended(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return line.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


# Times, in a server of this process with short ones

LARGE = 8 * 2**20


async def large(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]}
    )
    await send({"type": "http.response.body", "body": bytes(LARGE)})


@asynccontextmanager
async def listening(limits: Limits) -> AsyncIterator[Uvicorn]:
    socket_ = listener("127.0.0.1", 0)
    server = Uvicorn(large, limits, timeout_graceful_shutdown=1)
    task = asyncio.create_task(server.serve(sockets=[socket_]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server
    finally:
        server.should_exit = True
        await task


def port_of(server: Uvicorn) -> int:
    return int(server.servers[0].sockets[0].getsockname()[1])


async def ends_within(line: socket.socket, seconds: float) -> bool:
    """Whether the server ends a connection, of which nothing is read."""
    end = time.monotonic() + seconds
    watched = socket.socket(fileno=line.detach())
    with watched:
        while time.monotonic() < end:
            if watched.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or _tcp_state(watched) != 1:
                return True
            await asyncio.sleep(0.05)
    return False


def _tcp_state(line: socket.socket) -> int:
    """1: established."""
    return line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\na: b\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n1",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n" * 20,
        b"GET / HTTP/1.1\r\n\r\nGET / HT",
    ],
    ids=[
        "silence",
        "a line",
        "headers",
        "a body",
        "an answer",
        "a last answer",
        "answers",
        "an answer and more",
    ],
)
def test_a_connection_that_waits_for_its_caller_ends(sent: bytes) -> None:
    """Whatever the caller leaves undone; nobody reads an answer here."""

    async def run() -> None:
        limits = Limits(headers_s=0.5, request_s=0.5, send_s=0.5, send_rate=LARGE, idle_s=1)
        async with listening(limits) as server:
            line = socket.socket()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect(("127.0.0.1", port_of(server)))
            line.sendall(sent)
            assert await ends_within(line, 8)

    asyncio.run(run())


def test_answers_that_nobody_takes_are_bounded_together() -> None:
    async def run() -> None:
        async with listening(Limits(unsent_bytes=4 * LARGE)) as server:
            with ExitStack() as stack:
                lines = [stack.enter_context(connected(port_of(server))) for _ in range(12)]
                for line in lines:
                    line.sendall(b"GET / HTTP/1.1\r\n\r\n" * 3)
                    await asyncio.sleep(0.05)
                    connections: set[Any] = server.server_state.connections
                    assert sum(connection.unsent for connection in connections) <= 5 * LARGE
                assert len(connections) < len(lines)

    asyncio.run(run())
