"""The gRPC server: ``inference.GRPCInferenceService``, health and reflection, in front of the core."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from random import getrandbits
from typing import Any, NoReturn, Protocol, TypeAlias

import grpc
import grpc.aio
import msgspec
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from modelway_runtime.serving.errors import InferenceError, invalid
from modelway_runtime.serving.grpc import messages
from modelway_runtime.serving.grpc.codec import decode_request, encode_response, parse_request
from modelway_runtime.serving.grpc.health import Health
from modelway_runtime.serving.grpc.messages import SERVICE, Message
from modelway_runtime.serving.grpc.reflection import Reflection
from modelway_runtime.serving.values import Call, Client, InferenceRequest, InferenceResponse

log = logging.getLogger(__name__)

STREAM_IN_FLIGHT = 32
"""Requests of one stream that are computed at a time; the next is not read before one is answered."""
Headers: TypeAlias = dict[str, Any]
Context: TypeAlias = Any
"""A grpc.aio.ServicerContext."""

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_NOT_SERVED = {
    "SystemSharedMemoryStatus": "shared memory",
    "SystemSharedMemoryRegister": "shared memory",
    "SystemSharedMemoryUnregister": "shared memory",
    "CudaSharedMemoryStatus": "shared memory",
    "CudaSharedMemoryRegister": "shared memory",
    "CudaSharedMemoryUnregister": "shared memory",
    "TraceSetting": "tracing by Triton's protocol",
    "LogSettings": "changing the log by Triton's protocol",
}
_MAX_DETAILS = 1024  # characters; the text travels in a header, which clients bound
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a port that is taken is an error
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.max_metadata_size", 16 * 1024),  # bytes; the default of 8 KiB is small for a JWT
    ("grpc.absolute_max_metadata_size", 32 * 1024),
    # A dead peer is noticed within 80 s; a peer that pings oftener than every 10 s is sent away.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
)


class Core(Protocol):
    """What the transport needs of the core."""

    @property
    def live(self) -> bool: ...
    @property
    def ready(self) -> bool: ...
    async def infer(self, request: InferenceRequest, call: Call) -> InferenceResponse:
        """Raises InferenceError."""
        ...

    def authenticate(self, authorization: bytes | str | None) -> Client:
        """Raises InferenceError (401)."""
        ...

    def rejected(self, error: InferenceError, model: str, call: Call | None) -> None:
        """Counts and audits an inference request that failed before ``infer`` could see it."""
        ...

    def model_ready(self, name: str, version: str | None) -> bool: ...
    def server_metadata(self) -> dict[str, Any]: ...
    def model_metadata(self, name: str, version: str | None) -> dict[str, Any]: ...
    def model_config(self, name: str, version: str | None) -> dict[str, Any]: ...
    def model_statistics(self, name: str | None, version: str | None) -> list[dict[str, Any]]: ...
    def repository_index(self, *, ready_only: bool) -> list[dict[str, Any]]: ...
    async def repository_load(self, name: str, client: Client) -> None: ...
    async def repository_unload(self, name: str, client: Client) -> None: ...


class Connected(msgspec.Struct):
    """The caller's end of an RPC."""

    disconnected: bool = False


class Rpc(msgspec.Struct, frozen=True):
    """One RPC: its context, its headers, and its name in the log and in the audit.

    ``own_id``: the caller has named it, so that the name goes back. Only then: a header that is sent
    before the answer costs much of the throughput.
    """

    context: Context
    headers: Headers
    request_id: str
    own_id: bool


Answer: TypeAlias = Callable[[bytes, Rpc], Awaitable[Message]]


def make_server(core: Core, *, credentials: Any | None, max_bytes: int) -> GrpcServer:
    """A server that does not listen yet.

    ``credentials``: grpc.ServerCredentials, None: plain text. ``max_bytes`` bounds a message both ways,
    after decompression.
    """
    return GrpcServer(core, credentials, max_bytes)


class GrpcServer:
    """The server of one core; it starts and stops once, in one event loop."""

    def __init__(self, core: Core, credentials: Any | None, max_bytes: int) -> None:
        self._service = _Service(core, max_bytes)
        self._credentials = credentials
        self._max_bytes = max_bytes
        self._health = Health()
        self._server: Any = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which the system chooses where it is 0. Raises OSError."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        limits = (
            ("grpc.max_receive_message_length", self._max_bytes),
            ("grpc.max_send_message_length", self._max_bytes),
        )
        server = grpc.aio.server(options=(*_OPTIONS, *limits))
        reflection = Reflection(self._service.authenticated)
        server.add_generic_rpc_handlers(
            (self._service.handlers(), self._health.handlers(), reflection.handlers())
        )
        try:
            if self._credentials is None:
                bound = server.add_insecure_port(address)
            else:
                bound = server.add_secure_port(address, self._credentials)
        except RuntimeError:  # its text is an advice to debug grpc
            raise OSError(f"gRPC cannot listen on {address}: is the port taken?") from None
        await server.start()
        self._server = server
        return int(bound)

    async def stop(self, grace_s: float) -> None:
        """Take no new RPCs, answer what is in flight, and end what is left after ``grace_s`` seconds."""
        self._health.stop()
        self._service.end_streams()
        if self._server is not None:
            await self._server.stop(grace_s)

    def set_ready(self, ready: bool) -> None:
        """What the health service says."""
        self._health.set_ready(ready)


class _Service:
    """The RPCs of ``inference.GRPCInferenceService``.

    Messages come as bytes: a request that cannot be parsed is the caller's error, which grpcio would
    not say, and is counted.
    """

    def __init__(self, core: Core, max_bytes: int) -> None:
        self._core = core
        self._max_bytes = max_bytes
        self._readers: set[asyncio.Task[None]] = set()
        self._ended = False

    def handlers(self) -> Any:
        """All RPCs by name."""
        m = messages
        unary = {
            "ModelInfer": self._model_infer,
            "ServerLive": self._open(m.ServerLiveRequest, self._server_live),
            "ServerReady": self._open(m.ServerReadyRequest, self._server_ready),
            "ModelReady": self._open(m.ModelReadyRequest, self._model_ready),
            "ServerMetadata": self._guarded(m.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": self._guarded(m.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": self._guarded(m.ModelConfigRequest, self._model_config),
            "ModelStatistics": self._guarded(m.ModelStatisticsRequest, self._model_statistics),
            "RepositoryIndex": self._guarded(m.RepositoryIndexRequest, self._repository_index),
            "RepositoryModelLoad": self._guarded(m.RepositoryModelLoadRequest, self._load),
            "RepositoryModelUnload": self._guarded(m.RepositoryModelUnloadRequest, self._unload),
            **{name: _not_served(what) for name, what in _NOT_SERVED.items()},
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(answer)) for name, answer in unary.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def end_streams(self) -> None:
        """Read no more requests from any stream; each ends when those that were read are answered."""
        self._ended = True
        for reader in self._readers:
            reader.cancel()

    async def authenticated(self, context: Context) -> None:
        """Ends the RPC where its caller is not known."""
        rpc = _begun(context)
        try:
            self._core.authenticate(rpc.headers.get("authorization"))
        except InferenceError as error:
            await _abort(rpc, error)

    # Inference

    async def _model_infer(self, data: bytes, rpc: Rpc) -> Message:
        return await self._inferred(data, rpc, self._client(rpc), "infer")

    async def _inferred(self, data: bytes, rpc: Rpc, client: Client, method: str) -> Message:
        headers = rpc.headers
        remaining = rpc.context.time_remaining()
        traceparent = headers.get("traceparent")
        connection = Connected()
        call = Call(
            client=client,
            connection=connection,
            request_id=rpc.request_id,
            traceparent=traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else "",
            method=method,
            protocol="grpc",
            deadline=None if remaining is None else time.monotonic() + remaining,
            authorization=headers.get("authorization"),
            forwarded="modelway-forwarded" in headers,
        )
        model = ""
        try:
            message = parse_request(data)
            model = message.model_name
            request = decode_request(message)
        except InferenceError as error:
            self._core.rejected(error, model, call)
            raise
        try:
            response = await self._core.infer(request, call)
        except asyncio.CancelledError:
            connection.disconnected = True  # for what the core may still have in a batch
            raise
        if response.served_by and method == "infer":
            rpc.context.set_trailing_metadata((("modelway-served-by", response.served_by),))
        return encode_response(response, request.id)

    def _client(self, rpc: Rpc) -> Client:
        try:
            return self._core.authenticate(rpc.headers.get("authorization"))
        except InferenceError as error:
            self._core.rejected(error, "", None)
            raise

    async def _stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Reads ahead, so that the requests of one stream can be batched; answers in their order."""
        rpc = _begun(context)
        if rpc.own_id:
            await _echo(rpc)
        try:
            client = self._client(rpc)
        except InferenceError as error:
            await _abort(rpc, error)
        room = asyncio.Semaphore(STREAM_IN_FLIGHT)
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:

            async def read() -> None:
                try:
                    await room.acquire()
                    async for data in requests:
                        answers.put_nowait(group.create_task(self._stream_answer(data, rpc, client)))
                        await room.acquire()
                finally:
                    answers.put_nowait(None)

            reader = group.create_task(read())
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
            if self._ended:
                reader.cancel()
            while (answer := await answers.get()) is not None:
                await context.write(await answer)
                room.release()
        if self._ended:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")

    async def _stream_answer(self, data: bytes, rpc: Rpc, client: Client) -> bytes:
        """The answer to one request of a stream, which an error does not end."""
        try:
            message = await self._inferred(data, rpc, client, "stream")
            message.parameters["triton_final_response"].bool_param = True
            return self._serialized(messages.ModelStreamInferResponse(infer_response=message))
        except InferenceError as error:
            text = error.message
        except Exception:  # the last resort: said in the log, not to the caller
            log.exception("request %s failed", rpc.request_id)
            text = _internal(rpc).message
        failed = messages.ModelStreamInferResponse(error_message=text)
        failed.infer_response.id = _id_of(data)
        return bytes(failed.SerializeToString())

    def _unary(self, answer: Answer) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handle(data: bytes, context: Context) -> bytes:
            rpc = _begun(context)
            if rpc.own_id:
                await _echo(rpc)
            try:
                return self._serialized(await answer(data, rpc))
            except InferenceError as error:
                failure = error
            except Exception:  # the last resort: said in the log, not to the caller
                log.exception("request %s failed", rpc.request_id)
                failure = _internal(rpc)
            return await _abort(rpc, failure)

        return handle

    def _serialized(self, message: Message) -> bytes:
        data: bytes = message.SerializeToString()
        if len(data) > self._max_bytes:  # else grpcio would end the whole stream
            raise InferenceError(413, f"the answer has {len(data)} bytes, the limit is {self._max_bytes}")
        return data

    # The other RPCs

    def _open(self, kind: Any, respond: Callable[[Message], Message]) -> Answer:
        """An RPC that needs no credentials."""

        async def answer(data: bytes, _rpc: Rpc) -> Message:
            return respond(_parsed(kind, data))

        return answer

    def _guarded(self, kind: Any, respond: Callable[[Message, Client], Awaitable[Message]]) -> Answer:
        async def answer(data: bytes, rpc: Rpc) -> Message:
            client = self._core.authenticate(rpc.headers.get("authorization"))
            return await respond(_parsed(kind, data), client)

        return answer

    def _server_live(self, _request: Message) -> Message:
        return messages.ServerLiveResponse(live=self._core.live)

    def _server_ready(self, _request: Message) -> Message:
        return messages.ServerReadyResponse(ready=self._core.ready)

    def _model_ready(self, request: Message) -> Message:
        ready = self._core.model_ready(request.name, request.version or None)
        return messages.ModelReadyResponse(ready=ready)

    async def _server_metadata(self, _request: Message, _client: Client) -> Message:
        return ParseDict(self._core.server_metadata(), messages.ServerMetadataResponse())

    async def _model_metadata(self, request: Message, _client: Client) -> Message:
        metadata = self._core.model_metadata(request.name, request.version or None)
        return ParseDict(metadata, messages.ModelMetadataResponse())

    async def _model_config(self, request: Message, _client: Client) -> Message:
        config = self._core.model_config(request.name, request.version or None)
        return ParseDict({"config": config}, messages.ModelConfigResponse())

    async def _model_statistics(self, request: Message, _client: Client) -> Message:
        statistics = self._core.model_statistics(request.name or None, request.version or None)
        return ParseDict({"model_stats": statistics}, messages.ModelStatisticsResponse())

    async def _repository_index(self, request: Message, _client: Client) -> Message:
        _check_repository(request)
        models = self._core.repository_index(ready_only=request.ready)
        return ParseDict({"models": models}, messages.RepositoryIndexResponse())

    async def _load(self, request: Message, client: Client) -> Message:
        _check_repository(request)
        if request.parameters:
            raise invalid("a model is loaded as the server's settings say; send no parameters")
        await self._core.repository_load(request.model_name, client)
        return messages.RepositoryModelLoadResponse()

    async def _unload(self, request: Message, client: Client) -> Message:
        _check_repository(request)
        await self._core.repository_unload(request.model_name, client)
        return messages.RepositoryModelUnloadResponse()


def _begun(context: Context) -> Rpc:
    """The RPC; its id is the caller's, where it has sent one."""
    headers: Headers = dict(context.invocation_metadata())
    sent = headers.get("x-request-id")
    if sent is None or not _REQUEST_ID.fullmatch(sent):
        return Rpc(context, headers, f"{getrandbits(64):016x}", own_id=False)
    return Rpc(context, headers, sent, own_id=True)


async def _echo(rpc: Rpc) -> None:
    """Send the caller's id back."""
    await rpc.context.send_initial_metadata((("x-request-id", rpc.request_id),))


async def _abort(rpc: Rpc, error: InferenceError) -> NoReturn:
    """End the RPC with an error."""
    trailing: tuple[tuple[str, str], ...] = ()
    if error.retry_after_s is not None:
        trailing = (("retry-after", str(max(1, math.ceil(error.retry_after_s)))),)
    code = _CODES.get(error.status, grpc.StatusCode.INTERNAL)
    await rpc.context.abort(code, error.message[:_MAX_DETAILS], trailing)
    raise AssertionError("abort always raises")


def _internal(rpc: Rpc) -> InferenceError:
    return InferenceError(500, f"internal error (request {rpc.request_id})")


def _parsed(kind: Any, data: bytes) -> Message:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise invalid(f"the message is not a {kind.DESCRIPTOR.name}") from None


def _id_of(data: bytes) -> str:
    """The id of a request that was not answered, so that the caller knows which; "" if it has none."""
    try:
        return str(parse_request(data).id)
    except InferenceError:
        return ""


def _check_repository(request: Message) -> None:
    if request.repository_name:
        raise invalid("the server has one model repository; leave `repository_name` empty")


def _not_served(what: str) -> Answer:
    async def answer(_data: bytes, _rpc: Rpc) -> Message:
        raise InferenceError(501, f"this server does not offer {what}")

    return answer
