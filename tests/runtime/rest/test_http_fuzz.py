"""Generated requests at a real server: by its own OpenAPI document, and broken HTTP on bare connections."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.rest.rest_helpers import LENGTH, http_request
from tests.support.serving import Server

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
READY_SAYS_503 = """
[[operations]]
include-path-regex = "ready$"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]
"""
KNOWN_MODEL = """
[parameters]
"path.model" = "identity-fp32"
"path.version" = "1"
"""
CASES = 300


@pytest.fixture
def log_of(server: Server) -> Iterator[Server]:
    """The server, which afterwards lives and has had no trouble of its own."""
    before = len(server.log())
    yield server
    assert server.process.poll() is None
    assert server.ask("GET", "/v2/health/live").json == {"live": True}
    assert server.ask("GET", "/v2/models/identity-fp32/ready").json["ready"]
    written = server.log()[before:]
    assert [line for line in written.splitlines() if "Traceback" in line][:3] == []


@pytest.mark.parametrize("known", [False, True], ids=["any model", "a model that is there"])
def test_answers_are_as_the_openapi_document_says(log_of: Server, tmp_path: Path, known: bool) -> None:
    """What it says of statuses, content types and bodies holds for right and for wrong requests."""
    (tmp_path / "schemathesis.toml").write_text(KNOWN_MODEL if known else READY_SAYS_503)
    tool = Path(sysconfig.get_path("scripts")) / "schemathesis"
    command = [
        sys.executable, str(tool), "--no-color", "run", f"{log_of.http}/v2/openapi.json",
        "--checks", CHECKS, "--mode", "all", "--phases", "coverage,fuzzing", "--seed", "7",
        "--max-examples", "15" if known else "5", "--max-time", "7", "--request-timeout", "5",
        "--no-shrink", "--warnings", "off", "--generation-database", "none",
    ]  # fmt: skip
    if known:
        command += ["--include-path-regex", "infer$"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


INFER = "/v2/models/identity-fp32/infer"
BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}'
SEEDS = [
    http_request("GET", "/v2/health/live"),
    http_request("POST", INFER, BODY),
    http_request("POST", INFER, BODY, {"content-type": "application/json", "connection": "keep-alive"}),
    http_request("POST", INFER, BODY + b"1234", {LENGTH: str(len(BODY))}),
    http_request("POST", INFER, BODY, {"content-encoding": "gzip", "accept-encoding": "gzip, deflate;q=0"}),
    http_request("POST", INFER, b"5\r\nhello\r\n0\r\n\r\n", {"transfer-encoding": "chunked"}, sized=False),
    http_request("POST", INFER, BODY, {"expect": "100-continue"}),
    http_request("GET", "http://test/v2?a=b#c", headers={"upgrade": "websocket", "connection": "upgrade"}),
    http_request("POST", "/v2/repository/index", b'{"ready":true}', {"traceparent": "00-" + "a" * 52}),
    http_request("HEAD", "/v2/models/%00%ff%2e%2e/versions/1"),
]
PIECES = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"\xff\xfe", b"%", b"%zz", b"%00", b"-1", b"0", b"9" * 30,
    b"chunked", b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b"host: \r\n", b"HTTP/9.9",
    b"HTTP/1.0", b"http://", b"*", b"CONNECT x:1 HTTP/1.1\r\n\r\n", b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET http://x HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
    b"connection: close\r\n", b"content-encoding: deflate\r\n", b"x-request-id: \x7f\r\n", b" folded\r\n",
    b"accept-encoding: gzip\r\n", b"inference-header-content-length: 1\r\n", b"fffffffffffffffff\r\n",
]  # fmt: skip


def mutated(choose: random.Random) -> bytes:
    """One or two requests with some damage; small ones are likely to be close to right."""
    text = bytearray(choose.choice(SEEDS) + choose.choice([b"", choose.choice(SEEDS)]))
    for _ in range(choose.choice([0, 1, 1, 1, 2, 3, 8])):
        at = choose.randrange(len(text) + 1)
        to = min(len(text), at + choose.choice([0, 0, 1, 2, 10]))
        text[at:to] = choose.choice([choose.choice(PIECES), b"", choose.randbytes(choose.randrange(1, 5))])
    return bytes(text[: choose.choice([None, None, choose.randrange(len(text) + 1)])])


def said_to(server: Server, text: bytes) -> bytes:
    """All that is answered to bytes after which nothing more comes."""
    said = b""
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=10) as line:
        try:
            line.sendall(text)
            line.shutdown(socket.SHUT_WR)
            while part := line.recv(65536):
                said += part
        except ConnectionError:  # refused before the last byte was sent
            pass
    return said


@pytest.mark.parametrize("share", range(3))
def test_broken_http_breaks_nothing(log_of: Server, share: int) -> None:
    choose = random.Random(share)
    statuses: set[bytes] = set()
    for _ in range(CASES // 3):
        text = mutated(choose)
        for line in said_to(log_of, text).split(b"HTTP/1.1 ")[1:]:
            status = line[:3]
            statuses.add(status)
            assert status[:1] != b"5" or status in (b"501", b"505"), (text, line)
    assert {b"200", b"400", b"404"} <= statuses  # the cases are neither all right nor all wrong
