"""Streams of requests over real connections."""

from __future__ import annotations

import asyncio
import time
from typing import TypeAlias

import grpc
import grpc.aio
import pytest

from modelway_runtime.serving.grpc.infer import STREAM_IN_FLIGHT
from modelway_runtime.serving.grpc.server import GrpcServer
from tests.runtime.grpc.grpc_helpers import TOKEN, ArithmeticCore, X, request_of, stream_of, with_channel

Code = grpc.StatusCode
Channel: TypeAlias = grpc.aio.Channel


def test_a_stream_answers_in_order_and_survives_errors() -> None:
    async def test(channel: Channel, core: ArithmeticCore, _server: GrpcServer) -> None:
        call = stream_of(channel)
        models = ["double", "status-429", "broken", "large", "double"]
        for index, model in enumerate(models):
            await call.write(request_of(model, {"x": X}, id=str(index)))
        await call.write(b"\xff")
        await call.write(request_of("echo", {"x": X}, id="last"))
        await call.done_writing()
        answers = [answer async for answer in call]
        assert [a.infer_response.id for a in answers] == ["0", "1", "2", "3", "4", "", "last"]
        texts = [a.error_message for a in answers]
        assert [bool(text) for text in texts] == [False, True, True, True, False, True, False]
        assert texts[1] == "refused with 429"
        assert texts[2].startswith("internal error (request ")
        assert "the answer has" in texts[3]
        assert texts[5] == "the message is not a ModelInferRequest"
        good = answers[4].infer_response
        assert good.raw_output_contents[0] == (X * 2).tobytes()
        assert good.parameters["triton_final_response"].bool_param
        assert await call.code() is Code.OK
        assert {call.method for _, call in core.calls} == {"stream"}
        assert sorted(await core.statuses(7)) == [200, 200, 200, 400, 429, 429, 500]

    with_channel(test)


def test_a_stream_does_not_outlive_the_key_that_opened_it() -> None:
    async def test(channel: Channel, core: ArithmeticCore, _server: GrpcServer) -> None:
        call = stream_of(channel, metadata=(("authorization", TOKEN),))
        await call.write(request_of("echo", {"x": X}, id="a"))
        assert (await call.read()).infer_response.id == "a"
        core.token = "Bearer another"
        await call.write(request_of("echo", {"x": X}, id="b"))
        answer = await call.read()
        assert (answer.infer_response.id, answer.error_message) == ("b", "no or unknown credentials")
        assert await core.statuses(2) == [200, 401]

    with_channel(test, token=TOKEN)


def test_a_stream_computes_a_bounded_number_at_a_time() -> None:
    async def test(channel: Channel, core: ArithmeticCore, _server: GrpcServer) -> None:
        call = stream_of(channel)
        count = STREAM_IN_FLIGHT + 20

        async def write() -> None:
            for index in range(count):
                await call.write(request_of("slow", {"x": X}, id=str(index)))
            await call.done_writing()

        writing = asyncio.create_task(write())
        while core.at_once < STREAM_IN_FLIGHT:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert core.at_once == STREAM_IN_FLIGHT
        core.release.set()
        assert [a.infer_response.id async for a in call] == [str(index) for index in range(count)]
        await writing
        assert core.most_at_once == STREAM_IN_FLIGHT

    with_channel(test)


def test_a_cancelled_stream_cancels_what_it_computes(caplog: pytest.LogCaptureFixture) -> None:
    async def test(channel: Channel, core: ArithmeticCore, _server: GrpcServer) -> None:
        call = stream_of(channel)
        for _ in range(3):
            await call.write(request_of("slow", {"x": X}))
        while core.at_once < 3:
            await asyncio.sleep(0.01)
        call.cancel()
        while core.at_once:
            await asyncio.sleep(0.01)
        assert all(call.connection.disconnected for _, call in core.calls)

    with_channel(test)
    assert not caplog.records


def test_stopping_ends_idle_streams_and_answers_what_was_read() -> None:
    async def test(channel: Channel, core: ArithmeticCore, server: GrpcServer) -> None:
        idle, busy = stream_of(channel), stream_of(channel)
        await idle.write(request_of("echo", {"x": X}))
        assert (await idle.read()).infer_response.model_name == "echo"
        await busy.write(request_of("slow", {"x": X}, id="b"))
        await asyncio.wait_for(core.running.wait(), 5)
        stopping = asyncio.create_task(server.stop(15))
        assert await asyncio.wait_for(idle.code(), 5) is Code.UNAVAILABLE
        core.release.set()
        assert (await busy.read()).infer_response.id == "b"
        assert await busy.code() is Code.UNAVAILABLE
        started = time.monotonic()
        await stopping
        assert time.monotonic() - started < 10

    with_channel(test)
