"""Models side by side, swapped under load, kept when the new one fails, given back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest

from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.metrics import ServerMetrics
from modelway_runtime.serving.repository import Repository, version_order
from modelway_runtime.serving.values import Call, Client, InferenceRequest
from modelway_runtime.settings import Cache, Device, TensorSpec, WarmUp
from tests.runtime.core.arithmetic import Line, until
from tests.runtime.core.onnx_models import reshaping, scale, served

CPU = Device(providers=("cpu",), allow_cpu=False, threads=1, options={})
X = np.float32([[1, 2]])


@contextlib.asynccontextmanager
async def repository(folder: Path, device: Device = CPU) -> AsyncIterator[Repository]:
    made = Repository(device, ServerMetrics((0.1, 1)), folder=folder, trusted=False)
    try:
        yield made
    finally:
        await made.close()


async def ask(models: Repository, version: str | None = None, x: np.ndarray = X) -> list[list[float]]:
    call = Call(client=Client(name="test"), connection=Line())
    outputs = await models.find("scale", version).submit(InferenceRequest("scale", {"x": x}), call)
    return outputs["y"].tolist()


def test_versions_side_by_side_and_the_latest_by_number(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with repository(tmp_path) as models:
            files = {v: scale(tmp_path / v / "model.onnx", int(v)) for v in ("2", "9", "10")}
            await models.apply([served(path, version=v) for v, path in files.items()])
            assert models.versions("scale") == ["2", "9", "10"]
            assert await ask(models) == [[10, 20]]
            assert await ask(models, "2") == [[2, 4]]
            with pytest.raises(InferenceError) as error:
                models.find("scale", "3")
            assert error.value.status == 404

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("older", "newer"), [("2", "10"), ("1.9.0", "1.10.0"), ("1.0.0-rc1", "1.0.1"), ("9", "46.1.0")]
)
def test_order_of_versions(older: str, newer: str) -> None:
    assert version_order(older) < version_order(newer)


def test_a_changed_file_is_swapped_without_a_request_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = scale(tmp_path / "m" / "model.onnx", 2)
        async with repository(tmp_path) as models:
            await models.apply([served(path)])
            stop = asyncio.Event()
            answers: set[float] = set()

            async def load() -> None:
                while not stop.is_set():
                    answers.add((await ask(models))[0][0])
                    await asyncio.sleep(0)

            callers = [asyncio.create_task(load()) for _ in range(4)]
            for factor in (3, 4, 5):
                new = scale(tmp_path / "new" / "model.onnx", factor)
                new.replace(path)
                await models.apply([served(path)])
                assert await ask(models) == [[factor, 2 * factor]]
            await until(lambda: 5 in answers)
            stop.set()
            await asyncio.gather(*callers)  # any error would be raised here
            assert {2, 5} <= answers <= {2, 3, 4, 5}

    asyncio.run(scenario())


def test_the_same_file_is_not_loaded_again_unless_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = scale(tmp_path / "m" / "model.onnx", 2)
        async with repository(tmp_path) as models:
            await models.apply([served(path)])
            first = models.find("scale")
            await models.apply([served(path)])
            assert models.find("scale") is first
            await models.apply([served(path)], again=True)
            assert models.find("scale") is not first

    asyncio.run(scenario())


def test_the_old_version_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = scale(tmp_path / "m" / "model.onnx", 2)
        async with repository(tmp_path) as models:
            await models.apply([served(path)])
            path.write_bytes(b"not a model")
            await models.apply([served(path)])
            assert await ask(models) == [[2, 4]]
            (entry,) = models.entries()
            assert entry.state == "READY"
            assert "cannot load" in entry.reason

    asyncio.run(scenario())


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = scale(tmp_path / "m" / "model.onnx", 2)
        digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        async with repository(tmp_path) as models:
            await models.apply([served(path, digest=digest)])
            assert await ask(models) == [[2, 4]]
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            (tmp_path / "flipped.onnx").write_bytes(data)
            await models.apply([served(tmp_path / "flipped.onnx", version="2", digest=digest)])
            broken = next(entry for entry in models.entries() if entry.spec.version == "2")
            assert broken.state == "UNAVAILABLE"
            assert "sha256" in broken.reason
            assert await ask(models) == [[2, 4]]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": {"z": TensorSpec(datatype="FP32", shape=(-1, 2))}}, "name the input 'z'"),
        ({"inputs": {"x": TensorSpec(datatype="INT64", shape=(-1, 2))}}, "INT64 [-1, 2] in the settings"),
        ({"inputs": {"x": TensorSpec(datatype="FP32", shape=(-1, 3))}}, "[-1, 3] in the settings"),
        ({"outputs": {"x": TensorSpec(datatype="FP32", shape=(-1, 2))}}, "name the output 'x'"),
        ({"source": "file:///nowhere/model.onnx"}, "/nowhere/model.onnx"),
    ],
)
def test_what_does_not_agree_is_not_served(tmp_path: Path, changes: dict, words: str) -> None:
    async def scenario() -> None:
        path = scale(tmp_path / "m" / "model.onnx", 2)
        async with repository(tmp_path) as models:
            await models.apply([served(path, **changes)])
            (entry,) = models.entries()
            assert entry.servable is None
            assert words in entry.reason
            with pytest.raises(InferenceError) as error:
                models.find("scale")
            assert error.value.status == 503

    asyncio.run(scenario())


def test_a_silent_fall_to_the_cpu_is_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = scale(tmp_path / "m" / "model.onnx", 2)
        cuda = Device(providers=("cuda",), allow_cpu=False, threads=0, options={})
        async with repository(tmp_path, cuda) as models:
            await models.apply([served(path)])
            assert "cuda" in models.entries()[0].reason
            assert models.entries()[0].servable is None
        allowed = Device(providers=("cuda",), allow_cpu=True, threads=0, options={})
        async with repository(tmp_path, allowed) as models:
            await models.apply([served(path)])
            assert models.find("scale").provider == "cpu"

    asyncio.run(scenario())


def test_unloading_takes_the_model_out_of_the_metrics_and_answers_404(tmp_path: Path) -> None:
    async def scenario() -> None:
        metrics = ServerMetrics((0.1, 1))
        models = Repository(CPU, metrics, folder=tmp_path, trusted=False)
        await models.apply([served(scale(tmp_path / "m" / "model.onnx", 2))])
        page = generate_latest(metrics.registry).decode()
        assert 'model_ready{model="scale",version="1"} 1.0' in page
        assert "model_info{" in page
        await models.unload("scale")
        page = generate_latest(metrics.registry).decode()
        assert 'model_ready{model="scale",version="1"} 0.0' in page
        assert "model_info{" not in page
        with pytest.raises(InferenceError) as error:
            models.find("scale")
        assert error.value.status == 404
        await models.close()

    asyncio.run(scenario())


def test_equal_requests_in_flight_are_computed_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with repository(tmp_path) as models:
            path = scale(tmp_path / "m" / "model.onnx", 2)
            await models.apply([served(path, cache=Cache(max_bytes=10**6, ttl_s=60))])
            answers = await asyncio.gather(*(ask(models) for _ in range(10)))
            assert answers == [[[2, 4]]] * 10
            assert await ask(models) == [[2, 4]]
            assert await ask(models, x=X + 1) == [[4, 6]]
            statistics = models.find("scale").metrics.statistics
            assert statistics.rows == 2  # two different requests
            assert (statistics.cache_hit, statistics.cache_miss) == (10, 2)

    asyncio.run(scenario())


def test_followers_of_a_cancelled_request_are_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with repository(tmp_path) as models:
            path = scale(tmp_path / "m" / "model.onnx", 2)
            await models.apply([served(path, cache=Cache(max_bytes=10**6, ttl_s=60))])
            leader = asyncio.create_task(ask(models))
            follower = asyncio.create_task(ask(models))
            await asyncio.sleep(0)
            leader.cancel()
            assert await follower == [[2, 4]]
            with pytest.raises(asyncio.CancelledError):
                await leader

    asyncio.run(scenario())


def test_a_model_that_fails_on_its_warm_up_is_not_served(tmp_path: Path) -> None:
    """A model that declares rows of any number, but computes with just one, is found before a request."""

    async def scenario() -> None:
        path = reshaping(tmp_path / "m" / "model.onnx")
        async with repository(tmp_path) as models:
            declared = {"y": TensorSpec(datatype="FP32", shape=(-1, 2))}
            await models.apply([served(path, outputs=declared, warm_up=WarmUp(rows=(1,)))])
            assert models.entries()[0].state == "READY"
            await models.apply([served(path, outputs=declared, version="2", warm_up=WarmUp(rows=(1, 4)))])
            failed = next(entry for entry in models.entries() if entry.spec.version == "2")
            assert failed.servable is None
            assert "warm-up" in failed.reason
            assert models.versions("scale") == ["1"]  # what serves stays until what replaces it does

    asyncio.run(scenario())
