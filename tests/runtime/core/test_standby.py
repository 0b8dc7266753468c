"""The standby model: when it answers, within which time, and how the own model comes back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modelway_runtime.serving import standby
from modelway_runtime.serving.standby import Breaker
from tests.support import serving


def test_the_breaker_trips_after_failures_in_a_row() -> None:
    breaker = Breaker(3, 100)
    for _ in range(5):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert not breaker.tripped
    assert breaker.allows()
    for _ in range(3):
        breaker.failed()
    assert breaker.tripped
    assert not breaker.allows()


def test_after_probation_one_request_tries_and_its_success_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(standby, "clock", lambda: now)
    breaker = Breaker(1, 30)
    breaker.failed()
    now += 29
    assert not breaker.allows()
    now += 2
    assert breaker.allows()
    assert not breaker.allows()  # the others wait for what becomes of it
    breaker.succeeded()
    assert breaker.allows()
    assert breaker.allows()


def test_a_failure_in_probation_starts_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(standby, "clock", lambda: now)
    breaker = Breaker(2, 30)
    breaker.failed()
    breaker.failed()
    now += 31
    assert breaker.allows()
    breaker.failed()
    now += 29
    assert not breaker.allows()


def rows(*numbers: int) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "INT64", "shape": [len(numbers), 1], "data": list(numbers)}
    return {"inputs": [tensor]}


GOOD, BAD = rows(1), rows(9)


def test_the_greedy_model_is_what_these_tests_need(tmp_path: Path) -> None:
    weights = serving.write_model(tmp_path, "ranker", serving.greedy())
    with serving.serving_settings(serving.settings_of([serving.served("ranker", weights)])) as server:
        assert server.ask("POST", "/v2/models/ranker/infer", GOOD).status == 200
        answer = server.ask("POST", "/v2/models/ranker/infer", BAD)
        assert (answer.status, answer.json) == (500, {"error": "the model failed on this request"})


@contextlib.contextmanager
def pair(folder: Path, **changes: Any) -> Iterator[tuple[serving.Server, serving.Server]]:
    """A server whose model fails on some inputs, and another that stands by for it."""
    weights = serving.write_model(folder, "ranker", serving.greedy())
    lite = serving.write_model(folder, "ranker-lite", serving.identity("INT64", ("rows", 1)))
    with serving.serving_settings(serving.settings_of([serving.served("ranker-lite", lite)])) as second:
        settings = standby_settings(weights, second.http_port, **changes)
        with serving.serving_settings(settings) as first:
            yield first, second


def standby_settings(weights: Path, port: int, **changes: Any) -> dict[str, Any]:
    return serving.settings_of(
        [serving.served("ranker", weights)],
        standby={
            "url": f"http://127.0.0.1:{port}",
            "model": "ranker-lite",
            "trip_after": 3,
            "probation_s": 0.5,
            "active": False,
            **changes,
        },
    )


def infer(server: serving.Server, body: dict[str, Any], **headers: str) -> serving.Answer:
    return server.ask("POST", "/v2/models/ranker/infer", {"id": "7", **body}, headers)


def test_another_server_answers_in_place_of_the_own_model(tmp_path: Path) -> None:
    with pair(tmp_path) as (first, second):
        assert "modelway-served-by" not in infer(first, GOOD).headers
        answer = infer(first, BAD)
        assert answer.status == 200
        assert answer.headers["modelway-served-by"] == "ranker-lite"
        assert answer.json == {
            "model_name": "ranker",
            "model_version": "1",
            "id": "7",
            "parameters": {"served_by": "ranker-lite"},
            "outputs": [{"name": "y", "datatype": "INT64", "shape": [1, 1], "data": [9]}],
        }
        assert second.metric("inference_requests_total", model="ranker-lite", code="200") == 1

        # It trips, spares the own model, and comes back by itself.
        for _ in range(2):
            assert infer(first, BAD).status == 200
        assert infer(first, GOOD).headers["modelway-served-by"] == "ranker-lite"
        count = first.metric
        assert count("inference_standby_requests_total", model="ranker", reason="failed") == 3
        assert count("inference_standby_requests_total", model="ranker", reason="tripped") == 1
        time.sleep(0.6)
        assert "modelway-served-by" not in infer(first, GOOD).headers
        assert "modelway-served-by" not in infer(first, GOOD).headers
        # Served, for the SLO of the first model.
        assert count("inference_requests_total", model="ranker", code="200") == 7
        assert count("inference_requests_total", model="ranker", code="500") == 0

        # What is the caller's fault is not forwarded, and neither is what was forwarded already.
        assert infer(first, {"inputs": []}).status == 400
        answer = infer(first, BAD, **{"modelway-forwarded": "1"})
        assert answer.status == 500
        assert count("inference_standby_requests_total", model="ranker") == 4


def test_inputs_that_the_model_refuses_neither_trip_nor_are_forwarded(tmp_path: Path) -> None:
    """A caller who is at fault takes the model from nobody else, and spends no error budget."""
    weights = serving.write_model(tmp_path, "ranker", serving.picky())
    with serving.serving_settings(standby_settings(weights, 9)) as server:
        for _ in range(5):  # more than trip it
            assert infer(server, BAD).status == 400
        answer = infer(server, GOOD)
        assert (answer.status, "modelway-served-by" in answer.headers) == (200, False)
        assert server.metric("inference_standby_requests_total") == 0
        assert server.metric("inference_requests_total", model="ranker", code="400") == 5
        assert server.metric("inference_requests_total", model="ranker", code="500") == 0


def test_an_active_standby_answers_every_request(tmp_path: Path) -> None:
    with pair(tmp_path, active=True, probation_s=0) as (first, second):
        for body in (GOOD, BAD, GOOD):
            assert infer(first, body).headers["modelway-served-by"] == "ranker-lite"
        count = first.metric
        assert count("inference_standby_requests_total", model="ranker", reason="active") == 3
        assert count("inference_standby_requests_total", model="ranker") == 3
        assert count("inference_requests_total", model="ranker", code="200") == 3
        assert second.metric("inference_requests_total", model="ranker-lite", code="200") == 3

        # What was forwarded already is the own model's to answer, or two servers would send it to and fro.
        answer = infer(first, GOOD, **{"modelway-forwarded": "1"})
        assert (answer.status, "modelway-served-by" in answer.headers) == (200, False)


def test_an_active_standby_answers_for_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pair(tmp_path, active=True) as (_, second):
        settings = standby_settings(tmp_path / "nowhere.onnx", second.http_port, active=True)
        with serving.serving_settings(settings) as server:
            assert infer(server, GOOD).headers["modelway-served-by"] == "ranker-lite"
            assert server.metric("inference_standby_requests_total", model="ranker", reason="active") == 1


def test_a_standby_that_is_away_is_said(tmp_path: Path) -> None:
    weights = serving.write_model(tmp_path, "ranker", serving.greedy())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        with serving.serving_settings(standby_settings(weights, taken.getsockname()[1])) as server:
            answer = infer(server, BAD)
            assert (answer.status, answer.json) == (503, {"error": "the standby model cannot be reached"})
            assert answer.headers["retry-after"].isdigit()


class _Odd(BaseHTTPRequestHandler):
    """A standby that answers what no server should."""

    protocol_version = "HTTP/1.1"
    answers: list[tuple[int, bytes]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        status, body = self.answers.pop(0)
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_what_an_odd_standby_answers_is_no_crash(tmp_path: Path) -> None:
    answers = [
        (200, b"<html>"),
        (200, b"{}"),
        (200, b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [9], "data": [1]}]}'),
        (404, b'{"error": "no such model"}'),
        (429, b"busy"),
    ]
    handler = type("Odd", (_Odd,), {"answers": list(answers)})
    weights = serving.write_model(tmp_path, "ranker", serving.greedy())
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as odd:
        threading.Thread(target=odd.serve_forever, daemon=True).start()
        settings = standby_settings(weights, odd.server_port, trip_after=100)
        with serving.serving_settings(settings) as server:
            found = [infer(server, BAD) for _ in answers]
        odd.shutdown()
    assert [answer.status for answer in found] == [502, 502, 502, 404, 429]
    assert all(json.loads(answer.body)["error"].startswith("the standby model") for answer in found)


def test_a_grpc_caller_is_told_too(tmp_path: Path) -> None:
    import grpc

    from modelway_runtime.serving.grpc import messages

    with pair(tmp_path) as (first, _), grpc.insecure_channel(first.grpc) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            messages.ModelInferRequest.SerializeToString,
            messages.ModelInferResponse.FromString,
        )
        request = messages.ModelInferRequest(model_name="ranker")
        request.inputs.add(name="x", datatype="INT64", shape=[1, 1])
        request.raw_input_contents.append((9).to_bytes(8, "little"))
        answer, rpc = call.with_call(request, timeout=10)
        assert answer.parameters["served_by"].string_param == "ranker-lite"
        assert dict(rpc.trailing_metadata())["modelway-served-by"] == "ranker-lite"
        assert answer.raw_output_contents == [(9).to_bytes(8, "little")]


class _Slow(_Odd):
    def do_POST(self) -> None:
        time.sleep(3)
        super().do_POST()


def test_the_standby_has_no_longer_than_the_caller(tmp_path: Path) -> None:
    weights = serving.write_model(tmp_path, "ranker", serving.greedy())
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Slow", (_Slow,), {"answers": [(200, b"{}")]})) as slow:
        threading.Thread(target=slow.serve_forever, daemon=True).start()
        with serving.serving_settings(standby_settings(weights, slow.server_port)) as server:
            started = time.monotonic()
            answer = infer(server, {**BAD, "parameters": {"timeout": 300_000}})
            assert (answer.status, answer.json) == (504, {"error": "the standby model took too long"})
            assert 0.2 < time.monotonic() - started < 2
        slow.shutdown()


def test_who_may_use_the_model_is_answered_by_its_standby(tmp_path: Path) -> None:
    """In one process: neither the key's list of models nor its rate is asked a second time."""
    secret = "s" * 40
    grant = {"client": "shop", "sha256": hashlib.sha256(secret.encode()).hexdigest(), "models": ["ranker"]}
    limits = {"requests_per_second": 0.01, "burst": 1, "admin": False, "expires": None}
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{**grant, **limits}]}))
    weights = serving.write_model(tmp_path, "ranker", serving.greedy())
    lite = serving.write_model(tmp_path, "ranker-lite", serving.identity("INT64", ("rows", 1)))
    settings = standby_settings(weights, 9)
    settings["served"].append(serving.served("ranker-lite", lite))
    settings["auth"] = {"mode": "api_key", "keys_file": str(tmp_path / "keys.json")}
    with serving.serving_settings(settings) as server:
        answer = infer(server, BAD, authorization=f"Bearer {secret}")
        assert (answer.status, answer.headers.get("modelway-served-by")) == (200, "ranker-lite")
        assert infer(server, GOOD, authorization=f"Bearer {secret}").status == 429
