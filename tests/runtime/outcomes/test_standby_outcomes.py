"""The same four records where a standby answers, or should have, in place of the own model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.runtime.outcomes.world import (
    ONE,
    World,
    headers,
    json_body,
    message,
    metadata,
    recorded,
    started,
    status_of,
    unary,
)

GOOD = (
    b'{"model_name":"lite","model_version":"1",'
    b'"outputs":[{"name":"y","datatype":"FP32","shape":[1,1],"data":[1]}]}'
)


class Standby(ThreadingHTTPServer):
    """Answers with the status that a test wants."""

    status = 200


class _Answers(BaseHTTPRequestHandler):
    server: Standby

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(GOOD)))
        self.end_headers()
        self.wfile.write(GOOD)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def standby() -> Iterator[Standby]:
    with Standby(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, standby: Standby) -> Iterator[World]:
    away = {
        "url": f"http://127.0.0.1:{standby.server_port}",
        "model": "lite",
        "trip_after": 1000,
        "probation_s": 0.1,
        "active": False,
    }
    with started(tmp_path_factory.mktemp("standby"), model="surprise", standby=away) as running:
        yield running


@pytest.mark.parametrize(
    ("status", "rest", "grpc"), [(200, 200, 200), (302, 502, 500), (404, 404, 404), (503, 503, 503)]
)
def test_what_the_standby_answers(world: World, standby: Standby, status: int, rest: int, grpc: int) -> None:
    """``surprise`` fails on a 1, so the standby is asked."""
    standby.status = status
    for over, expected in (("rest", rest), ("grpc", grpc)):
        name = world.new_id()
        counted = world.server.metric("inference_standby_requests_total", model="surprise")
        with recorded(world, "surprise", name) as seen:
            if over == "rest":
                path = "/v2/models/surprise/infer"
                seen.append(world.server.ask("POST", path, json_body(ONE), headers("all", name)).status)
            else:
                with world.channel() as channel:
                    call = unary(channel)
                    asked = metadata("all", name)
                    seen.append(status_of(lambda c=call, m=asked: c(message("surprise", ONE), metadata=m)))
        assert seen == [expected]
        now = world.server.metric("inference_standby_requests_total", model="surprise")
        assert now - counted == (status == 200), "what the standby has answered"
