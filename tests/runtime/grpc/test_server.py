"""The server over real connections, with plain gRPC clients."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TypeAlias

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from modelway_runtime.serving.grpc import messages as m
from modelway_runtime.serving.grpc.server import GrpcServer, make_server
from modelway_runtime.serving.tensors import from_bytes
from tests.runtime.grpc.grpc_helpers import (
    MAX_BYTES,
    TOKEN,
    ArithmeticCore,
    X,
    error_of,
    method,
    request_of,
    serving,
    stream_of,
    with_channel,
)

Code = grpc.StatusCode
Channel: TypeAlias = grpc.aio.Channel


# Inference


def test_an_answer_and_what_the_core_was_told() -> None:
    async def test(channel: Channel, core: ArithmeticCore, _server: GrpcServer) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        metadata = (
            ("authorization", TOKEN),
            ("x-request-id", "r-1"),
            ("traceparent", trace),
            ("modelway-forwarded", "1"),
        )
        call = method(channel, "ModelInfer")(
            request_of("double", {"x": X}, id="7", model_version="3"), metadata=metadata, timeout=9
        )
        answer = await call
        assert (answer.model_name, answer.model_version, answer.id) == ("double", "7", "7")
        got = from_bytes(memoryview(answer.raw_output_contents[0]), "FP32", (2, 4), "y")
        assert np.array_equal(got, X * 2)
        assert dict(await call.initial_metadata())["x-request-id"] == "r-1"
        request, seen = core.calls[0]
        assert (request.version, seen.client.name, seen.request_id) == ("3", "tester", "r-1")
        assert (seen.method, seen.protocol, seen.forwarded) == ("infer", "grpc", True)
        assert (seen.authorization, seen.traceparent) == (TOKEN, trace)
        assert seen.deadline is not None
        assert 7 < seen.deadline - asyncio.get_running_loop().time() < 9
        assert not seen.connection.disconnected

    with_channel(test, token=TOKEN)


def test_a_request_without_metadata() -> None:
    async def test(channel: Channel, core: ArithmeticCore, _server: GrpcServer) -> None:
        calls = [method(channel, "ModelInfer")(request_of("echo", {"x": X})) for _ in range(2)]
        await asyncio.gather(*calls)
        assert "x-request-id" not in dict(await calls[0].initial_metadata())
        (_, one), (_, other) = core.calls
        assert one.request_id != other.request_id
        assert len(one.request_id) == 16
        assert (one.deadline, one.traceparent, one.authorization, one.forwarded) == (None, "", None, False)

    with_channel(test)


def test_metadata_that_is_not_what_it_should_be_is_not_passed_on() -> None:
    async def test(channel: Channel, core: ArithmeticCore, _server: GrpcServer) -> None:
        for bad in ("x" * 129, "two words", ""):
            await method(channel, "ModelInfer")(
                request_of("echo", {"x": X}), metadata=(("x-request-id", bad), ("traceparent", "nonsense"))
            )
        assert all(len(call.request_id) == 16 and not call.traceparent for _, call in core.calls)

    with_channel(test)


def test_the_standby_is_named() -> None:
    async def test(channel: Channel, _core: ArithmeticCore, _server: GrpcServer) -> None:
        answer = await method(channel, "ModelInfer")(request_of("covered", {"x": X}))
        assert answer.parameters["served_by"].string_param == "lite"

    with_channel(test)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INVALID_ARGUMENT),
        (401, Code.UNAUTHENTICATED),
        (403, Code.PERMISSION_DENIED),
        (404, Code.NOT_FOUND),
        (413, Code.RESOURCE_EXHAUSTED),
        (429, Code.RESOURCE_EXHAUSTED),
        (499, Code.CANCELLED),
        (500, Code.INTERNAL),
        (501, Code.UNIMPLEMENTED),
        (502, Code.INTERNAL),
        (503, Code.UNAVAILABLE),
        (504, Code.DEADLINE_EXCEEDED),
    ],
)
def test_statuses_have_their_codes(status: int, code: grpc.StatusCode) -> None:
    async def test(channel: Channel, core: ArithmeticCore, _server: GrpcServer) -> None:
        error = await error_of(method(channel, "ModelInfer")(request_of(f"status-{status}", {"x": X})))
        assert (error.code(), error.details()) == (code, f"refused with {status}")
        assert await core.statuses() == [{413: 429, 502: 500}.get(status, status)], (
            "once, as the caller got it"
        )

    with_channel(test)


def test_when_to_try_again_is_said() -> None:
    async def test(channel: Channel, _core: ArithmeticCore, _server: GrpcServer) -> None:
        error = await error_of(method(channel, "ModelInfer")(request_of("busy", {"x": X})))
        assert dict(error.trailing_metadata())["retry-after"] == "2"
        error = await error_of(method(channel, "ModelInfer")(request_of("status-429", {"x": X})))
        assert "retry-after" not in dict(error.trailing_metadata())

    with_channel(test)


def test_an_unexpected_failure_is_said_in_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    async def test(channel: Channel, _core: ArithmeticCore, _server: GrpcServer) -> None:
        metadata = (("x-request-id", "r-9"),)
        error = await error_of(
            method(channel, "ModelInfer")(request_of("broken", {"x": X}), metadata=metadata)
        )
        assert (error.code(), error.details()) == (Code.INTERNAL, "internal error (request r-9)")

    with caplog.at_level(logging.ERROR, "modelway_runtime.serving.grpc.server"):
        with_channel(test)
    assert "request r-9 failed" in caplog.text
    assert "a secret of the engine" in caplog.text


def test_a_request_that_cannot_be_read_is_refused_and_counted() -> None:
    async def test(channel: Channel, core: ArithmeticCore, _server: GrpcServer) -> None:
        infer = method(channel, "ModelInfer")
        for data in (b"\xff", request_of("echo", {})):
            assert (await error_of(infer(data))).code() is Code.INVALID_ARGUMENT
        assert await core.statuses(2) == [400, 400]
        assert [account.model for account, _, _ in core.recorded] == ["", "echo"]
        assert {a.call.client.name for a, _, _ in core.recorded} == {"tester"}
        assert not core.calls
        error = await error_of(method(channel, "ModelReady", m.ModelReadyResponse)(b"\xff"))
        assert (error.code(), error.details()) == (
            Code.INVALID_ARGUMENT,
            "the message is not a ModelReadyRequest",
        )

    with_channel(test)


def test_messages_are_bounded_both_ways() -> None:
    async def test(channel: Channel, core: ArithmeticCore, _server: GrpcServer) -> None:
        infer = method(channel, "ModelInfer")
        large = request_of("echo", {"x": np.zeros(MAX_BYTES, np.uint8)})
        assert (await error_of(infer(large))).code() is Code.RESOURCE_EXHAUSTED
        error = await error_of(infer(large, compression=grpc.Compression.Gzip))  # small on the wire
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert not core.calls
        error = await error_of(infer(request_of("large", {"x": X})))
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert "the answer has" in str(error.details())
        within = {"x": np.zeros(MAX_BYTES - 100, np.uint8)}
        assert (await infer(request_of("echo", within))).outputs[0].shape[0] == MAX_BYTES - 100

    with_channel(test)


def test_a_deadline_and_a_cancellation_reach_the_core() -> None:
    async def test(channel: Channel, core: ArithmeticCore, _server: GrpcServer) -> None:
        infer = method(channel, "ModelInfer")
        error = await error_of(infer(request_of("slow", {"x": X}), timeout=0.2))
        assert error.code() is Code.DEADLINE_EXCEEDED
        await asyncio.wait_for(core.cancelled.wait(), 5)
        core.cancelled.clear()
        core.running.clear()
        call = infer(request_of("slow", {"x": X}))
        waiting = asyncio.ensure_future(call)
        await asyncio.wait_for(core.running.wait(), 5)
        call.cancel()
        await asyncio.wait_for(core.cancelled.wait(), 5)
        await asyncio.sleep(0)
        assert all(call.connection.disconnected for _, call in core.calls)
        with pytest.raises(asyncio.CancelledError):
            await waiting

    with_channel(test)


# Stopping


def test_stopping_waits_for_requests_and_then_no_longer() -> None:
    async def test(channel: Channel, core: ArithmeticCore, server: GrpcServer) -> None:
        infer = method(channel, "ModelInfer")
        one = asyncio.ensure_future(infer(request_of("slow", {"x": X})))
        await asyncio.wait_for(core.running.wait(), 5)
        stopping = asyncio.create_task(server.stop(15))
        await asyncio.sleep(0.1)
        core.release.set()
        assert (await one).model_name == "slow"
        await stopping
        await server.stop(0)  # a second time is nothing

    with_channel(test)

    async def too_long(channel: Channel, core: ArithmeticCore, server: GrpcServer) -> None:
        call = method(channel, "ModelInfer")(request_of("slow", {"x": X}))
        waiting = asyncio.ensure_future(error_of(call))
        await asyncio.wait_for(core.running.wait(), 5)
        await server.stop(0.1)
        assert (await waiting).code() in (Code.UNAVAILABLE, Code.CANCELLED)
        assert core.cancelled.is_set()

    with_channel(too_long)


# Who may call


def test_only_health_needs_no_credentials() -> None:
    async def test(channel: Channel, core: ArithmeticCore, server: GrpcServer) -> None:
        server.set_ready(True)
        assert (await method(channel, "ServerLive", m.ServerLiveResponse)(b"")).live
        assert (await method(channel, "ServerReady", m.ServerReadyResponse)(b"")).ready
        ready = method(channel, "ModelReady", m.ModelReadyResponse)
        assert (await ready(m.ModelReadyRequest(name="echo"))).ready
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        names = ("ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics")
        for name in (*names, "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
            error = await error_of(method(channel, name)(b""))
            assert (name, error.code()) == (name, Code.UNAUTHENTICATED)
        assert not core.recorded
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            error = await error_of(
                method(channel, "ModelInfer")(request_of("echo", {"x": X}), metadata=metadata)
            )
            assert (error.code(), error.details()) == (Code.UNAUTHENTICATED, "no or unknown credentials")
            stream = stream_of(channel, metadata=metadata)
            with pytest.raises(grpc.aio.AioRpcError):
                await stream.read()
            assert await stream.code() is Code.UNAUTHENTICATED
        assert await core.statuses(4) == [401] * 4
        assert [a.call.method for a, _, _ in core.recorded] == ["infer", "stream"] * 2
        assert not core.calls
        allowed = (("authorization", TOKEN),)
        answer = await method(channel, "ModelInfer")(request_of("echo", {"x": X}), metadata=allowed)
        assert answer.model_name == "echo"

    with_channel(test, token=TOKEN)


# The other RPCs


def test_health_follows_readiness() -> None:
    async def test(channel: Channel, _core: ArithmeticCore, server: GrpcServer) -> None:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", m.SERVICE):
            request = health_pb2.HealthCheckRequest(service=service)
            assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch = health.Watch(request)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            server.set_ready(True)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
            server.set_ready(False)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
        unknown = health_pb2.HealthCheckRequest(service="other")
        assert (await error_of(health.Check(unknown))).code() is Code.NOT_FOUND
        watch = health.Watch(unknown)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()

    with_channel(test)


def test_a_watcher_of_health_does_not_hold_up_the_stop() -> None:
    async def test(channel: Channel, _core: ArithmeticCore, server: GrpcServer) -> None:
        server.set_ready(True)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await asyncio.wait_for(server.stop(15), 5)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watch.code() is Code.OK

    with_channel(test)


def test_reflection_describes_what_is_served() -> None:
    async def test(_channel: Channel, _core: ArithmeticCore, _server: GrpcServer) -> None:
        async with serving(ArithmeticCore()) as (_, address):
            await asyncio.to_thread(ask, address)

    def ask(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            assert set(database.get_services()) == {
                m.SERVICE,
                "grpc.health.v1.Health",
                "grpc.reflection.v1alpha.ServerReflection",
            }
            for symbol in (*database.get_services(), "inference.ModelInferRequest"):
                assert database.FindFileContainingSymbol(symbol)
            file = database.FindFileContainingSymbol(m.SERVICE)
            assert "ModelStreamInfer" in {method.name for method in file.service[0].method}

    with_channel(test)


def test_reflection_refuses_what_it_does_not_know() -> None:
    kind = reflection_pb2.ServerReflectionRequest
    asked = {
        "no such file": (kind(file_by_filename="other.proto"), Code.NOT_FOUND),
        "no such symbol": (kind(file_containing_symbol="other.Service"), Code.NOT_FOUND),
        "an empty symbol": (kind(file_containing_symbol=""), Code.NOT_FOUND),
        "no such message": (kind(all_extension_numbers_of_type="other.Message"), Code.NOT_FOUND),
        "an extension": (
            kind(file_containing_extension={"containing_type": "inference.InferParameter"}),
            Code.NOT_FOUND,
        ),
        "nothing": (kind(), Code.INVALID_ARGUMENT),
    }

    async def test(channel: Channel, _core: ArithmeticCore, _server: GrpcServer) -> None:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        stream = stub.ServerReflectionInfo()
        for name, (request, code) in asked.items():
            await stream.write(request)
            answer = await stream.read()
            assert answer.original_request == request, name
            assert answer.error_response.error_code == code.value[0], name
        for request, service in (
            (kind(file_by_filename="health.proto"), "Health"),
            (kind(file_containing_symbol="grpc.health.v1.Health.Check"), "Health"),
            (kind(file_containing_symbol="inference.ModelInferRequest"), "GRPCInferenceService"),
        ):
            await stream.write(request)
            (described,) = (await stream.read()).file_descriptor_response.file_descriptor_proto
            assert FileDescriptorProto.FromString(described).service[0].name == service
        await stream.write(kind(all_extension_numbers_of_type="inference.InferParameter"))
        numbers = (await stream.read()).all_extension_numbers_response
        assert (numbers.base_type_name, list(numbers.extension_number)) == ("inference.InferParameter", [])
        await stream.done_writing()

    with_channel(test)


def test_reflection_needs_credentials_where_everything_does() -> None:
    async def test() -> None:
        async with serving(ArithmeticCore(token=TOKEN)) as (_, address):
            await asyncio.to_thread(ask, address)

    def ask(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                ProtoReflectionDescriptorDatabase(channel).get_services()
            assert refused.value.code() is Code.UNAUTHENTICATED

    asyncio.run(test())


def test_readiness_and_metadata() -> None:
    async def test(channel: Channel, core: ArithmeticCore, _server: GrpcServer) -> None:
        core.live = core.ready = False
        assert not (await method(channel, "ServerLive", m.ServerLiveResponse)(b"")).live
        assert not (await method(channel, "ServerReady", m.ServerReadyResponse)(b"")).ready
        ready = method(channel, "ModelReady", m.ModelReadyResponse)
        asked = [("echo", "", True), ("echo", "7", True), ("echo", "8", False), ("nobody", "", False)]
        for name, version, expected in asked:
            assert (await ready(m.ModelReadyRequest(name=name, version=version))).ready is expected
        server = await method(channel, "ServerMetadata", m.ServerMetadataResponse)(b"")
        assert (server.name, server.version, list(server.extensions)) == ("modelway", "1.2.3", ["statistics"])
        metadata = method(channel, "ModelMetadata", m.ModelMetadataResponse)
        model = await metadata(m.ModelMetadataRequest(name="echo"))
        assert (model.name, list(model.versions), model.platform) == ("echo", ["7"], "numpy")
        for tensor in (*model.inputs, *model.outputs):
            assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", "FP32", [-1, 4])
        error = await error_of(metadata(m.ModelMetadataRequest(name="echo", version="8")))
        assert error.code() is Code.NOT_FOUND

    with_channel(test)


def test_repository() -> None:
    async def test(channel: Channel, core: ArithmeticCore, _server: GrpcServer) -> None:
        index = method(channel, "RepositoryIndex", m.RepositoryIndexResponse)
        listed = (await index(m.RepositoryIndexRequest())).models
        assert [(one.name, one.state, one.reason) for one in listed] == [
            ("echo", "READY", ""),
            ("broken", "UNAVAILABLE", "why"),
        ]
        assert len((await index(m.RepositoryIndexRequest(ready=True))).models) == 1
        load = method(channel, "RepositoryModelLoad", m.RepositoryModelLoadResponse)
        unload = method(channel, "RepositoryModelUnload", m.RepositoryModelUnloadResponse)
        await load(m.RepositoryModelLoadRequest(model_name="echo"))
        request = m.RepositoryModelUnloadRequest(model_name="echo")
        request.parameters["unload_dependents"].bool_param = False
        await unload(request)
        assert core.loaded == ["+echo by tester", "-echo by tester"]
        error = await error_of(load(m.RepositoryModelLoadRequest(model_name="nobody")))
        assert error.code() is Code.NOT_FOUND
        configured = m.RepositoryModelLoadRequest(model_name="echo")
        configured.parameters["config"].string_param = "{}"
        for rpc, wrong in (
            (load, configured),
            (load, m.RepositoryModelLoadRequest(model_name="echo", repository_name="r")),
            (unload, m.RepositoryModelUnloadRequest(model_name="echo", repository_name="r")),
            (index, m.RepositoryIndexRequest(repository_name="r")),
        ):
            assert (await error_of(rpc(wrong))).code() is Code.INVALID_ARGUMENT
        assert len(core.loaded) == 2

    with_channel(test)


def test_what_is_not_served_is_said() -> None:
    async def test(channel: Channel, _core: ArithmeticCore, _server: GrpcServer) -> None:
        names = ["TraceSetting", "LogSettings"]
        names += [
            f"{k}SharedMemory{v}" for k in ("System", "Cuda") for v in ("Status", "Register", "Unregister")
        ]
        for name in names:
            error = await error_of(method(channel, name)(b""))
            assert error.code() is Code.UNIMPLEMENTED
            assert str(error.details()).startswith("this server does not offer ")
        assert (await error_of(method(channel, "Nothing")(b""))).code() is Code.UNIMPLEMENTED

    with_channel(test)


def test_a_port_that_is_taken_is_an_error() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = make_server(ArithmeticCore(), credentials=None, max_bytes=MAX_BYTES)
            with pytest.raises(OSError, match="is the port taken"):
                await server.start("127.0.0.1", taken.getsockname()[1])
            await server.stop(0)

    asyncio.run(test())
