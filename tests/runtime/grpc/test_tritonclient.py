"""Triton's own clients, unmodified, in the process of the server."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from tests.runtime.grpc.grpc_helpers import TOKEN, ArithmeticCore, X, serving


def with_client(test: Callable[[Any, ArithmeticCore], None]) -> None:
    """Run a test with a blocking client, in a thread of its own."""

    async def run() -> None:
        core = ArithmeticCore(token=TOKEN)
        async with serving(core) as (_, address):

            def blocking() -> None:
                with triton.InferenceServerClient(address) as client:
                    test(client, core)

            await asyncio.to_thread(blocking)

    asyncio.run(run())


HEADERS = {"authorization": TOKEN}


def tensor(array: Any, datatype: str = "FP32", module: Any = triton) -> Any:
    made = module.InferInput("x", list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


SAMPLES = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], np.uint8),
    "UINT16": np.array([[0, 65535]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1]], np.uint64),
    "INT8": np.array([[-128, 127]], np.int8),
    "INT16": np.array([[-(2**15), 2**15 - 1]], np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1]], np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1]], np.int64),
    "FP16": np.array([[1.5, -2.0]], np.float16),
    "FP32": np.array([[1.5, -2.0]], np.float32),
    "FP64": np.array([[1.5, -2.0]], np.float64),
    "BF16": np.array([[1.5, -2.0]], triton_to_np_dtype("BF16")),
    "BYTES": np.array([[b"a\x00b", "ü".encode()]], np.object_),
}


def test_every_datatype() -> None:
    def test(client: Any, _core: ArithmeticCore) -> None:
        for datatype, array in SAMPLES.items():
            result = client.infer("echo", [tensor(array, datatype)], headers=HEADERS)
            got = result.as_numpy("x")
            assert (datatype, got.shape, got.tolist()) == (datatype, array.shape, array.tolist())
        empty = client.infer("echo", [tensor(np.zeros((0, 4), np.float32))], headers=HEADERS)
        assert empty.as_numpy("x").shape == (0, 4)

    with_client(test)


def test_options_of_a_request() -> None:
    def test(client: Any, core: ArithmeticCore) -> None:
        result = client.infer(
            "echo",
            [tensor(X)],
            model_version="7",
            outputs=[triton.InferRequestedOutput("x")],
            request_id="r-7",
            priority=2,
            timeout=1_000_000,
            client_timeout=9,
            headers=HEADERS,
            compression_algorithm="gzip",
        )
        assert result.get_response().id == "r-7"
        request, call = core.calls[0]
        assert (request.outputs, request.priority, request.timeout_s, request.version) == (
            ("x",),
            2,
            1.0,
            "7",
        )
        assert call.deadline is not None
        for options, text in (
            ({"sequence_id": 5, "sequence_start": True}, "stateful"),
            ({"outputs": [triton.InferRequestedOutput("x", class_count=2)]}, "classification"),
        ):
            with pytest.raises(InferenceServerException, match=text) as error:
                client.infer("echo", [tensor(X)], headers=HEADERS, **options)
            assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
        with pytest.raises(InferenceServerException, match="no model") as error:
            client.infer("nobody", [tensor(X)], headers=HEADERS)
        assert error.value.status() == "StatusCode.NOT_FOUND"
        with pytest.raises(InferenceServerException, match="credentials"):
            client.infer("echo", [tensor(X)])

    with_client(test)


def test_everything_but_inference() -> None:
    def test(client: Any, core: ArithmeticCore) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("echo")
        assert not client.is_model_ready("nobody")
        assert client.get_server_metadata(headers=HEADERS).name == "modelway"
        assert client.get_model_metadata("echo", headers=HEADERS).inputs[0].shape == [-1, 4]
        config = client.get_model_config("echo", headers=HEADERS).config
        assert (config.name, config.platform, config.backend) == ("echo", "numpy", "python")
        assert (config.max_batch_size, list(config.version_policy.specific.versions)) == (64, [7])
        assert (config.input[0].data_type, list(config.input[0].dims)) == (11, [4])
        assert config.output[0].data_type == 13
        assert (config.instance_group[0].kind, config.instance_group[0].count) == (2, 2)
        assert list(config.dynamic_batching.preferred_batch_size) == [8, 16]
        assert config.dynamic_batching.max_queue_delay_microseconds == 2000
        for name, version, expected in (("", "", ("every", "all")), ("echo", "7", ("echo", "7"))):
            stats = client.get_inference_statistics(name, version, headers=HEADERS).model_stats[0]
            assert (stats.name, stats.version) == expected
            assert (stats.last_inference, stats.inference_count) == (1_700_000_000_000, 5)
            assert stats.inference_stats.success.ns == stats.inference_stats.cache_hit.ns == 2**40
            assert stats.batch_stats[0].compute_infer.count == 3
        assert len(client.get_model_repository_index(headers=HEADERS).models) == 2
        client.load_model("echo", headers=HEADERS)
        client.unload_model("echo", headers=HEADERS)
        assert core.loaded == ["+echo by tester", "-echo by tester"]
        for refused in (client.get_system_shared_memory_status, client.get_trace_settings):
            with pytest.raises(InferenceServerException, match="does not offer") as error:
                refused(headers=HEADERS)
            assert error.value.status() == "StatusCode.UNIMPLEMENTED"

    with_client(test)


def test_a_stream() -> None:
    def test(client: Any, _core: ArithmeticCore) -> None:
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)), headers=HEADERS)
        for model in ("double", "nobody", "double"):
            client.async_stream_infer(model, [tensor(X)], request_id=model)
        got = [answers.get(timeout=9) for _ in range(3)]
        client.stop_stream()
        assert np.array_equal(got[0][0].as_numpy("y"), X * 2)
        assert "no model" in str(got[1][1])
        assert got[2][1] is None
        assert got[2][0].get_response().id == "double"

    with_client(test)


def test_the_asynchronous_client() -> None:
    async def run() -> None:
        async with (
            serving(ArithmeticCore(token=TOKEN)) as (_, address),
            triton_aio.InferenceServerClient(address) as client,
        ):
            inputs = [tensor(X, module=triton_aio)]
            results = await asyncio.gather(
                *(client.infer("double", inputs, headers=HEADERS) for _ in range(8))
            )
            assert all(np.array_equal(result.as_numpy("y"), X * 2) for result in results)

            async def requests() -> Any:
                for model in ("double", "nobody", "double"):
                    yield {"model_name": model, "inputs": inputs}

            stream = client.stream_infer(requests(), headers=HEADERS)
            got = [(result, error) async for result, error in stream]
            assert [error is None for _, error in got] == [True, False, True]

    asyncio.run(run())
