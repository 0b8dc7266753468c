"""Many callers at once, real graphs: every answer is the one that the caller's rows get alone."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.support import serving
from tests.support.row_graphs import APART, MIXING, WIDTH, chain

CALLERS = 32
EVERY = {**APART, **MIXING}
BATCHING = {"max_rows": 64, "max_delay_ms": 3, "preferred_rows": []}


def random_chains(count: int) -> dict[str, onnx.ModelProto]:
    """Of one to four steps; two in three without a step that mixes rows."""
    models = {}
    for seed in range(count):
        random = np.random.default_rng(seed)
        names = random.choice(list(APART), random.integers(1, 4)).tolist()
        if seed % 3 == 0:
            names.insert(random.integers(0, len(names) + 1), random.choice(list(MIXING)))
        models[f"random-{seed}"] = chain([EVERY[name] for name in names], seed)
    return models


class Alone:
    """onnxruntime, with one caller's rows at a time."""

    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def answer(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._session.run(None, {"x": x})[0])


def request(random: np.random.Generator) -> NDArray[Any]:
    """One to three rows; every tenth caller sends numbers ten times as large as the others."""
    size = 10 if random.random() < 0.1 else 1
    return (random.standard_normal((random.integers(1, 4), WIDTH)) * size).astype(np.float32)


def post(connection: http.client.HTTPConnection, model: str, x: NDArray[Any]) -> tuple[int, NDArray[Any]]:
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    connection.request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}))
    answer = serving.read_answer(connection)
    if answer.status != 200:
        return answer.status, np.empty(0)
    (output,) = answer.json["outputs"]
    return 200, np.array(output["data"], np.float32).reshape(output["shape"])


def ask_together(
    server: serving.Server, models: dict[str, onnx.ModelProto], rounds: int
) -> dict[str, Counter[str]]:
    """All callers ask each model at the same time, some times over; what became of their requests."""
    alone = {name: Alone(model) for name, model in models.items()}
    tally: dict[str, Counter[str]] = {name: Counter() for name in models}
    barrier = threading.Barrier(CALLERS)

    def call(caller: int) -> None:
        random = np.random.default_rng(caller)
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
        for name in models:
            barrier.wait(60)
            for _ in range(rounds):
                x = request(random)
                status, got = post(connection, name, x)
                tally[name][judge(status, got, lambda name=name, x=x: alone[name].answer(x))] += 1
        connection.close()

    with ThreadPoolExecutor(CALLERS) as threads:
        for done in [threads.submit(call, caller) for caller in range(CALLERS)]:
            done.result()
    return tally


def judge(status: int, got: NDArray[Any], right: Callable[[], NDArray[Any]]) -> str:
    try:
        expected = right()
    except Exception:  # noqa: BLE001  # what onnxruntime refuses, the server refuses
        return "right" if status != 200 else "answered what onnxruntime refuses"
    if status != 200:
        return f"status {status}"
    if got.shape != expected.shape:
        return f"shape {got.shape} for {expected.shape}"
    largest = np.max(np.abs(expected), initial=1e-6)
    same = np.allclose(got, expected, rtol=1e-3, atol=1e-4 * largest, equal_nan=True)
    return "right" if same else "wrong"


@contextmanager
def served_together(
    folder: Path, models: dict[str, onnx.ModelProto], **changes: Any
) -> Iterator[serving.Server]:
    entries = [
        serving.served(name, serving.write_model(folder, name, model), batching=BATCHING, **changes)
        for name, model in models.items()
    ]
    with serving.serving_settings(serving.settings_of(entries)) as server:
        yield server


def batches_of(server: serving.Server, name: str) -> tuple[float, float]:
    """Batches, and the rows in them."""
    return (
        server.metric("inference_batch_rows_count", model=name),
        server.metric("inference_batch_rows_sum", model=name),
    )


def test_every_caller_gets_its_own_answer(tmp_path: Path) -> None:
    models = {name: chain([step]) for name, step in EVERY.items()} | random_chains(30)
    with served_together(tmp_path, models) as server:
        configs = {name: server.ask("GET", f"/v2/models/{name}/config").json for name in models}
        tally = ask_together(server, models, rounds=2)
        batched = {name for name in models if configs[name]["max_batch_size"]}
        shared = [name for name in batched if batches_of(server, name)[0] < 0.8 * CALLERS * 2]
    assert {name: dict(count) for name, count in tally.items() if set(count) != {"right"}} == {}
    assert set(APART) <= batched
    assert not set(MIXING) & batched
    assert len([name for name in batched if name.startswith("random")]) > 10
    assert len(shared) > len(batched) / 2  # they did share batches, else this proves nothing


def test_rows_that_are_declared_wrongly_show_that_the_test_can_fail(tmp_path: Path) -> None:
    models = {"mean": chain([MIXING["mean"]])}
    with served_together(tmp_path, models, rows="first") as server:
        tally = ask_together(server, models, rounds=8)
    assert tally["mean"]["wrong"] > 0


def lstm_of_sequences() -> onnx.ModelProto:
    """As torch exports an LSTM by default: sequence, batch, features; both sizes are a request's."""
    weights = np.random.default_rng(1).standard_normal((1, 16, 4)).astype(np.float32)
    return serving.Graph(
        [serving._tensor("x", "FP32", ("sequence", "batch", 4))],
        [serving._tensor("y", "FP32", ("sequence", 1, "batch", 4))],
        [onnx.helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)],
        {"w": weights, "r": weights},
    ).model()


@pytest.mark.parametrize("rows", [None, "none"])
def test_what_was_decided_is_in_the_configuration(tmp_path: Path, rows: str | None) -> None:
    models = {"sequences": lstm_of_sequences(), "dense": serving.mlp()}
    with served_together(tmp_path, models, rows=rows) as server:
        config = {name: server.ask("GET", f"/v2/models/{name}/config").json for name in models}
        log = server.log()
    reason = config["sequences"]["parameters"]["rows"]["string_value"]
    assert config["sequences"]["max_batch_size"] == 0
    assert config["sequences"]["input"][0]["dims"] == [-1, -1, 4]
    assert "dynamic_batching" not in config["sequences"]
    if rows is None:
        assert reason == "the operator LSTM goes along the rows"
        assert log.count("is not batched") == 1
        assert config["dense"]["max_batch_size"] == 64
    else:
        assert reason == "its rows are declared as none"
        assert "is not batched" not in log
        assert config["dense"]["max_batch_size"] == 0
