"""The RPCs of inference: one request, or a stream of them. Each is recorded by what its caller got."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import NamedTuple, NoReturn, Protocol

import grpc
import grpc.aio
import msgspec

from modelway_runtime.serving.accounting import Account
from modelway_runtime.serving.admission import ByteBudget, Held
from modelway_runtime.serving.errors import InferenceError, Reason
from modelway_runtime.serving.grpc import messages
from modelway_runtime.serving.grpc.codec import decode_request, encode_response, parse_request
from modelway_runtime.serving.grpc.messages import Message
from modelway_runtime.serving.grpc.reading import Reader
from modelway_runtime.serving.grpc.rpc import (
    Context,
    Rpc,
    abort,
    begun,
    echo,
    internal,
    serialized,
    status_of,
    traceparent,
)
from modelway_runtime.serving.values import Call, Client, InferenceRequest, InferenceResponse

log = logging.getLogger(__name__)

STREAM_IN_FLIGHT = 32
"""Requests of one stream that are computed at a time; the next is not read before one is answered."""


class InferenceCore(Protocol):
    """What inference needs of the core."""

    def begin(self, call: Call) -> Account:
        """The account of an inference request, to be closed with what the caller got."""
        ...

    async def infer(self, request: InferenceRequest, account: Account) -> InferenceResponse:
        """Raises InferenceError."""
        ...

    def authenticate(self, authorization: bytes | str | None) -> Client:
        """Raises InferenceError (401)."""
        ...

    def admit(self, client: Client) -> None:
        """Takes one of the requests that a client may make. Raises InferenceError (429)."""
        ...

    def allow(self, account: Account) -> None:
        """Raises InferenceError (403, 404, 503) where the model gives this client no answer."""
        ...

    @property
    def receiving(self) -> ByteBudget:
        """Bytes of requests that are kept at a time."""
        ...


class Connected(msgspec.Struct):
    """The caller's end of an RPC."""

    disconnected: bool = False


class Outcome(NamedTuple):
    """What a caller got: an HTTP status by the contract, and why it was rejected."""

    status: int
    reason: Reason | None = None


class StreamAnswer(NamedTuple):
    """A message of a stream, and what its caller has got once it is sent."""

    data: bytes
    account: Account
    outcome: Outcome


class InferenceRpcs:
    """ModelInfer and ModelStreamInfer. ``max_bytes`` bounds an answer."""

    def __init__(self, core: InferenceCore, reader: Reader, max_bytes: int) -> None:
        self._core = core
        self._reader = reader
        self._max_bytes = max_bytes
        self._readers: set[asyncio.Task[None]] = set()
        self._ended = False
        self._cancels_at: float | None = None

    def stop(self, grace_s: float) -> None:
        """Read no more requests from any stream; each ends when those that were read are answered.

        After ``grace_s`` seconds the server cancels what is left.
        """
        self._ended = True
        self._cancels_at = time.monotonic() + grace_s
        for reader in self._readers:
            reader.cancel()

    async def infer(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """One answer. It is written here, not returned: only so it is known whether it was sent."""
        rpc = begun(context)
        account = self._core.begin(_call(rpc, "infer"))
        held = self._core.receiving.hold()
        try:
            if rpc.own_id:
                await echo(rpc)
            account.call.client = self._core.authenticate(account.call.authorization)
            self._core.admit(account.call.client)
            data = await self._reader.read(requests)
            held.add(len(data))
            answer = await self._answer(data, rpc, account, held)
            del data
            account.answer()
            await context.write(answer)
            account.close(200)
        except InferenceError as error:
            await self._refuse(rpc, account, error)
        finally:
            held.release()
            account.close(*self._broken_off(rpc))  # unless it was closed with what was sent

    async def stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Reads ahead, so that the requests of one stream can be batched; answers in their order."""
        rpc = begun(context)
        if rpc.own_id:
            await echo(rpc)
        try:
            self._core.authenticate(rpc.headers.get("authorization"))
        except InferenceError as error:
            await self._refuse(rpc, self._core.begin(_call(rpc, "stream")), error)
        unsent: set[Account] = set()
        try:
            await self._answer_all(requests, rpc, unsent)
        finally:
            for account in unsent:
                account.close(*self._broken_off(rpc))
        if self._ended:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")

    async def _answer(self, data: bytes, rpc: Rpc, account: Account, held: Held) -> bytes:
        """The bytes of a ModelInferResponse. Raises InferenceError."""
        try:
            answer = serialized(await self._inferred(data, account, held), self._max_bytes)
        except InferenceError:
            raise
        except Exception:  # noqa: BLE001  # the last resort: said in the log, not to the caller
            raise internal(rpc) from None
        response = account.response
        if response is not None and response.served_by:
            rpc.context.set_trailing_metadata((("modelway-served-by", response.served_by),))
        return answer

    async def _inferred(self, data: bytes, account: Account, held: Held) -> Message:
        message = parse_request(data)
        account.model = message.model_name
        account.version = message.model_version or None
        self._core.allow(account)
        request = decode_request(message)
        held.add_tensors(request.inputs)
        del message  # the tensors are copies
        return await self._computed(request, account)

    async def _computed(self, request: InferenceRequest, account: Account) -> Message:
        try:
            response = await self._core.infer(request, account)
        except asyncio.CancelledError:
            account.call.connection.disconnected = True  # for what the core may still have in a batch
            raise
        return encode_response(response, request.id)

    async def _answer_all(self, requests: AsyncIterator[bytes], rpc: Rpc, unsent: set[Account]) -> None:
        """Answer a stream; ``unsent`` holds the accounts of what was read and is not answered yet."""
        room = asyncio.Semaphore(STREAM_IN_FLIGHT)
        answers: asyncio.Queue[asyncio.Task[StreamAnswer] | None] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:

            async def read() -> None:
                try:
                    await room.acquire()
                    async for data in requests:
                        account = self._core.begin(_call(rpc, "stream"))
                        unsent.add(account)
                        answers.put_nowait(group.create_task(self._stream_answer(data, rpc, account)))
                        await room.acquire()
                finally:
                    answers.put_nowait(None)

            reader = group.create_task(read())
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
            if self._ended:
                reader.cancel()
            while (answering := await answers.get()) is not None:
                data, account, outcome = await answering
                await rpc.context.write(data)
                account.close(*outcome)
                unsent.discard(account)
                room.release()

    async def _stream_answer(self, data: bytes, rpc: Rpc, account: Account) -> StreamAnswer:
        """The answer to one request of a stream, which an error does not end."""
        held = self._core.receiving.hold()
        try:
            # With each message: a stream may outlive the key or token that opened it.
            account.call.client = self._core.authenticate(account.call.authorization)
            self._core.admit(account.call.client)
            held.add(len(data))
            message = await self._inferred(data, account, held)
            message.parameters["triton_final_response"].bool_param = True
            answer = serialized(messages.ModelStreamInferResponse(infer_response=message), self._max_bytes)
            outcome = Outcome(200)
        except InferenceError as error:
            answer, outcome = _stream_error(data, error)
        except Exception:  # noqa: BLE001  # the last resort: said in the log, not to the caller
            answer, outcome = _stream_error(data, internal(rpc))
        finally:
            held.release()
        account.answer()
        return StreamAnswer(answer, account, outcome)

    async def _refuse(self, rpc: Rpc, account: Account, error: InferenceError) -> NoReturn:
        account.answer()
        try:
            await abort(rpc, error)
        except grpc.aio.AbortError:  # it was sent
            account.close(status_of(error), error.reason)
            raise
        finally:
            account.close(*self._broken_off(rpc))

    def _broken_off(self, rpc: Rpc) -> Outcome:
        """What the caller of an RPC got that was cancelled.

        It sees its own deadline up to 1 % before the server does: gRPC rounds the time that it sends.
        """
        now = time.monotonic()
        if rpc.deadline is not None and now >= rpc.deadline - 0.02 - 0.01 * (rpc.deadline - rpc.began_at):
            return Outcome(504, "deadline")
        if self._cancels_at is not None and now >= self._cancels_at:
            return Outcome(503)
        return Outcome(499, "disconnected")


def _call(rpc: Rpc, method: str) -> Call:
    return Call(
        connection=Connected(),
        request_id=rpc.request_id,
        traceparent=traceparent(rpc),
        method=method,
        protocol="grpc",
        deadline=rpc.deadline,
        authorization=rpc.headers.get("authorization"),
        forwarded="modelway-forwarded" in rpc.headers,
    )


def _stream_error(data: bytes, error: InferenceError) -> tuple[bytes, Outcome]:
    """The message of a stream that says what became of the request in ``data``."""
    failed = messages.ModelStreamInferResponse(error_message=error.message)
    failed.infer_response.id = _id_of(data)
    return failed.SerializeToString(), Outcome(status_of(error), error.reason)


def _id_of(data: bytes) -> str:
    """The id of a request that was not answered, so that the caller knows which; "" if it has none."""
    try:
        return str(parse_request(data).id)
    except InferenceError:
        return ""
