"""What a caller got is what metric, audit log, statistics and trace say, at whatever stage a request ends."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.runtime.outcomes.world import (
    ONE,
    REQUEST_BYTES,
    ROW,
    STATUSES,
    World,
    headers,
    json_body,
    message,
    metadata,
    recorded,
    started,
    status_of,
    stream,
    unary,
    unread,
    until,
)
from tests.runtime.rest.rest_helpers import Line, binary_request, http_request

Key = str
NINE = np.array([[9]], np.int64)  # `picky` has no such row


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with started(tmp_path_factory.mktemp("outcomes")) as running:
        yield running


# stage: (model, path below /v2/models/, key, body, headers, the status)
half = binary_request({"x": np.ones((1, 2), np.float16)})
REST: dict[str, tuple[str, str, Key, Any, dict[str, str], int]] = {
    "all is well": ("line", "line", "all", json_body(np.ones(3, np.float32)), {}, 200),
    "decode: no JSON": ("line", "line", "all", b"{", {}, 400),
    "decode: too large": ("line", "line", "all", b" " * (REQUEST_BYTES + 1), {}, 413),
    "decode: an unknown encoding": ("line", "line", "all", b"{}", {"Content-Encoding": "br"}, 415),
    "decode: no dimension": ("line", "line", "all", json_body(np.ones(1, np.float32), shape=[]), {}, 400),
    "decode: an input too many": ("line", "line", "all", {"inputs": [{"name": 1}]}, {}, 400),
    "admit: no key": ("line", "line", "nobody", json_body(np.ones(3, np.float32)), {}, 401),
    "admit: another's model": ("line", "line", "elsewhere", json_body(np.ones(3, np.float32)), {}, 403),
    "find: no such version": (
        "line", "line/versions/9", "all", json_body(np.ones(3, np.float32)), {}, 404,
    ),
    "compute: the engine refuses": ("picky", "picky", "all", json_body(NINE), {}, 400),
    "compute: the factory's code fails": ("surprise", "surprise", "all", json_body(ONE), {}, 500),
    "encode: a datatype that nobody knows": ("surprise", "surprise", "all", json_body(2 * ONE), {}, 500),
    "encode: no form in JSON": ("half", "half", "all", half[0], half[1], 400),
    "send: an answer of 16 MiB": ("huge", "huge", "all", *binary_request({"x": ONE},
        parameters={"binary_data_output": True}), 200),
}  # fmt: skip


@pytest.mark.parametrize("case", REST.values(), ids=REST)
def test_rest(world: World, case: tuple[str, str, Key, Any, dict[str, str], int]) -> None:
    model, path, key, body, more, status = case
    name = world.new_id()
    with recorded(world, model, name, version="versions" not in path) as seen:
        answer = world.server.ask("POST", f"/v2/models/{path}/infer", body, headers(key, name) | more)
        seen.append(answer.status)
    assert seen == [status]


def test_rest_a_model_that_is_not_there(world: World) -> None:
    name = world.new_id()
    with recorded(world, "absent", name, known=False) as seen:
        path = "/v2/models/absent/infer"
        seen.append(world.server.ask("POST", path, json_body(ONE), headers("all", name)).status)
    assert seen == [404]


def test_a_rate_refuses_over_both_protocols(world: World) -> None:
    """Over gRPC by the headers alone, which do not name the model."""
    body = json_body(np.ones(3, np.float32))
    world.server.ask("POST", "/v2/models/line/infer", body, headers("rated"))  # all that it may
    name = world.new_id()
    with recorded(world, "line", name) as seen:
        seen.append(world.server.ask("POST", "/v2/models/line/infer", body, headers("rated", name)).status)
    assert seen == [429]
    name = world.new_id()
    with recorded(world, "", name, known=False) as seen, world.channel() as channel:
        request = message("line", np.ones(3, np.float32))
        seen.append(status_of(lambda: unary(channel)(request, metadata=metadata("rated", name))))
    assert seen == [429]


THREE = np.ones(3, np.float32)
GRPC: dict[str, tuple[str, Key, Any, int]] = {
    "all is well": ("line", "all", message("line", THREE), 200),
    "decode: no dimension": ("line", "all", message("line", np.float32(1).reshape(())), 400),
    "decode: another datatype": ("line", "all", message("line", np.ones(3, np.int64)), 400),
    "admit: another's model": ("line", "elsewhere", message("line", THREE), 403),
    "compute: the engine refuses": ("picky", "all", message("picky", NINE), 400),
    "compute: the factory's code fails": ("surprise", "all", message("surprise", ONE), 500),
    "encode: a datatype that nobody knows": ("surprise", "all", message("surprise", 2 * ONE), 500),
    "send: more than a message may have": ("large", "all", message("large", ONE), 429),
}
UNKNOWN: dict[str, tuple[str, Key, Any, int]] = {
    "decode: no message": ("", "all", b"\xff", 400),
    "admit: no key": ("", "nobody", message("line", THREE), 401),
    "find: no such model": ("absent", "all", message("absent", THREE), 404),
}
OLD = message("line", THREE, version="9")


@pytest.mark.parametrize("case", (GRPC | UNKNOWN).values(), ids=GRPC | UNKNOWN)
def test_grpc(world: World, case: tuple[str, Key, Any, int]) -> None:
    model, key, request, status = case
    name = world.new_id()
    with recorded(world, model, name, known=case in GRPC.values()) as seen, world.channel() as channel:
        seen.append(status_of(lambda: unary(channel)(request, metadata=metadata(key, name))))
    assert seen == [status]


@pytest.mark.parametrize("case", (GRPC | UNKNOWN).values(), ids=GRPC | UNKNOWN)
def test_grpc_stream(world: World, case: tuple[str, Key, Any, int]) -> None:
    """An error is a message of the stream; a caller that nobody knows gets no stream."""
    model, key, request, status = case
    name = world.new_id()
    with recorded(world, model, name, known=case in GRPC.values()) as seen, world.channel() as channel:
        call = stream(channel)(iter([request]), metadata=metadata(key, name))
        if key == "nobody":
            seen.append(status_of(lambda: next(call)))
        else:
            (answer,) = call
            assert bool(answer.error_message) == (status != 200)
            seen.append(status)


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_grpc_a_version_that_is_not_there(world: World, kind: str) -> None:
    name = world.new_id()
    with recorded(world, "line", name, version=False) as seen, world.channel() as channel:
        given = {"metadata": metadata("all", name)}
        if kind == "unary":
            seen.append(status_of(lambda: unary(channel)(OLD, **given)))
        else:
            (answer,) = stream(channel)(iter([OLD]), **given)
            assert "no version '9'" in answer.error_message
            seen.append(404)
    assert seen == [404]


# Others are computed or wait


@contextmanager
def occupied(world: World, requests: int) -> Iterator[None]:
    """``slow`` computes one request, and its queue has room for one more."""
    with world.channel() as channel:
        calls = []
        for waiting in range(requests):
            calls.append(unary(channel).future(message("slow", ROW), metadata=metadata("all", "others")))
            until(lambda n=waiting: inside(world) == (n + 1, n))
        yield
        assert [call.result().model_name for call in calls] == ["slow"] * requests
    until(lambda: inside(world) == (0, 0))


def inside(world: World) -> tuple[float, float]:
    gauges = ("inference_requests_in_flight", "inference_queue_rows")
    in_flight, queued = (world.server.metric(gauge, model="slow") for gauge in gauges)
    return in_flight, queued


def ask_slow(world: World, over: str, name: str, **parameters: int) -> int:
    """The status that a caller of ``slow`` sees."""
    if over == "rest":
        body = json_body(ROW, **parameters)
        return world.server.ask("POST", "/v2/models/slow/infer", body, headers("all", name)).status
    with world.channel() as channel:
        request = message("slow", ROW, **parameters)
        return status_of(lambda: unary(channel)(request, metadata=metadata("all", name)))


@pytest.mark.parametrize("over", ["rest", "grpc"])
def test_a_full_queue(world: World, over: str) -> None:
    name = world.new_id()
    with recorded(world, "slow", name, beside=2) as seen, occupied(world, 2):
        seen.append(ask_slow(world, over, name))
    assert seen == [429]


@pytest.mark.parametrize("over", ["rest", "grpc"])
def test_a_deadline_that_passes_in_the_queue(world: World, over: str) -> None:
    name = world.new_id()
    with recorded(world, "slow", name, beside=1) as seen, occupied(world, 1):
        seen.append(ask_slow(world, over, name, timeout=50_000))
    assert seen == [504]


# A caller that does not wait


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_a_grpc_deadline_that_passes_while_it_is_computed(world: World, kind: str) -> None:
    name = world.new_id()
    with recorded(world, "slow", name) as seen, world.channel() as channel:
        given = {"metadata": metadata("all", name), "timeout": 0.3}
        if kind == "unary":
            seen.append(status_of(lambda: unary(channel)(message("slow", ROW), **given)))
        else:
            call = stream(channel)(iter([message("slow", ROW)]), **given)
            seen.append(status_of(lambda: next(call)))
    assert seen == [504]


@pytest.mark.parametrize("waiting", [0, 1], ids=["computed", "waits"])
@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_a_grpc_call_that_is_cancelled(world: World, kind: str, waiting: int) -> None:
    name = world.new_id()
    with (
        recorded(world, "slow", name, beside=waiting) as seen,
        occupied(world, waiting),
        world.channel() as channel,
    ):
        given = {"metadata": metadata("all", name)}
        request = message("slow", ROW)
        if kind == "unary":
            call = unary(channel).future(request, **given)
        else:
            call = stream(channel)(iter([request]), **given)
        until(lambda: inside(world)[0] == waiting + 1)
        call.cancel()
        seen.append(STATUSES[call.code()])
    assert seen == [499]


def test_a_rest_caller_that_goes_while_it_is_computed(world: World) -> None:
    name = world.new_id()
    with recorded(world, "slow", name) as seen, Line(world.server) as line:
        line.send(post("slow", json.dumps(json_body(ROW)).encode(), name))
        until(lambda: inside(world)[0] == 1)
        line.reset()
        seen.append(499)


def test_a_rest_caller_that_goes_while_its_body_comes(world: World) -> None:
    name = world.new_id()
    with recorded(world, "line", name) as seen, Line(world.server) as line:
        line.send(post("line", json.dumps(json_body(THREE)).encode(), name)[:-1])
        time.sleep(0.05)
        line.reset()
        seen.append(499)


def test_a_rest_caller_that_goes_while_it_reads(world: World) -> None:
    name = world.new_id()
    body, more = binary_request({"x": ONE}, parameters={"binary_data_output": True})
    with recorded(world, "huge", name) as seen, socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", world.server.http_port))
        line.sendall(post("huge", body, name, **more))
        assert line.recv(100).startswith(b"HTTP/1.1 200")
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.close()
        seen.append(499)


def post(model: str, body: bytes, name: str, **more: str) -> bytes:
    return http_request("POST", f"/v2/models/{model}/infer", body, headers("all", name) | more)


FIXED_WINDOW = ("grpc.http2.bdp_probe", 0)  # a connection takes 64 KiB that nobody reads, and no more


@pytest.mark.parametrize(("timeout", "status"), [(None, 499), (0.5, 504)])
def test_a_grpc_caller_that_ends_while_it_reads(world: World, timeout: float | None, status: int) -> None:
    name = world.new_id()
    with recorded(world, "unread", name) as seen, world.channel(FIXED_WINDOW) as channel:
        call = unread(channel)(message("unread", ONE), metadata=metadata("all", name), timeout=timeout)
        until(lambda: world.server.metric("inference_compute_duration_seconds_count", model="unread") > 0)
        time.sleep(0.2)
        assert world.audited(name) == [], "nothing is recorded before it was sent"
        if timeout is None:
            call.cancel()
        seen.append(STATUSES[call.code()])
    assert seen == [status]
