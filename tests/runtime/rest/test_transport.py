"""HTTP as it comes: encodings, limits, slow and rude callers, pipelining, callers that go away."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from tests.runtime.rest.conftest import REQUEST_BYTES
from tests.runtime.rest.rest_helpers import (
    LENGTH,
    Line,
    binary_request,
    error_of,
    http_request,
    outputs_of,
    same,
)
from tests.support.serving import Answer, Server

INFER = "/v2/models/identity-fp32/infer"
WIDE = "/v2/models/wide/infer"  # UINT8, of the server with narrow limits
SLOW = "/v2/models/slow/infer"
LIVE = http_request("GET", "/v2/health/live")
X = np.arange(6, dtype=np.float32).reshape(2, 3)
BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2,3],"data":[0,1,2,3,4,5]}]}'
SLOW_BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[0,0,0,0]}]}'
HEADER_LIMIT = 32 * 1024


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw deflate": raw_deflate,
}

DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}


def name_of(encoder: str) -> str:
    return encoder.rpartition(" ")[2]


def answered(answer: Answer) -> None:
    same(outputs_of(answer)["y"], X)


# Encodings of requests


@pytest.mark.parametrize("encoder", ENCODERS)
def test_compressed_requests(server: Server, encoder: str) -> None:
    encode = ENCODERS[encoder]
    headers = {"Content-Encoding": name_of(encoder)}
    answered(server.ask("POST", INFER, encode(BODY), headers))
    body, length = binary_request({"x": X})  # the length is that of the JSON as it was
    answered(server.ask("POST", INFER, encode(body), {**headers, **length}))
    headers["Content-Encoding"] = f" {name_of(encoder).upper()} "
    answered(server.ask("POST", INFER, encode(BODY), headers))


def test_an_encoding_that_changes_nothing(server: Server) -> None:
    answered(server.ask("POST", INFER, BODY, {"Content-Encoding": "identity"}))


@pytest.mark.parametrize("name", ["br", "zstd", "gzip, gzip", "gzip,deflate", "x", "gzip\t;q=1"])
def test_unknown_encodings(server: Server, name: str) -> None:
    error_of(server.ask("POST", INFER, BODY, {"Content-Encoding": name}), 415)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_compressed_streams_that_are_broken(server: Server, encoder: str) -> None:
    whole = ENCODERS[encoder](BODY)
    headers = {"Content-Encoding": name_of(encoder)}
    broken = [
        b"",
        whole[:1],
        whole[:-1],
        whole[: len(whole) // 2],
        whole + b"x",
        whole + whole,
        BODY,
        b"\0" * 50,
    ]
    for body in broken:
        error_of(server.ask("POST", INFER, body, headers), 400)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("size", [REQUEST_BYTES + 1, 30_000_000])
def test_a_bomb_is_not_unpacked(limited: Server, encoder: str, size: int) -> None:
    bomb = ENCODERS[encoder](b" " * size)
    before = limited.metric("inference_rejected_total", model="wide", reason="limit")
    if len(bomb) > REQUEST_BYTES:
        bomb = bomb[:REQUEST_BYTES]  # still says more than the limit before its end
    started = time.monotonic()
    headers = {"Content-Encoding": name_of(encoder)}
    assert str(REQUEST_BYTES) in error_of(limited.ask("POST", WIDE, bomb, headers), 413)
    assert time.monotonic() - started < 5
    assert limited.metric("inference_rejected_total", model="wide", reason="limit") == before + 1


# Encodings of answers


@pytest.mark.parametrize("elements", [10, 2000, 100_000])
@pytest.mark.parametrize("binary", [False, True])
def test_compressed_answers(server: Server, elements: int, binary: bool) -> None:
    x = np.zeros((1, elements), np.float32)
    body, length = binary_request({"x": x}, parameters={"binary_data_output": binary})
    for accepted, name in (
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("br;q=1.0, deflate;q=0.8", "deflate"),
        ("GZIP", "gzip"),
        ("br", ""),
        ("identity", ""),
        ("gzip;q=0", ""),
    ):
        answer = server.ask("POST", INFER, body, {**length, "Accept-Encoding": accepted})
        if elements == 10:  # not worth it
            name = ""
        assert answer.headers.get("content-encoding", "") == name, accepted
        plain = DECODERS[name](answer.body)
        same(outputs_of(Answer(answer.status, answer.headers, plain))["y"], x)
        if name:
            assert answer.headers["vary"] == "accept-encoding"
            assert len(answer.body) < len(plain) / 2


# Limits


def padded(size: int) -> bytes:
    """A body of so many bytes."""
    body = b'{"inputs":[{"name":"x","datatype":"UINT8","shape":[1,1],"data":[7]}]}'
    return body + b" " * (size - len(body))


def chunked(body: bytes, size: int, path: str = WIDE) -> bytes:
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(part), part)
        for part in (body[at : at + size] for at in range(0, len(body), size))
    )
    head = http_request("POST", path, headers={"transfer-encoding": "chunked"}, sized=False)
    return head + chunks + b"0\r\n\r\n"


def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_not(limited: Server) -> None:
    assert limited.ask("POST", WIDE, padded(REQUEST_BYTES)).status == 200
    before = limited.metric("inference_rejected_total", model="wide", reason="limit")
    assert str(REQUEST_BYTES) in error_of(limited.ask("POST", WIDE, padded(REQUEST_BYTES + 1)), 413)
    assert limited.metric("inference_rejected_total", model="wide", reason="limit") == before + 1
    assert limited.metric("inference_requests_total", model="wide", code="413") > 0


@pytest.mark.parametrize("size", [1, 7, 4096, 200_000])
def test_a_body_in_chunks(limited: Server, size: int) -> None:
    good = padded(500 if size < 100 else REQUEST_BYTES)
    with Line(limited) as line:
        line.send(chunked(good, size))
        assert line.answer().json["outputs"][0]["data"] == [7]
    if size > 100:
        with Line(limited) as line:
            line.send(chunked(padded(REQUEST_BYTES + 1), size))
            error_of(line.answer(), 413)


def test_an_endless_body_is_refused_before_it_ends(limited: Server) -> None:
    with Line(limited) as line:
        line.send(http_request("POST", WIDE, headers={"transfer-encoding": "chunked"}, sized=False))
        for _ in range(REQUEST_BYTES // 10_000 + 2):
            line.send(b"%x\r\n%s\r\n" % (10_000, b" " * 10_000))
        error_of(line.answer(), 413)


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(limited: Server) -> None:
    for size in (REQUEST_BYTES + 1, 2**40, 2**63 - 1):
        with Line(limited) as line:
            line.send(http_request("POST", WIDE, headers={"content-length": str(size)}, sized=False))
            error_of(line.answer(), 413)


@pytest.mark.parametrize("size", ["-1", "x", "1e3", "0x10", str(2**64), "9" * 400, "", "+5", "5 5", "5, 6"])
def test_lengths_that_are_none(limited: Server, size: str) -> None:
    with Line(limited) as line:
        line.send(http_request("POST", WIDE, headers={"content-length": size}, sized=False) + b"12345")
        assert line.answer().status == 400
        assert line.closed()


@pytest.mark.parametrize(
    "headers",
    [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
    ],
)
def test_two_ways_to_read_one_body_are_refused(limited: Server, headers: str) -> None:
    """What this server reads one way and a proxy another is how requests are smuggled."""
    with Line(limited) as line:
        line.send(f"POST {WIDE} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n0\r\n\r\n".encode() + LIVE)
        assert line.answer().status in (400, 411, 501)
        assert line.closed()


@pytest.mark.parametrize("what", ["one header", "many headers", "url"])
def test_a_flood_of_headers(server: Server, what: str) -> None:
    begin = {
        "one header": b"GET /v2 HTTP/1.1\r\nhost: x\r\nx-flood: ",
        "many headers": b"GET /v2 HTTP/1.1\r\nhost: x\r\n",
        "url": b"GET /v2?",
    }[what]
    part = b"x-flood: 1\r\n" * 100 if what == "many headers" else b"a" * 1200
    with Line(server) as line:
        line.send(begin)
        sent = len(begin)
        try:
            while sent < 3 * HEADER_LIMIT:
                line.send(part)
                sent += len(part)
                time.sleep(0.0005)  # so that it comes in pieces
        except ConnectionError:
            pass  # refused meanwhile
        assert line.closed()
    assert server.ask("GET", "/v2/health/live").status == 200


def test_headers_as_large_as_they_may_be(server: Server) -> None:
    """A cookie of a company's login page, a large token."""
    answer = server.ask("GET", "/v2", headers={"X-Token": "a" * (HEADER_LIMIT - 500)})
    assert answer.status == 200


def test_a_flood_of_trailers(server: Server) -> None:
    """What follows the last chunk is bounded like the headers: it is kept in memory, too."""
    with Line(server) as line:
        line.send(http_request("POST", INFER, headers={"transfer-encoding": "chunked"}, sized=False))
        line.send(b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY))
        sent = 0
        try:
            while sent < 4 * 2**20:
                line.send(b"x-flood: %s\r\n" % (b"a" * 16000))
                sent += 16000
                time.sleep(0.0005)
        except ConnectionError:
            pass
        assert sent < 2**20, "a MiB of trailers was taken"


def test_paths_are_not_remembered_for_ever(server: Server) -> None:
    """Anybody may ask for paths, in any number and of any length: what is kept of them is bounded."""
    process = psutil.Process(server.pid)

    def memory_after(first: int) -> int:
        with Line(server) as line:
            for number in range(first, first + 500):
                line.send(http_request("GET", f"/v2/models/{number}-{'a' * 30_000}"))
                line.answer()
        return int(process.memory_info().rss)

    before = memory_after(0)
    assert memory_after(500) - before < 8 * 2**20  # they are 15 MB


def test_a_request_that_comes_slowly_is_waited_for(server: Server) -> None:
    whole = http_request("POST", INFER, BODY)
    with Line(server) as line:
        for at in range(0, len(whole), 10):
            line.send(whole[at : at + 10])
            time.sleep(0.001)
        answered(line.answer())
    for part in (whole[:20], whole[: len(whole) - len(BODY)], whole[:-1]):
        with Line(server) as line:
            line.send(part)
            assert line.silent_for(0.1)  # neither answered nor cut off
            line.send(whole[len(part) :])
            answered(line.answer())


def test_a_request_that_ends_half_way_disturbs_nobody(server: Server) -> None:
    whole = http_request("POST", INFER, BODY)
    for part in (b"", whole[:20], whole[: len(whole) - len(BODY)], whole[:-1]):
        with Line(server) as line:
            line.send(part)
            line.half_close()
            assert line.closed()
    with Line(server) as line:
        line.send(whole[:-1])
        line.reset()
    answered(server.ask("POST", INFER, BODY))


# Connections


def test_pipelined_requests_are_answered_in_order(limited: Server) -> None:
    """The slow one comes first and is answered first."""
    with Line(limited) as line:
        slow = http_request("POST", SLOW, SLOW_BODY, {"x-request-id": "0"})
        quick = [http_request("GET", "/v2", headers={"x-request-id": str(n)}) for n in range(1, 8)]
        line.send(slow + b"".join(quick))
        assert [line.answer().headers["x-request-id"] for _ in range(8)] == list("01234567")


@pytest.mark.parametrize("size", [100, 20_000, 60_000])
def test_pipelined_requests_may_be_cut_anywhere(limited: Server, size: int) -> None:
    """Headers of the second request that come with a large body of the first are not a large header."""
    one = http_request("POST", WIDE, padded(size), {"x-request-id": "1"})
    two = http_request("POST", WIDE, padded(size), {"x-request-id": "2"})
    for cut in (1, 10, 40):
        with Line(limited) as line:
            line.send(one + two[:cut])
            first = line.answer()
            line.send(two[cut:])
            second = line.answer()
        assert [(a.status, a.headers["x-request-id"]) for a in (first, second)] == [(200, "1"), (200, "2")]


def test_a_caller_that_asks_first_whether_it_may_send(server: Server) -> None:
    headers = {"expect": "100-continue", "content-length": str(len(BODY))}
    with Line(server) as line:
        line.send(http_request("POST", INFER, headers=headers, sized=False))
        assert line.answer().status == 100
        line.send(BODY)
        answered(line.answer())


def test_a_caller_that_asks_first_is_told_no(limited: Server) -> None:
    headers = {"expect": "100-continue", "content-length": str(REQUEST_BYTES + 1)}
    with Line(limited) as line:
        line.send(http_request("POST", WIDE, headers=headers, sized=False))
        error_of(line.answer(), 413)


def test_a_connection_serves_on_after_every_error(limited: Server) -> None:
    asked = [
        ("POST", WIDE, b"{", {}, 400),
        ("POST", WIDE, b"", {}, 400),
        ("POST", WIDE, b"x", {LENGTH: "9"}, 400),
        ("POST", WIDE, b"x", {"content-encoding": "gzip"}, 400),
        ("POST", WIDE, b"x", {"content-encoding": "br"}, 415),
        ("POST", WIDE, b" " * (REQUEST_BYTES + 1), {}, 413),
        ("POST", "/v2/models/nosuch/infer", BODY, {}, 404),
        ("POST", "/v2/models/nosuch/infer", b"{" * 50_000, {}, 404),
        ("POST", "/nowhere", b"a body", {}, 404),
        ("DELETE", "/v2", b"a body", {}, 405),
        ("GET", "/v2/health/live", b"a body", {}, 200),
        ("POST", "/v2/repository/models/mlp/load", b"{}", {}, 403),
        ("POST", "/v2/repository/index", b"[", {}, 400),
    ]
    with Line(limited) as line:
        for method, path, body, headers, status in asked:
            line.send(http_request(method, path, body, headers))
            assert line.answer().status == status, (method, path)
            line.send(http_request("POST", WIDE, padded(100)))
            assert line.answer().json["outputs"][0]["data"] == [7]


def test_a_connection_is_closed_where_the_caller_says_so(server: Server) -> None:
    for request in (
        http_request("GET", "/v2/health/live", headers={"connection": "close"}),
        b"GET /v2/health/live HTTP/1.0\r\n\r\n",
    ):
        with Line(server) as line:
            line.send(request)
            answer = line.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert line.closed()


def test_an_upgrade_that_the_server_does_not_know_is_ignored(server: Server) -> None:
    """curl --http2 asks so."""
    headers = {
        "connection": "Upgrade, HTTP2-Settings",
        "upgrade": "h2c",
        "http2-settings": "AAMAAABkAAQAAP__",
    }
    with Line(server) as line:
        line.send(http_request("POST", INFER, BODY, headers))
        answered(line.answer())
        line.send(LIVE)
        assert line.answer().status == 200


# Callers that go away


PATIENT = "/v2/models/patient/infer"
AHEAD = 4


@contextmanager
def busy(server: Server) -> Iterator[None]:
    """Some 0.4 s of requests, of which one is computed after the other; all are answered."""
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(server)) for _ in range(AHEAD)]
        for line in lines:
            line.send(http_request("POST", PATIENT, SLOW_BODY))
        time.sleep(0.03)
        yield
        assert [line.answer().status for line in lines] == [200] * AHEAD


@pytest.mark.parametrize("then", [b"", LIVE, LIVE * 3], ids=["one request", "two", "four"])
def test_work_of_a_caller_that_has_gone_is_dropped(limited: Server, then: bytes) -> None:
    """Also where it is not what the server has read last of the connection."""

    def count(name: str, **labels: str) -> float:
        return limited.metric(name, model="patient", **labels)

    dropped = count("inference_rejected_total", reason="disconnected")
    computed, log = count("inference_batch_rows_sum"), len(limited.log())
    with busy(limited), Line(limited) as gone:
        gone.send(http_request("POST", PATIENT, SLOW_BODY) + then)
        time.sleep(0.1)
        gone.reset()
    wait_until(lambda: count("inference_requests_in_flight") == count("inference_queue_rows") == 0)
    assert "Traceback" not in limited.log()[log:]
    assert count("inference_rejected_total", reason="disconnected") == dropped + 1
    assert count("inference_batch_rows_sum") == computed + AHEAD
    assert count("inference_requests_total", code="499") > 0


def test_a_caller_that_goes_while_its_body_comes_is_counted(limited: Server) -> None:
    before = limited.metric("inference_rejected_total", model="wide", reason="disconnected")
    with Line(limited) as line:
        line.send(http_request("POST", WIDE, padded(5000))[:-1])
        time.sleep(0.02)
        line.reset()
    wait_until(
        lambda: limited.metric("inference_rejected_total", model="wide", reason="disconnected") == before + 1
    )


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition(), "it did not happen"
