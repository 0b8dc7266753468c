"""Every endpoint and verb of the REST interface: statuses, bodies, headers."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelway_runtime import __version__
from modelway_runtime.serving.openapi import document
from tests.runtime.rest.rest_helpers import (
    Line,
    binary_request,
    error_of,
    http_request,
    json_request,
    outputs_of,
)
from tests.support import serving
from tests.support.serving import Answer, Server

X = np.random.default_rng(3).standard_normal((2, serving.MLP_INPUTS), np.float32)
MLP = json_request({"input": X})
SLOW = json_request({"x": np.ones((1, 4), np.float32)})

METADATA = {
    "name": "mlp",
    "versions": ["1"],
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 1]}],
}
CONFIG = {
    "name": "mlp",
    "platform": "onnxruntime_onnx",
    "backend": "onnxruntime",
    "max_batch_size": 32,
    "version_policy": {"specific": {"versions": []}},
    "instance_group": [{"name": "mlp", "kind": "KIND_CPU", "count": 1}],
    "input": [{"name": "input", "data_type": "TYPE_FP32", "dims": [64]}],
    "output": [{"name": "output", "data_type": "TYPE_FP32", "dims": [1]}],
    "parameters": {"rows": {"string_value": "rows are proved not to change each other's answers"}},
    "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0},
}
SERVER = {
    "name": "modelway",
    "version": __version__,
    "extensions": ["binary_tensor_data", "model_configuration", "model_repository", "statistics"],
}
GETS: dict[str, tuple[int, Any]] = {
    "/v2": (200, SERVER),
    "/v2/": (200, SERVER),
    "/v2/health/live": (200, {"live": True}),
    "/v2/health/ready": (200, {"live": True, "ready": True}),
    "/v2/models/mlp": (200, METADATA),
    "/v2/models/mlp/versions/1": (200, METADATA),
    "/v2/models/both/versions/1": (200, {**METADATA, "name": "both", "versions": ["1", "2"]}),
    "/v2/models/mlp/ready": (200, {"name": "mlp", "ready": True}),
    "/v2/models/mlp/versions/1/ready": (200, {"name": "mlp", "ready": True}),
    "/v2/models/mlp/versions/2/ready": (503, {"name": "mlp", "ready": False}),
    "/v2/models/nosuch/ready": (503, {"name": "nosuch", "ready": False}),
    "/v2/models/mlp/config": (200, CONFIG),
    "/v2/models/mlp/versions/1/config": (200, CONFIG),
    "/v2/openapi.json": (200, json.loads(json.dumps(document()))),
}
POSTS = [
    "/v2/repository/index",
    "/v2/repository/models/mlp/load",
    "/v2/repository/models/mlp/unload",
]
INFERS = ["/v2/models/mlp/infer", "/v2/models/mlp/versions/1/infer"]
NOWHERE = [
    "/",
    "/v1",
    "/v2/health",
    "/v2/health/live/",
    "/v2/models",
    "/v2/models/",
    "/v2/models/mlp/",
    "/v2/models/mlp/nosuch",
    "/v2/models/mlp/versions",
    "/v2/models/mlp/versions/1/infer/more",
    "/v2/models/a%2Fb/infer",
    "/v2/repository/models/mlp",
    "/v2/repository",
    "/v2//models/mlp",
    "/V2/health/live",
    "/metrics",
    "/../etc/passwd",
]


@pytest.mark.parametrize("path", GETS)
def test_what_can_be_asked(server: Server, path: str) -> None:
    answer = server.ask("GET", path)
    assert (answer.status, answer.json) == GETS[path]
    assert answer.headers["content-type"] == "application/json"
    assert "server" not in answer.headers


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_its_body(server: Server, path: str) -> None:
    whole = server.ask("GET", path)
    with Line(server) as line:
        line.send(http_request("HEAD", path) + http_request("GET", "/v2/health/live"))
        head = line.answer(head=True)
        assert line.answer().json == {"live": True}  # nothing stood between the two
    assert head.status == whole.status
    assert head.headers["content-length"] == str(len(whole.body))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", GETS)
def test_get_only(server: Server, path: str, method: str) -> None:
    answer = server.ask(method, path)
    error_of(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", [*POSTS, *INFERS])
def test_post_only(server: Server, path: str, method: str) -> None:
    answer = server.ask(method, path)
    error_of(answer, 405)
    assert answer.headers["allow"] == "POST"
    assert server.ask("GET", "/v2/models/mlp/ready").status == 200  # nothing was unloaded


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", NOWHERE)
def test_nothing_there(server: Server, path: str, method: str) -> None:
    error_of(server.ask(method, path), 404)


@pytest.mark.parametrize("what", ["", "/config", "/stats"])
@pytest.mark.parametrize(
    "path", ["/v2/models/nosuch", "/v2/models/mlp/versions/9", "/v2/models/mlp/versions/"]
)
def test_unknown_model_or_version(server: Server, path: str, what: str) -> None:
    error_of(server.ask("GET", path + what), 404)


def test_unknown_model_or_version_to_compute(server: Server) -> None:
    assert "nosuch" in error_of(server.ask("POST", "/v2/models/nosuch/infer", MLP), 404)
    assert "'9'" in error_of(server.ask("POST", "/v2/models/mlp/versions/9/infer", MLP), 404)


def test_the_query_is_no_part_of_the_path(server: Server) -> None:
    assert server.ask("GET", "/v2/models/mlp?versions=2").json == METADATA
    assert server.ask("GET", "/v2/models/m%6cp").json == METADATA


def test_the_latest_version_answers_unless_one_is_named(server: Server) -> None:
    for path, version, seed in (
        ("/v2/models/both/infer", "2", 2),
        ("/v2/models/both/versions/1/infer", "1", 1),
        ("/v2/models/both/versions/2/infer", "2", 2),
    ):
        answer = server.ask("POST", path, MLP)
        assert (answer.json["model_name"], answer.json["model_version"]) == ("both", version)
        np.testing.assert_allclose(outputs_of(answer)["output"], serving.mlp_answer(X, seed), rtol=1e-4)


def test_an_answer_has_what_the_protocol_says(server: Server) -> None:
    said = server.ask("POST", "/v2/models/mlp/infer", MLP).json
    assert list(said) == ["model_name", "model_version", "outputs"]
    (output,) = said["outputs"]
    assert list(output) == ["name", "datatype", "shape", "data"]
    assert (output["name"], output["datatype"], output["shape"]) == ("output", "FP32", [2, 1])


def test_statistics_count_requests_and_rows(server: Server) -> None:
    def stats(path: str = "/v2/models/mlp/stats") -> dict[str, Any]:
        (model,) = server.ask("GET", path).json["model_stats"]
        return dict(model)

    before = stats()
    server.ask("POST", "/v2/models/mlp/infer", MLP)
    after = stats()
    assert (after["name"], after["version"]) == ("mlp", "1")
    assert after["inference_count"] - before["inference_count"] == 2  # rows, as Triton counts
    assert after["execution_count"] - before["execution_count"] == 1
    success = [model["inference_stats"]["success"]["count"] for model in (before, after)]
    assert success[1] - success[0] == 1
    assert abs(after["last_inference"] - time.time() * 1e3) < 60_000
    assert stats("/v2/models/mlp/versions/1/stats")["name"] == "mlp"
    everything = server.ask("GET", "/v2/models/stats").json["model_stats"]
    assert {(m["name"], m["version"]) for m in everything} >= {("mlp", "1"), ("both", "1"), ("both", "2")}


def test_requests_are_counted_by_status(server: Server) -> None:
    def counted(code: str, **labels: str) -> float:
        return server.metric("inference_requests_total", method="infer", code=code, **labels)

    ok, bad = counted("200", model="mlp"), counted("400", model="mlp")
    lost, series = counted("404"), server.metric("inference_requests_total", model="never-heard-of")
    server.ask("POST", "/v2/models/mlp/infer", MLP)
    server.ask("POST", "/v2/models/mlp/infer", b"{")
    server.ask("POST", "/v2/models/mlp/infer", json_request({"wrong": X}))
    server.ask("POST", "/v2/models/never-heard-of/infer", MLP)
    assert counted("200", model="mlp") == ok + 1
    assert counted("400", model="mlp") == bad + 2
    assert counted("404") == lost + 1
    assert series == server.metric("inference_requests_total", model="never-heard-of") == 0


@pytest.mark.parametrize("request_id", ["r-7", "", 'ü – \u2028 \\ "', "x" * 1024])
def test_the_id_comes_back(server: Server, request_id: str) -> None:
    expected = {"id": request_id} if request_id else {}
    answer = server.ask("POST", "/v2/models/mlp/infer", {**MLP, "id": request_id})
    assert {k: v for k, v in answer.json.items() if k == "id"} == expected
    body, headers = binary_request({"input": X}, id=request_id, parameters={"binary_data_output": True})
    answer = server.ask("POST", "/v2/models/mlp/infer", body, headers)
    head = json.loads(answer.body[: int(answer.headers["inference-header-content-length"])])
    assert {k: v for k, v in head.items() if k == "id"} == expected


@pytest.mark.parametrize("request_id", [7, None, ["a"], "x" * 1025])
def test_an_id_is_a_short_string(server: Server, request_id: object) -> None:
    error_of(server.ask("POST", "/v2/models/mlp/infer", {**MLP, "id": request_id}), 400)


def test_the_callers_request_id_comes_back_on_every_answer(server: Server) -> None:
    asked: list[tuple[str, str, Any]] = [
        ("GET", "/v2/health/live", None),
        ("GET", "/nowhere", None),
        ("PUT", "/v2", None),
        ("POST", "/v2/models/mlp/infer", MLP),
        ("POST", "/v2/models/mlp/infer", b"no JSON"),
        ("POST", "/v2/models/nosuch/infer", MLP),
    ]
    for method, path, body in asked:
        assert server.ask(method, path, body, {"X-Request-Id": "a/b:7"}).headers["x-request-id"] == "a/b:7"
        assert "x-request-id" not in server.ask(method, path, body).headers


@pytest.mark.parametrize("sent", ["with space", "x" * 129, "tab\there", "\xe9"])
def test_a_request_id_that_does_not_fit_a_log_is_replaced(server: Server, sent: str) -> None:
    got = server.ask("GET", "/v2", headers={"X-Request-Id": sent}).headers["x-request-id"]
    assert got != sent
    assert len(got) == 16
    assert int(got, 16) >= 0


def test_a_failing_model_says_nothing_of_its_engine(server: Server) -> None:
    good, bad = (json_request({"x": np.array([[value]], np.int64)}) for value in (3, 9))
    answer = server.ask("POST", "/v2/models/greedy/infer", bad)
    assert error_of(answer, 500) == "the model failed on this request"
    np.testing.assert_array_equal(
        outputs_of(server.ask("POST", "/v2/models/greedy/infer", good))["y"], np.array([[30]], np.float32)
    )


def test_inputs_that_a_model_refuses_are_the_callers_fault(server: Server) -> None:
    bad = json_request({"x": np.array([[4]], np.int64)})
    answer = server.ask("POST", "/v2/models/picky/infer", bad)
    assert error_of(answer, 400) == (
        "the model cannot compute these inputs: indices element out of data bounds, "
        "idx=4 must be within the inclusive range [-4,3]"
    )


# The repository


def test_the_index_lists_what_there_is(server: Server, models: Path) -> None:
    for body in (None, b"", b"{}", {"ready": False}, {"ready": True}):
        index = server.ask("POST", "/v2/repository/index", body).json
        assert {"name": "both", "version": "1", "state": "READY", "reason": ""} in index
        assert {entry["name"] for entry in index} == {path.name for path in models.iterdir()}


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"ready": 1}', b'{"ready": null}', b"\xff"])
def test_an_index_asked_for_wrongly(server: Server, body: bytes) -> None:
    error_of(server.ask("POST", "/v2/repository/index", body), 400)


def test_a_model_is_unloaded_and_loaded(server: Server) -> None:
    path = "/v2/repository/models/leaving/"
    for _ in range(2):
        answer = server.ask("POST", path + "unload", {})
        assert (answer.status, answer.json) == (200, {})
        assert server.ask("GET", "/v2/models/leaving/ready").status == 503
        error_of(server.ask("POST", "/v2/models/leaving/infer", MLP), 404)
        error_of(server.ask("POST", path + "unload"), 404)
        index = server.ask("POST", "/v2/repository/index").json
        assert "leaving" not in {entry["name"] for entry in index}
        assert server.ask("GET", "/v2/health/ready").status == 200
        answer = server.ask("POST", path + "load", {})
        assert (answer.status, answer.json) == (200, {})
        answer = server.ask("POST", "/v2/models/leaving/infer", MLP)
        np.testing.assert_allclose(outputs_of(answer)["output"], serving.mlp_answer(X), rtol=1e-4)


def test_a_model_that_came_later_is_loaded_and_a_broken_one_changes_nothing(
    server: Server, models: Path
) -> None:
    weights = serving.write_model(models, "later", serving.mlp(5))
    try:
        error_of(server.ask("POST", "/v2/models/later/infer", MLP), 404)
        assert server.ask("POST", "/v2/repository/models/later/load").status == 200
        other = models / "later.onnx.new"
        other.write_bytes(b"this is no model")
        other.replace(weights)
        message = error_of(server.ask("POST", "/v2/repository/models/later/load"), 400)
        assert str(models) not in message
        answer = server.ask("POST", "/v2/models/later/infer", MLP)
        np.testing.assert_allclose(outputs_of(answer)["output"], serving.mlp_answer(X, 5), rtol=1e-4)
    finally:
        server.ask("POST", "/v2/repository/models/later/unload")
        shutil.rmtree(models / "later")


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_unknown_models_are_not_loaded(server: Server, verb: str) -> None:
    error_of(server.ask("POST", f"/v2/repository/models/nosuch/{verb}"), 404)


@pytest.mark.parametrize("verb", ["load", "unload"])
@pytest.mark.parametrize("name", ["mlp", "nosuch"])
def test_settings_cannot_be_changed_from_outside(limited: Server, name: str, verb: str) -> None:
    error_of(limited.ask("POST", f"/v2/repository/models/{name}/{verb}", {}), 403)
    assert limited.ask("POST", "/v2/models/mlp/infer", MLP).status == 200
    assert len(limited.ask("POST", "/v2/repository/index").json) == 4


# Overload


def at_once(server: Server, model: str, count: int) -> list[Answer]:
    with ThreadPoolExecutor(count) as pool:
        waiting = [pool.submit(server.ask, "POST", f"/v2/models/{model}/infer", SLOW) for _ in range(count)]
        return [future.result() for future in waiting]


def refused(answers: list[Answer], word: str) -> None:
    """All were answered, some refused with when to come again."""
    busy = [answer for answer in answers if answer.status != 200]
    assert 0 < len(busy) < len(answers)
    for answer in busy:
        assert word in error_of(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 10


def test_a_full_queue_refuses(limited: Server) -> None:
    def counted() -> float:
        return limited.metric("inference_rejected_total", model="slow", version="1", reason="queue_full")

    before = counted()
    answers = at_once(limited, "slow", 6)
    refused(answers, "rows")
    assert counted() - before == sum(answer.status == 429 for answer in answers)


def test_too_many_requests_in_flight_are_refused(limited: Server) -> None:
    def counted() -> float:
        return limited.metric("inference_rejected_total", model="patient", version="1", reason="limit")

    before = counted()
    answers = at_once(limited, "patient", 10)
    refused(answers, "in flight")
    assert counted() - before == sum(answer.status == 429 for answer in answers)


def test_a_request_can_never_be_larger_than_the_queue(limited: Server) -> None:
    rows = json_request({"x": np.ones((3, 4), np.float32)})
    error_of(limited.ask("POST", "/v2/models/slow/infer", rows), 400)


def test_a_caller_waits_no_longer_than_it_wants(limited: Server) -> None:
    before = limited.metric("inference_rejected_total", model="patient", reason="deadline")
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(limited.ask, "POST", "/v2/models/patient/infer", SLOW) for _ in range(2)]
        while limited.metric("inference_queue_rows", model="patient") < 1:
            pass
        hasty = {**SLOW, "parameters": {"timeout": 20_000}}  # µs
        error_of(limited.ask("POST", "/v2/models/patient/infer", hasty), 504)
        assert [future.result().status for future in running] == [200, 200]
    assert limited.metric("inference_rejected_total", model="patient", reason="deadline") == before + 1
