"""tritonclient's HTTP clients, unmodified, and the yardstick outside this repository where it is there."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]
import tritonclient.http.aio as triton_aio  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException, triton_to_np_dtype  # type: ignore[import-untyped]

from tests.runtime.rest.rest_helpers import DTYPES, same, texts
from tests.support import serving
from tests.support.serving import Server

X = np.random.default_rng(11).standard_normal((3, serving.MLP_INPUTS), np.float32)
BINARY_ONLY = ("FP16", "BF16")


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.http_port}") as made:
        yield made


def given(name: str, array: Any, datatype: str = "FP32", *, binary: bool = True, of: Any = triton) -> Any:
    tensor = of.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def refused(status: str, ask: Any) -> str:
    with pytest.raises(InferenceServerException) as caught:
        ask()
    assert caught.value.status() == status
    return str(caught.value.message())


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("both", "1")
    assert not client.is_model_ready("nosuch")
    assert not client.is_model_ready("both", "3")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("mlp")["inputs"][0] == {
        "name": "input",
        "datatype": "FP32",
        "shape": [-1, serving.MLP_INPUTS],
    }
    assert client.get_model_metadata("both", "1")["versions"] == ["1", "2"]
    refused("404", lambda: client.get_model_metadata("nosuch"))


def test_extensions_of_triton(client: Any) -> None:
    assert client.get_model_config("mlp")["max_batch_size"] == 32
    assert client.get_model_config("both", "2")["input"][0]["data_type"] == "TYPE_FP32"
    assert client.get_inference_statistics("mlp")["model_stats"][0]["name"] == "mlp"
    assert len(client.get_inference_statistics()["model_stats"]) > 3
    assert {"mlp", "both"} <= {entry["name"] for entry in client.get_model_repository_index()}


def test_models_are_loaded_and_unloaded(client: Any) -> None:
    client.unload_model("leaving")
    assert not client.is_model_ready("leaving")
    client.load_model("leaving")
    assert client.is_model_ready("leaving")
    refused("404", lambda: client.load_model("nosuch"))


@pytest.mark.parametrize("binary_out", [False, True, None])
@pytest.mark.parametrize("binary_in", [False, True])
def test_inference(client: Any, binary_in: bool, binary_out: bool | None) -> None:
    outputs = None
    if binary_out is not None:
        outputs = [triton.InferRequestedOutput("output", binary_data=binary_out)]
    result = client.infer("mlp", [given("input", X, binary=binary_in)], outputs=outputs, request_id="r-7")
    np.testing.assert_allclose(result.as_numpy("output"), serving.mlp_answer(X), rtol=1e-4, atol=1e-5)
    said = result.get_response()
    assert (said["id"], said["model_name"], said["model_version"]) == ("r-7", "mlp", "1")
    # Without outputs the client asks for all of them as bytes.
    assert ("parameters" in said["outputs"][0]) == (binary_out is not False)


def test_a_version_priority_and_timeout(client: Any) -> None:
    for version, seed in (("1", 1), ("2", 2), ("", 2)):
        result = client.infer(
            "both", [given("input", X)], model_version=version, priority=1, timeout=1_000_000
        )
        np.testing.assert_allclose(
            result.as_numpy("output"), serving.mlp_answer(X, seed), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("datatype", [d for d in DTYPES if d != "BF16"])
def test_every_datatype(client: Any, datatype: str, binary: bool) -> None:
    if datatype in BINARY_ONLY and not binary:
        pytest.skip(f"{datatype} has no form in JSON")
    if datatype == "BYTES":
        x = texts(b"", "ü".encode(), b"text").reshape(1, 3)
    else:
        x = np.array([[0, 1, 1], [1, 0, 100]]).astype(DTYPES[datatype])
    outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
    tensors = [given("x", x, datatype, binary=binary)]
    y = client.infer(f"identity-{datatype.lower()}", tensors, outputs=outputs).as_numpy("y")
    if datatype == "BYTES" and not binary:
        y = texts(*(str(element).encode() for element in y.ravel())).reshape(y.shape)
    same(y, x)


def test_bfloat16(client: Any) -> None:
    x = np.array([[1.5, -2.0, 0.0]], triton_to_np_dtype("BF16"))
    np.testing.assert_array_equal(client.infer("identity-bf16", [given("x", x, "BF16")]).as_numpy("y"), x)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_both_ways(client: Any, algorithm: str) -> None:
    x = np.arange(5000, dtype=np.float32).reshape(1, -1)
    result = client.infer(
        "identity-fp32",
        [given("x", x)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    same(result.as_numpy("y"), x)


def test_refusals_have_their_status_and_a_message(client: Any) -> None:
    assert "nosuch" in refused("404", lambda: client.infer("nosuch", [given("input", X)]))
    assert "9" in refused("404", lambda: client.infer("mlp", [given("input", X)], model_version="9"))
    narrow = np.ascontiguousarray(X[:, :1])
    assert "shape" in refused("400", lambda: client.infer("mlp", [given("input", narrow)]))
    assert "input" in refused("400", lambda: client.infer("mlp", [given("other", X)]))
    doubles = X.astype(np.float64)
    assert "FP64" in refused("400", lambda: client.infer("mlp", [given("input", doubles, "FP64")]))
    wanted = [triton.InferRequestedOutput("nosuch")]
    assert "nosuch" in refused("400", lambda: client.infer("mlp", [given("input", X)], outputs=wanted))
    classes = [triton.InferRequestedOutput("output", class_count=1)]
    assert "classification" in refused(
        "400", lambda: client.infer("mlp", [given("input", X)], outputs=classes)
    )
    sequence = {"sequence_id": 5, "sequence_start": True}
    assert "stateful" in refused("400", lambda: client.infer("mlp", [given("input", X)], **sequence))


def test_many_at_once_get_each_its_own_answer(server: Server) -> None:
    """They are computed in batches and must come apart again as they went in."""

    async def run() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.http_port}", conn_limit=16) as client:
            assert await client.is_server_ready()
            random = np.random.default_rng(0)
            given_rows = [
                random.standard_normal((1 + n % 5, serving.MLP_INPUTS), np.float32) for n in range(100)
            ]

            async def one(x: Any) -> None:
                result = await client.infer("mlp", [given("input", x, of=triton_aio)])
                np.testing.assert_allclose(
                    result.as_numpy("output"), serving.mlp_answer(x), rtol=1e-3, atol=1e-4
                )

            await asyncio.gather(*map(one, given_rows))
            with pytest.raises(InferenceServerException):
                await client.infer("nosuch", [given("input", X, of=triton_aio)])

    asyncio.run(run())


def test_the_asynchronous_client_reads_large_answers_on_every_path(tmp_path: Path) -> None:
    """It asks for compressed answers and can read such answers to inference only."""
    name = "a" * 63
    serving.write_model(tmp_path, name, serving.wide_interface(40))
    for number in range(12):
        serving.write_model(tmp_path, f"{'b' * 60}{number}", serving.mlp())

    async def ask(port: int) -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert len((await client.get_model_metadata(name))["inputs"]) == 40
            assert len((await client.get_model_config(name))["input"]) == 40
            assert len((await client.get_inference_statistics())["model_stats"]) == 13
            assert len(await client.get_model_repository_index()) == 13
            assert (await client.get_server_metadata())["name"] == "modelway"
            inputs = [given("one", np.zeros((1, 1), np.float32), of=triton_aio)]
            with pytest.raises(InferenceServerException, match=r"is missing: .* takes") as refusal:
                await client.infer(name, inputs)
            assert len(str(refusal.value)) > 1024
            inputs = [
                given(f"{'long-' * 8}{number}", np.full((1, 512), number, np.float32), of=triton_aio)
                for number in range(40)
            ]
            for algorithm in (None, "gzip", "deflate"):
                asked = {"response_compression_algorithm": algorithm} if algorithm else {}
                result = await client.infer(name, inputs, **asked)
                assert (result.as_numpy("sum") == sum(range(40))).all()
            await client.unload_model(name)

    with serving.serving_folder(tmp_path) as running:
        asyncio.run(ask(running.http_port))
        for path in (f"/v2/models/{name}", "/v2/models/stats", "/v2/openapi.json"):
            answer = running.ask("GET", path, headers={"Accept-Encoding": "gzip, deflate"})
            assert "content-encoding" not in answer.headers
            if name not in path:
                assert len(answer.body) > 1024


def yardstick() -> Path | None:
    named = os.environ.get("MODELWAY_BENCH")
    folder = Path(named) if named else Path(__file__).resolve().parents[4] / "shared/bench/serving"
    script = folder / "conformance.py"
    return script if script.is_file() else None


def test_the_yardstick_is_met(server: Server, models: Path, tmp_path: Path) -> None:
    """All checks of the script with which the peers were measured."""
    script = yardstick()
    if script is None:
        pytest.skip("no conformance.py: set MODELWAY_BENCH to the folder of the serving benchmarks")
    np.save(tmp_path / "want.npy", X[:1])
    arguments = {
        "--client": "triton",
        "--http": f"127.0.0.1:{server.http_port}",
        "--grpc": server.grpc,
        "--model": "mlp",
        "--version": "1",
        "--want": str(tmp_path / "want.npy"),
        "--onnx": str(models / "mlp/1/model.onnx"),
    }
    command = [sys.executable, str(script), *(text for pair in arguments.items() for text in pair)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert not failed, "\n".join(failed)
    score = re.search(r"core (\d+)/(\d+)   ext (\d+)/(\d+)", done.stdout)
    assert score, done.stdout + done.stderr
    assert score[1] == score[2]
    assert score[3] == score[4]
    assert int(score[2]) + int(score[4]) > 40
