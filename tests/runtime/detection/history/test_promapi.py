"""A server that misbehaves, over real sockets."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest

from modelway_runtime.detection import promapi
from modelway_runtime.detection.history import HistoryFailed
from modelway_runtime.detection.prometheus import THREADS, PrometheusHistory
from modelway_runtime.detection.settings import Tenant
from tests.runtime.detection.history.history_data import T0, server, watched

TOKEN = "s3cret-t0ken"
Handler = BaseHTTPRequestHandler


@dataclass
class Fake:
    """Answers each request by ``answer``; keeps what was asked."""

    answer: Callable[[Handler, int], None]
    asked: list[tuple[dict[str, str], dict[str, list[str]]]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    url: str = ""
    inside: int = 0
    most_inside: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture
def fake() -> Iterator[Fake]:
    told = Fake(lambda handler, _: reply(handler, success([])))

    class Answering(Handler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            with told.lock:
                told.asked.append(({k.lower(): v for k, v in self.headers.items()}, parse_qs(body)))
                told.at.append(time.monotonic())
                number = len(told.asked)
                told.inside += 1
                told.most_inside = max(told.most_inside, told.inside)
            try:
                told.answer(self, number)
            finally:
                with told.lock:
                    told.inside -= 1

        do_GET = do_POST  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # the client hangs up on a server that hangs

    with Listening(("127.0.0.1", 0), Answering) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        told.url = f"http://127.0.0.1:{listening.server_port}"
        try:
            yield told
        finally:
            told.stop.set()
            listening.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promapi, "_FIRST_WAIT_S", 0.01)


def success(result: list[Any], **more: Any) -> bytes:
    return json.dumps(
        {"status": "success", "data": {"resultType": "matrix", "result": result}, **more}
    ).encode()


def failure(text: str) -> bytes:
    return json.dumps({"status": "error", "errorType": "x", "error": text}).encode()


def reply(handler: Handler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def always(body: bytes, status: int = 200, **headers: str) -> Callable[[Handler, int], None]:
    return lambda handler, _: reply(handler, body, status, **headers)


def load(url: str, minutes: int = 10, within_s: float = 60.0, **changes: Any) -> np.ndarray:
    history = PrometheusHistory(server(url, **changes), ["search-prod"], within_s)
    series, _ = history.release(watched(), [], T0, T0 + 60 * minutes)
    return series.values


def failed(url: str, **changes: Any) -> str:
    with pytest.raises(HistoryFailed) as caught:
        load(url, **changes)
    text = str(caught.value)
    assert TOKEN not in text
    assert "\n" not in text
    return text


def token_file(folder: Path, token: str = TOKEN) -> str:
    path = folder / "token"
    path.write_text(f"{token}\n")
    return str(path)


def test_what_is_sent(fake: Fake, tmp_path: Path) -> None:
    path = token_file(tmp_path)
    fake.answer = always(gzip.compress(success([{"metric": {}, "values": [[T0, "1.5"], [T0 + 120, "+Inf"]]}])),
                         Content_Encoding="gzip")  # fmt: skip
    tenant = Tenant(header="X-Scope-OrgID", value="shop")
    values = load(f"{fake.url}/prometheus/", minutes=4, token_file=path, tenant=tenant)
    np.testing.assert_array_equal(values, [1.5, np.nan, np.nan, np.nan])
    headers, form = fake.asked[0]
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["x-scope-orgid"] == "shop"
    assert headers["accept-encoding"] == "gzip"
    assert form["query"] == [
        'sum(rate(inference_requests_total{namespace="search-prod",model="ranker"}[60s]))'
    ]
    assert (form["start"], form["end"], form["step"]) == ([f"{T0:.0f}"], [f"{T0 + 180:.0f}"], ["60"])
    token_file(tmp_path, "rotated")
    load(fake.url, token_file=path)
    assert fake.asked[1][0]["authorization"] == "Bearer rotated"
    load(fake.url)
    assert "authorization" not in fake.asked[2][0]


def test_steps_are_multiples_and_the_end_is_not_within(fake: Fake) -> None:
    history = PrometheusHistory(server(fake.url), ["search-prod"])
    series, _ = history.release(watched(), [], T0 + 1, T0 + 120)
    assert (series.start, len(series.values)) == (T0 + 60, 1)


def test_a_token_that_is_refused(fake: Fake, tmp_path: Path) -> None:
    fake.answer = always(failure(f"unknown token {TOKEN}"), 401)
    text = failed(fake.url, token_file=token_file(tmp_path))
    assert "401" in text
    assert "prometheus.token_file" in text
    assert "unknown token (token)" in text
    assert len(fake.asked) == 1  # asking again helps nobody


@pytest.mark.parametrize("content", [b"", b"two words\n", b"a\nb\n", b"\xff\xfe"])
def test_a_token_file_that_holds_none(fake: Fake, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    text = failed(fake.url, token_file=str(tmp_path / "token"))
    assert str(tmp_path / "token") in text
    assert "two words" not in text
    assert "cannot be read" in failed(fake.url, token_file=str(tmp_path / "none"))
    assert not fake.asked


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(fake: Fake, tmp_path: Path, status: int) -> None:
    fake.answer = always(
        b"", status, Location=f"http://user:pass@localhost:{fake.url.rpartition(':')[2]}/elsewhere"
    )
    text = failed(fake.url, token_file=token_file(tmp_path))
    assert "redirects to localhost" in text
    assert "pass@" not in text
    assert len(fake.asked) == 1


def test_a_server_that_hangs(fake: Fake) -> None:
    fake.answer = lambda handler, _: fake.stop.wait(20) and None
    began = time.monotonic()
    text = failed(fake.url, timeout_s=0.3)
    assert time.monotonic() - began < 3
    assert "did not answer within 0.3 s" in text


def test_a_server_that_drips(fake: Fake) -> None:
    def drip(handler: Handler, _: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not fake.stop.wait(0.05):
            handler.wfile.write(b" ")

    fake.answer = drip
    began = time.monotonic()
    assert "did not answer within 0.3 s" in failed(fake.url, timeout_s=0.3)
    assert time.monotonic() - began < 3


def test_the_time_for_all_queries_is_bounded(fake: Fake) -> None:
    fake.answer = always(failure("busy"), 503, Retry_After="20")
    began = time.monotonic()
    assert "busy" in failed(fake.url, within_s=1.0)
    assert time.monotonic() - began < 3


def test_429_waits_as_long_as_it_is_told(fake: Fake) -> None:
    def answer(handler: Handler, number: int) -> None:
        if number == 1:
            reply(handler, failure("slow down"), 429, Retry_After="1")
        elif number == 2:
            reply(handler, b"busy", 503, Retry_After=formatdate(time.time() + 2, usegmt=True))
        else:
            reply(handler, success([{"metric": {}, "values": [[T0, "2"]]}]))

    fake.answer = answer
    assert load(fake.url)[0] == 2
    first, second, third = fake.at
    assert second - first >= 1
    assert third - second >= 0.8  # a date has whole seconds


def test_no_server_makes_it_wait_for_ever(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promapi, "MOST_WAIT_S", 0.05)
    fake.answer = always(failure("no"), 429, Retry_After="86400")
    text = failed(fake.url)
    assert "429: no." in text
    assert f"Asked {promapi.ATTEMPTS} times" in text
    assert len(fake.asked) == promapi.ATTEMPTS


def test_recovery_after_errors_and_cut_answers(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    good = success([{"metric": {}, "values": [[T0, "3"]]}])

    def answer(handler: Handler, number: int) -> None:
        if number == 1:
            reply(handler, b"<html>Bad Gateway</html>", 502)
        elif number == 2:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(good)))
            handler.end_headers()
            handler.wfile.write(good[:20])
            handler.close_connection = True
        elif number == 3:
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
        else:
            reply(handler, good)

    fake.answer = answer
    with caplog.at_level(logging.WARNING):
        assert load(fake.url)[0] == 3
    assert len([record for record in caplog.records if "Asking again" in record.message]) == 3


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        text = failed(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert "The connection failed" in text
    assert "sum(rate(inference_requests_total" in text


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"<html>Sign in</html>", "not of Prometheus' API"),
        (b"", "not of Prometheus' API"),
        (b"\xff\xfe{}", "not of Prometheus' API"),
        (success([])[:30], "not of Prometheus' API"),
        (b'{"status":"success"}', "answered 200"),
        (failure("boom\x1b[31m\nnext"), "boom"),
        (b'{"status":"success","data":{"resultType":"vector","result":[]}}', "vector"),
        (success([{"metric": {}, "values": [[T0, "one"]]}]), "no number"),
        (success([{"metric": {}, "values": [[T0 + 1, "1"]]}]), "not asked for"),
        (success([{"metric": {}, "values": [[T0 + 86400, "1"]]}]), "not asked for"),
        (success([{"metric": {}, "values": [[1e300, "1"]]}]), "not asked for"),
        (success([{"metric": {"p": "a"}, "values": []}, {"metric": {"p": "b"}, "values": []}]), "several series"),
    ],
)  # fmt: skip
def test_answers_that_are_none(fake: Fake, body: bytes, what: str) -> None:
    fake.answer = always(body)
    text = failed(fake.url)
    assert what in text
    assert fake.url in text
    assert "\x1b" not in text


def test_an_answer_that_is_too_large(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promapi, "MOST_BYTES", 1 << 20)
    fake.answer = always(gzip.compress(b" " * (200 << 20), 1), Content_Encoding="gzip")
    assert "larger than 1 MiB" in failed(fake.url)


def test_warnings_are_logged(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    fake.answer = always(success([], warnings=["store \x1b[2J is\nunreachable"]))
    with caplog.at_level(logging.WARNING):
        load(fake.url)
    assert "unreachable" in caplog.text
    assert "\x1b" not in caplog.text


def test_queries_run_beside_each_other_but_few(fake: Fake) -> None:
    def answer(handler: Handler, _: int) -> None:
        time.sleep(0.15)
        reply(handler, success([]))

    fake.answer = answer
    history = PrometheusHistory(server(fake.url), ["search-prod"])
    history.release(watched(), list(watched().patterns), T0, T0 + 600)
    assert len(fake.asked) == 10  # throughput is the load; two quantiles of one histogram
    assert 1 < fake.most_inside <= THREADS


def test_a_million_points(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(handler: Handler, _: int) -> None:
        form = fake.asked[-1][1]
        first, last = (int(form[name][0]) for name in ("start", "end"))
        points = ",".join(f'[{t},"{t % 97}.125"]' for t in range(first, last + 60, 60))
        body = f'{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{}},"values":[{points}]}}]}}}}'
        reply(handler, body.encode())

    monkeypatch.setattr("modelway_runtime.detection.prometheus.THREADS", 1)  # `asked[-1]` is its own
    fake.answer = answer
    began = time.process_time()
    values = load(fake.url, minutes=1_000_000)
    assert time.process_time() - began < 20  # most of it is the server's
    times = T0 + 60 * np.arange(1_000_000)
    np.testing.assert_array_equal(values, times % 97 + 0.125)


def test_unknown_patterns_and_hashes(fake: Fake) -> None:
    history = PrometheusHistory(server(fake.url), ["search-prod"])
    with pytest.raises(HistoryFailed, match="no pattern 'nothing'"):
        history.release(watched(), ["nothing"], T0, T0 + 600)
    for canary, stable in (("", "a"), ("a", ""), ("a", "a")):
        with pytest.raises(HistoryFailed, match="pod template hashes"):
            history.canary(watched(), [], T0, T0 + 600, canary, stable)
    for start, end in ((T0, float("inf")), (float("nan"), T0), (0.0, 1e18)):
        with pytest.raises(HistoryFailed, match="Unix times"):
            history.release(watched(), [], start, end)
    assert not fake.asked
