"""The gRPC server: ``inference.GRPCInferenceService``, health and reflection, in front of the core."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeAlias

import grpc
import grpc.aio
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from modelway_runtime.serving.errors import InferenceError, invalid
from modelway_runtime.serving.grpc import messages
from modelway_runtime.serving.grpc.health import Health
from modelway_runtime.serving.grpc.infer import InferenceCore, InferenceRpcs
from modelway_runtime.serving.grpc.messages import SERVICE, Message
from modelway_runtime.serving.grpc.reading import Reader
from modelway_runtime.serving.grpc.reflection import Reflection
from modelway_runtime.serving.grpc.rpc import Context, Rpc, abort, begun, echo, internal, serialized
from modelway_runtime.serving.values import Client

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
_OPEN = frozenset({"ServerLive", "ServerReady", "ModelReady"})  # they need no credentials
_MAX_CONTROL = 64 * 1024  # bytes of a message that is no inference
_MAX_RPCS = 4096  # of all connections; each may keep 64 KiB of what has not been read
_MIN_READING = 4  # messages that come at a time, where they are large
_OPTIONS = (
    ("grpc.max_allowed_incoming_connections", 1024),
    ("grpc.server_handshake_timeout_ms", 10_000),
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


class Core(InferenceCore, Protocol):
    """What the transport needs of the core."""

    @property
    def live(self) -> bool: ...
    @property
    def ready(self) -> bool: ...
    def model_ready(self, name: str, version: str | None) -> bool: ...
    def server_metadata(self) -> dict[str, Any]: ...
    def model_metadata(self, name: str, version: str | None) -> dict[str, Any]: ...
    def model_config(self, name: str, version: str | None) -> dict[str, Any]: ...
    def model_statistics(self, name: str | None, version: str | None) -> list[dict[str, Any]]: ...
    def repository_index(self, *, ready_only: bool) -> list[dict[str, Any]]: ...
    async def repository_load(self, name: str, client: Client) -> None: ...
    async def repository_unload(self, name: str, client: Client) -> None: ...


Answer: TypeAlias = Callable[[bytes, Rpc], Awaitable[Message]]
Requests: TypeAlias = AsyncIterator[bytes]


def make_server(core: Core, *, credentials: Any | None, max_bytes: int) -> GrpcServer:
    """A server that does not listen yet.

    ``credentials``: grpc.ServerCredentials, None: plain text. ``max_bytes`` bounds a message both ways,
    after decompression.
    """
    return GrpcServer(core, credentials, max_bytes)


class GrpcServer:
    """The server of one core; it starts and stops once, in one event loop."""

    def __init__(self, core: Core, credentials: Any | None, max_bytes: int) -> None:
        reader = Reader(max(_MIN_READING, core.receiving.most // max_bytes), core.receiving)
        self._service = _Service(core, reader, max_bytes)
        self._inference = InferenceRpcs(core, reader, max_bytes)
        self._credentials = credentials
        self._max_bytes = max_bytes
        self._health = Health(core.receiving)
        self._server: Any = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which the system chooses where it is 0. Raises OSError."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        limits = (
            ("grpc.max_receive_message_length", self._max_bytes),
            ("grpc.max_send_message_length", self._max_bytes),
        )
        server = grpc.aio.server(options=(*_OPTIONS, *limits), maximum_concurrent_rpcs=_MAX_RPCS)
        reflection = Reflection(self._service.authenticated)
        server.add_generic_rpc_handlers(
            (self._service.handlers(self._inference), self._health.handlers(), reflection.handlers())
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
        self._inference.stop(grace_s)
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

    def __init__(self, core: Core, reader: Reader, max_bytes: int) -> None:
        self._core = core
        self._reader = reader
        self._max_bytes = max_bytes

    def handlers(self, inference: InferenceRpcs) -> Any:
        """All RPCs by name."""
        m = messages
        unary = {
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
            name: grpc.stream_stream_rpc_method_handler(self._unary(answer, guarded=name not in _OPEN))
            for name, answer in unary.items()
        }
        handlers["ModelInfer"] = grpc.stream_stream_rpc_method_handler(inference.infer)
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(inference.stream)
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def authenticated(self, context: Context) -> None:
        """Ends the RPC where its caller is not known."""
        rpc = begun(context)
        try:
            self._core.authenticate(rpc.headers.get("authorization"))
        except InferenceError as error:
            await abort(rpc, error)

    def _unary(self, answer: Answer, *, guarded: bool) -> Callable[[Requests, Context], Awaitable[None]]:
        """An RPC of one message, which is read when its caller has been let in."""

        async def handle(requests: Requests, context: Context) -> None:
            rpc = begun(context)
            if rpc.own_id:
                await echo(rpc)
            try:
                if guarded:
                    self._core.admit(self._core.authenticate(rpc.headers.get("authorization")))
                data = await self._reader.read(requests)
                if len(data) > _MAX_CONTROL:
                    raise InferenceError(413, f"the message has more than {_MAX_CONTROL} bytes")
                message = serialized(await answer(data, rpc), self._max_bytes)
            except InferenceError as error:
                await abort(rpc, error)
            except Exception:  # noqa: BLE001  # the last resort: said in the log, not to the caller
                await abort(rpc, internal(rpc))
            await context.write(message)

        return handle

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


def _parsed(kind: Any, data: bytes) -> Message:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise invalid(f"the message is not a {kind.DESCRIPTOR.name}") from None


def _check_repository(request: Message) -> None:
    if request.repository_name:
        raise invalid("the server has one model repository; leave `repository_name` empty")


def _not_served(what: str) -> Answer:
    async def answer(_data: bytes, _rpc: Rpc) -> Message:
        raise InferenceError(501, f"this server does not offer {what}")

    return answer
