"""Who may not ask is told so by the headers, before a body costs anything; and bodies have a budget."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from modelway_runtime.serving.grpc.messages import ModelInferRequest
from tests.runtime.rest.rest_helpers import Line, http_request
from tests.support import serving
from tests.support.memory import resident
from tests.support.serving import Server

MIB = 2**20
BODY = {"inputs": [{"name": "x", "datatype": "UINT8", "shape": [1, 1], "data": [7]}]}
INFER = "/v2/models/identity/infer"
RPC = "/inference.GRPCInferenceService/"
BUDGET = 32 * MIB
BURST = 3
KEYS = {
    "all": {},
    "another": {"models": ["other"]},
    **{name: {"requests_per_second": 0.01, "burst": BURST} for name in ("seldom", "rest", "grpc", "stream")},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving.write_model(tmp_path_factory.mktemp("model"), "identity", serving.identity("UINT8"))


@pytest.fixture(scope="module")
def keyed(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = [
        {"client": name, "sha256": sha256(name.encode()).hexdigest(), **grant} for name, grant in KEYS.items()
    ]
    file.write_text(json.dumps({"keys": keys}))
    settings = serving.settings_of(
        [serving.served("identity", weights)], auth={"mode": "api_key", "keys_file": str(file)}
    )
    with serving.serving_settings(settings) as server:
        yield server


@pytest.fixture
def narrow(weights: Path) -> Iterator[Server]:
    limits = {"request_bytes": BUDGET // 16, "in_flight": 256}
    settings = serving.settings_of([serving.served("identity", weights)], limits=limits)
    with serving.serving_settings(settings) as server:
        yield server


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


@pytest.mark.parametrize(
    ("key", "path", "status"),
    [
        ("", INFER, 401),
        ("nobody", INFER, 401),
        ("another", INFER, 403),
        ("all", "/v2/models/nosuch/infer", 404),
        ("all", "/v2/models/identity/versions/9/infer", 404),
        ("all", "/nowhere", 404),
        ("", "/v2/repository/index", 401),
        ("seldom", INFER, 429),
    ],
)
def test_rest_refuses_before_the_body(keyed: Server, key: str, path: str, status: int) -> None:
    if status == 429:
        answers = [keyed.ask("POST", INFER, BODY, bearer(key)).status for _ in range(BURST + 1)]
        assert answers == [200] * BURST + [429]
    with Line(keyed) as line:
        headers = {"content-length": str(16 * MIB), "expect": "100-continue", **bearer(key)}
        line.send(http_request("POST", path, headers=headers, sized=False))
        assert line.answer().status == status  # not 100, which asks for the body


CONTROLS = [
    "/v2/repository/index",
    "/v2/repository/models/identity/load",
    "/v2/repository/models/identity/unload",
]


@pytest.mark.parametrize("path", CONTROLS)
def test_a_body_that_is_no_inference_is_short(keyed: Server, path: str) -> None:
    """Declared, in chunks, and out of a small compressed one."""
    large = b"[" + b"[]," * MIB + b"[]]"
    packed = gzip.compress(large)
    assert len(packed) < 32 * 1024
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)
    headers = bearer("all")
    requests = [
        http_request("POST", path, headers={**headers, "content-length": str(len(large))}, sized=False),
        http_request("POST", path, headers={**headers, "transfer-encoding": "chunked"}, sized=False) + chunks,
        http_request("POST", path, packed, {**headers, "content-encoding": "gzip"}),
    ]
    for request in requests:
        with Line(keyed) as line:
            line.send(request)
            assert line.answer().status == 413


def test_whatever_is_refused_takes_a_token(keyed: Server) -> None:
    asked: list[tuple[str, str, Any]] = [
        ("GET", "/v2/models/identity", None),
        ("POST", INFER, b"no JSON"),
        ("POST", INFER, b'{"inputs":[]}'),
    ]
    for _, (method, path, body) in zip(range(BURST), asked, strict=True):
        assert keyed.ask(method, path, body, bearer("rest")).status in (200, 400)
    for method, path, body in asked:
        assert keyed.ask(method, path, body, bearer("rest")).status == 429


def test_grpc_takes_a_token_for_whatever_is_refused(keyed: Server) -> None:
    async def run() -> list[grpc.StatusCode]:
        async with grpc.aio.insecure_channel(keyed.grpc) as channel:
            metadata = (("authorization", "Bearer grpc"),)
            calls = [("ModelInfer", b"\xff"), ("ModelMetadata", b"\n\x08identity"), ("ModelInfer", b"")]
            return [await code(channel, method, data, metadata) for method, data in calls * 2]

    codes = asyncio.run(run())
    assert grpc.StatusCode.RESOURCE_EXHAUSTED not in codes[:BURST]
    assert codes[BURST:] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * BURST


async def code(
    channel: grpc.aio.Channel, method: str, data: bytes, metadata: tuple[tuple[str, str], ...] = ()
) -> grpc.StatusCode:
    try:
        await channel.unary_unary(RPC + method)(data, metadata=metadata, timeout=60)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def request_of(size: int) -> bytes:
    message = ModelInferRequest(model_name="identity")
    message.inputs.add(name="x", datatype="UINT8", shape=[1, size])
    message.raw_input_contents.append(bytes(size))
    return bytes(message.SerializeToString())


async def all_at_once(server: Server, method: str, data: bytes, count: int) -> list[grpc.StatusCode]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(server.grpc, options=options) as channel:
        return list(await asyncio.gather(*(code(channel, method, data) for _ in range(count))))


@pytest.mark.parametrize("method", ["ModelInfer", "ServerMetadata", "RepositoryIndex"])
def test_messages_of_strangers_are_not_received(keyed: Server, method: str) -> None:
    before = resident(keyed.pid, "VmHWM")
    kept = resident(keyed.pid)
    codes = asyncio.run(all_at_once(keyed, method, request_of(15 * MIB), 30))
    assert codes == [grpc.StatusCode.UNAUTHENTICATED] * 30
    assert resident(keyed.pid, "VmHWM") - before < 160 * MIB  # they are 450
    given_back(keyed, kept)


def test_unfinished_bodies_have_a_budget(narrow: Server) -> None:
    before = resident(narrow.pid)
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(narrow)) for _ in range(17)]
        head = http_request("POST", INFER, headers={"content-length": str(2 * MIB)}, sized=False)
        for line in lines[:-1]:
            line.send(head + b" " * (2 * MIB - 50_000))
        time.sleep(0.5)
        full = lines[-1]
        full.send(head)
        answer = full.answer()
        assert (answer.status, answer.headers["retry-after"]) == (429, "2")
        assert narrow.ask("POST", INFER, BODY).status == 200  # a small one has room
        assert resident(narrow.pid, "VmHWM") - before < 3 * BUDGET


def given_back(server: Server, before: int) -> None:
    end = time.monotonic() + 10
    while resident(server.pid) - before > 96 * MIB:
        assert time.monotonic() < end, f"{(resident(server.pid) - before) >> 20} MiB are kept"
        time.sleep(0.1)
