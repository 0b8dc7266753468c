"""The audit log over real pipes and files."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from modelway_runtime.serving.audit import MAX_WAITING, AuditEntry, AuditLog
from modelway_runtime.serving.tensors import object_array
from modelway_runtime.serving.values import Array, InferenceRequest, InferenceResponse
from tests.support.checking import no_exception

TRACE = "0af7651916cd43dd8448eb211c80319c"


def entry(**changes: Any) -> AuditEntry:
    fields: dict[str, Any] = {
        "request_id": "r-1",
        "client": "checkout",
        "model": "ranker",
        "version": "46.1.0",
        "protocol": "rest",
        "method": "infer",
        "status": 200,
        "reason": None,
        "duration_s": 0.0125,
        "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
    }
    return AuditEntry(**(fields | changes))


def request(**inputs: Array) -> InferenceRequest:
    return InferenceRequest(model="ranker", inputs=inputs)


@contextmanager
def file_log(path: Path, *mask: str) -> Iterator[AuditLog]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = AuditLog(fd, frozenset(mask))
    yield log
    log.close(5)
    os.close(fd)


def lines(text: bytes) -> list[dict[str, Any]]:
    assert text == b"" or text.endswith(b"\n")
    return [json.loads(line) for line in text.split(b"\n")[:-1]]


def written(path: Path, request: InferenceRequest | None, *mask: str, **changes: Any) -> dict[str, Any]:
    with file_log(path, *mask) as log:
        log.record(entry(**changes), request)
    (line,) = lines(path.read_bytes())
    return line


def test_a_line_says_who_asked_what_and_got_what(tmp_path: Path) -> None:
    features = np.arange(24, dtype="<f4").reshape(2, 12) / 10
    with file_log(tmp_path / "log") as log:
        log.record(
            entry(time=1_700_000_000.000012),
            request(features=features),
            InferenceResponse(
                model="ranker",
                version="46.1.0",
                outputs={"score": np.array([[0.5], [2.0]], "<f8")},
                served_by="ranker-lite",
            ),
        )
        log.record(entry(time=1_700_000_000.0, status=429, reason="queue_full", traceparent="", version=""))
    first, second = lines((tmp_path / "log").read_bytes())
    assert first == {
        "event": "inference",
        "time": "2023-11-14T22:13:20.000012Z",
        "request_id": "r-1",
        "trace_id": TRACE,
        "client": "checkout",
        "model": "ranker",
        "version": "46.1.0",
        "protocol": "rest",
        "method": "infer",
        "status": 200,
        "reason": None,
        "duration_s": 0.0125,
        "rows": 2,
        "served_by": "ranker-lite",
        "inputs": {
            "features": {
                "datatype": "FP32",
                "shape": [2, 12],
                "values": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
            }
        },
        "outputs": {"score": {"datatype": "FP64", "shape": [2, 1], "values": [0.5, 2.0]}},
    }
    assert second["time"] == "2023-11-14T22:13:20.000000Z"
    assert (second["status"], second["reason"], second["rows"]) == (429, "queue_full", 0)
    assert (second["inputs"], second["outputs"], second["trace_id"]) == (None, None, "")


def test_the_time_is_now_unless_given(tmp_path: Path) -> None:
    before = time.time()
    moment = written(tmp_path / "log", None)["time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", moment)
    shown = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(before))
    assert moment.startswith((shown, time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time()))))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("array", "datatype", "values"),
    [
        (np.array([True, False]), "BOOL", [True, False]),
        (np.array([-(2**63), 2**63 - 1], "<i8"), "INT64", [-(2**63), 2**63 - 1]),
        (np.array([2**64 - 1], "<u8"), "UINT64", [2**64 - 1]),
        (np.array([7], "u1"), "UINT8", [7]),
        (np.array([0.1, NAN, INF, -INF], "<f4"), "FP32", [0.1, "NaN", "Infinity", "-Infinity"]),
        (np.array([0.5, NAN], "<f2"), "FP16", [0.5, "NaN"]),
        (np.array([1.5, INF], ml_dtypes.bfloat16), "BF16", [1.5, "Infinity"]),
        (np.array([1e308, NAN], "<f8"), "FP64", [1e308, "NaN"]),
        (np.array(3.0, "<f4"), "FP32", [3.0]),
        (np.zeros((0, 4), "<f4"), "FP32", []),
        (np.arange(40, dtype="<i4").reshape(8, 5).T, "INT32", [0, 5, 10, 15, 20, 25, 30, 35]),
        (object_array([b"a\xffb", b"x" * 1000]), "BYTES", ["a\\xffb", "x" * 64]),
        (object_array(["é".encode() * 1000, "😀".encode() * 1000]), "BYTES", ["é" * 64, "😀" * 64]),
        (np.array([1 + 2j]), "complex128", ["(1+2j)"]),
    ],
)
def test_values_of_each_datatype(tmp_path: Path, array: Array, datatype: str, values: list[Any]) -> None:
    shown = written(tmp_path / "log", request(x=array))["inputs"]["x"]
    assert shown == {"datatype": datatype, "shape": list(array.shape), "values": values}


def test_masked_values_never_appear(tmp_path: Path) -> None:
    secret = object_array([b"4111-1111", b"secret"])
    with file_log(tmp_path / "log", "card", "score") as log:
        log.record(
            entry(),
            request(card=secret, age=np.array([42])),
            InferenceResponse(model="m", version="1", outputs={"score": np.array([0.98765])}),
        )
    text = (tmp_path / "log").read_bytes()
    (line,) = lines(text)
    assert line["inputs"]["card"] == {"datatype": "BYTES", "shape": [2], "values": "***"}
    assert line["outputs"]["score"]["values"] == "***"
    assert line["inputs"]["age"]["values"] == [42]
    for value in (b"4111", b"secret", b"98765"):
        assert value not in text


@pytest.mark.parametrize(
    "text", ["x\n" + json.dumps({"event": "inference", "client": "root"}), "a\r\nb", 'x", "client": "root', "\x1b[2K\x00",
             "half \udc80 of a pair", "\u2028line\u2029", "😀"]
)  # fmt: skip
def test_text_cannot_forge_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log"
    inputs = {text: object_array([text.encode(errors="surrogatepass")])}
    line = written(
        path,
        InferenceRequest(model=text, inputs=inputs),
        request_id=text,
        client=text,
        model=text,
        traceparent=text,
    )
    assert line["client"] == line["request_id"] == line["model"]
    assert line["client"] == text.encode(errors="backslashreplace").decode()
    raw = path.read_bytes()
    assert raw.count(b"\n") == 1
    assert not re.search(rb"[\x00-\x09\x0b-\x1f]", raw)


def test_an_odd_entry_costs_one_line_and_is_counted(tmp_path: Path) -> None:
    odd: Any = object()
    with file_log(tmp_path / "log") as log:
        log.record(entry(duration_s=odd))  # orjson cannot write it
        log.record(entry(), odd)
        log.record(entry(request_id="after"))
    after, dropped = lines((tmp_path / "log").read_bytes())
    assert after["request_id"] == "after"
    assert dropped == {"event": "audit_dropped", "count": 2}


def test_order_and_number_of_many_lines(tmp_path: Path) -> None:
    with file_log(tmp_path / "log") as log:
        for index in range(5000):
            log.record(entry(request_id=str(index)), request(x=np.ones(8)))
    assert [line["request_id"] for line in lines((tmp_path / "log").read_bytes())] == [
        str(index) for index in range(5000)
    ]


@contextmanager
def pipe(*, nonblocking: bool = False) -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(writer, not nonblocking)
    try:
        yield reader, writer
    finally:
        os.close(writer)
        os.close(reader)


def read_until(reader: int, done: bytes, timeout_s: float = 10) -> bytes:
    os.set_blocking(reader, False)
    text, deadline = b"", time.monotonic() + timeout_s
    while done not in text or not text.endswith(b"\n"):
        assert time.monotonic() < deadline, text[-500:]
        try:
            text += os.read(reader, 9999)  # odd pieces, so that the writer sees a pipe nearly full
        except BlockingIOError:
            time.sleep(0.0005)
    return text


@pytest.mark.parametrize("nonblocking", [False, True])
def test_a_blocked_pipe_blocks_no_request_and_the_loss_is_counted(nonblocking: bool) -> None:
    with pipe(nonblocking=nonblocking) as (reader, writer):
        log = AuditLog(writer, frozenset())
        total = 2 * MAX_WAITING
        slowest = 0.0
        for index in range(total):
            started = time.perf_counter()
            log.record(entry(request_id=str(index)))
            slowest = max(slowest, time.perf_counter() - started)
        assert slowest < 1  # not "until somebody reads"
        text = read_until(reader, b"audit_dropped")
        log.record(entry(request_id="last"))
        text += read_until(reader, b'"last"')
        log.close(5)
        found = lines(text)
        dropped = sum(line["count"] for line in found if line["event"] == "audit_dropped")
        requests = [line["request_id"] for line in found if line["event"] == "inference"]
        assert dropped > 0
        assert dropped + len(requests) == total + 1
        numbers = [int(number) for number in requests[:-1]]
        assert numbers == sorted(set(numbers))


def test_close_waits_no_longer_than_it_may() -> None:
    with pipe() as (_, writer):
        log = AuditLog(writer, frozenset())
        for _ in range(5000):
            log.record(entry())
        started = time.monotonic()
        log.close(0.3)
        assert 0.25 < time.monotonic() - started < 2
        deadline = time.monotonic() + 5
        while any(thread.name == "audit" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_close_writes_what_waits(tmp_path: Path) -> None:
    with pipe() as (reader, writer):
        log = AuditLog(writer, frozenset())
        log.record(entry(request_id="waiting"))
        log.close(5)
        log.record(entry(request_id="too late"))
        assert [line["request_id"] for line in lines(os.read(reader, 65536))] == ["waiting"]


def test_a_reader_that_goes_away_harms_nobody() -> None:
    reader, writer = os.pipe()
    log = AuditLog(writer, frozenset())
    os.close(reader)
    with no_exception():
        for _ in range(3):
            log.record(entry())
            time.sleep(0.05)
        log.close(0.2)
    os.close(writer)


def test_a_line_longer_than_the_pipe_arrives_whole() -> None:
    with pipe() as (reader, writer):
        log = AuditLog(writer, frozenset())
        log.record(entry(request_id="x" * 200_000))
        log.record(entry(request_id="after"))
        text = read_until(reader, b'"after"')
        log.close(5)
    long, after = lines(text)
    assert len(long["request_id"]) == 200_000
    assert after["request_id"] == "after"


def test_tensors_are_not_kept() -> None:
    with pipe() as (_, writer):
        log = AuditLog(writer, frozenset({"masked"}))
        tracemalloc.start()
        try:
            for _ in range(200):
                log.record(
                    entry(request_id="x" * 1000),
                    request(
                        x=np.zeros(1_000_000, "u1"),
                        text=object_array([b"x" * 1_000_000]),
                        masked=np.zeros(1_000_000, "u1"),
                    ),
                )
            assert tracemalloc.get_traced_memory()[0] < 10_000_000
        finally:
            tracemalloc.stop()
        log.close(0)


KILLED = """
import sys, numpy as np
from modelway_runtime.serving.audit import AuditEntry, AuditLog
from modelway_runtime.serving.values import InferenceRequest
log = AuditLog(int(sys.argv[1]), frozenset())
request = InferenceRequest(model="m", inputs={"x": np.ones(8)})
index = 0
while True:
    log.record(AuditEntry(request_id=str(index), client="c" * (index % 700), model="m", version="1",
        protocol="rest", method="infer", status=200, reason=None, duration_s=0.1, traceparent=""), request)
    index += 1
"""


def test_the_loss_is_told_while_more_than_can_be_written_keeps_coming() -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(writer)], pass_fds=[writer])
    os.close(writer)
    try:
        assert read_until(reader, b"audit_dropped", timeout_s=30)
    finally:
        process.kill()
        process.wait(10)
        os.close(reader)


@pytest.mark.parametrize("pages", [1, 16])
@pytest.mark.parametrize("keeps_up", [True, False])
def test_a_kill_leaves_whole_lines_in_a_pipe(pages: int, keeps_up: bool) -> None:
    """The reader keeps up, or the pipe is full at the moment of the kill."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, pages * 4096)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(writer)], pass_fds=[writer])
    os.close(writer)
    text = os.read(reader, 100)
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline or len(text) < 20_000:
        if keeps_up:
            text += os.read(reader, 65536)
        else:
            text += os.read(reader, 777)
            time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    while more := os.read(reader, 65536):
        text += more
    os.close(reader)
    found = lines(text)
    assert len(found) > 10
    numbers = [int(line["request_id"]) for line in found if line["event"] == "inference"]
    assert numbers == sorted(set(numbers))
