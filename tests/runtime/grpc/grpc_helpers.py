"""A small core that computes with numpy, and a real server in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np

from modelway_runtime.serving.accounting import Account
from modelway_runtime.serving.admission import ByteBudget
from modelway_runtime.serving.errors import InferenceError, not_found
from modelway_runtime.serving.grpc.messages import (
    SERVICE,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from modelway_runtime.serving.grpc.server import GrpcServer, make_server
from modelway_runtime.serving.tensors import datatype_of, to_bytes
from modelway_runtime.serving.values import Array, Call, Client, InferenceRequest, InferenceResponse

MAX_BYTES = 1 << 20
TOKEN = "Bearer let-me-in"  # the test's own; it opens nothing


class ArithmeticCore:
    """``echo`` answers its inputs, ``double`` twice ``x``; the other models fail each in its way."""

    def __init__(self, *, token: str | None = None) -> None:
        self.live = True
        self.ready = True
        self.token = token
        self.calls: list[tuple[InferenceRequest, Call]] = []
        self.recorded: list[tuple[Account, int, str | None]] = []
        self.loaded: list[str] = []
        self.running = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()
        self.most_at_once = 0
        self.admitted = 0
        self.receiving = ByteBudget(8 * MAX_BYTES)
        self.at_once = 0

    def begin(self, call: Call) -> Account:
        return Account(self, call, "", None)

    def record(self, account: Account, status: int, reason: str | None) -> None:
        self.recorded.append((account, status, reason))

    async def statuses(self, count: int = 1) -> list[int]:
        """What was recorded, as soon as it is so many: that comes just after the caller has its answer."""
        async with asyncio.timeout(5):
            while len(self.recorded) < count:
                await asyncio.sleep(0.001)
        return [status for _, status, _ in self.recorded]

    async def infer(self, request: InferenceRequest, account: Account) -> InferenceResponse:
        self.calls.append((request, account.call))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            account.response = await self._computed(request)
            return account.response
        finally:
            self.at_once -= 1

    async def _computed(self, request: InferenceRequest) -> InferenceResponse:
        outputs, served_by = dict(request.inputs), None
        match request.model.split("-"):
            case ["echo"]:
                outputs = {name: outputs[name] for name in request.outputs or outputs}
            case ["double"]:
                outputs = {"y": np.asarray(outputs["x"] * 2)}
            case ["large"]:
                outputs = {"y": np.zeros(MAX_BYTES, np.uint8)}
            case ["covered"]:
                served_by = "lite"
            case ["slow"]:
                self.running.set()
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case ["status", status]:
                raise InferenceError(int(status), f"refused with {status}")
            case ["busy"]:
                raise InferenceError(429, "the queue is full", reason="queue_full", retry_after_s=1.2)
            case ["broken"]:
                raise RuntimeError("a secret of the engine")
            case _:
                raise not_found(f"there is no model {request.model!r}")
        return InferenceResponse(model=request.model, version="7", outputs=outputs, served_by=served_by)

    def authenticate(self, authorization: bytes | str | None) -> Client:
        if self.token is not None and authorization != self.token:
            raise InferenceError(401, "no or unknown credentials", reason="unauthorized")
        return Client(name="tester", admin=True)

    def admit(self, client: Client) -> None:
        self.admitted += 1

    def allow(self, account: Account) -> None:
        if account.model == "forbidden":
            raise InferenceError(403, "not this model", reason="unauthorized")

    def model_ready(self, name: str, version: str | None) -> bool:
        return name == "echo" and version in (None, "7")

    def server_metadata(self) -> dict[str, Any]:
        return {"name": "modelway", "version": "1.2.3", "extensions": ["statistics"]}

    def model_metadata(self, name: str, version: str | None) -> dict[str, Any]:
        if not self.model_ready(name, version):
            raise not_found(f"there is no model {name!r}")
        tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
        return {"name": name, "versions": ["7"], "platform": "numpy", "inputs": [tensor], "outputs": [tensor]}

    def model_config(self, name: str, version: str | None) -> dict[str, Any]:
        if not self.model_ready(name, version):
            raise not_found(f"there is no model {name!r}")
        tensor = {"name": "x", "data_type": "TYPE_FP32", "dims": [4]}
        return {
            "name": name,
            "platform": "numpy",
            "backend": "python",
            "max_batch_size": 64,
            "version_policy": {"specific": {"versions": [7]}},
            "input": [tensor],
            "output": [{**tensor, "data_type": "TYPE_STRING"}],
            "instance_group": [{"name": name, "kind": "KIND_CPU", "count": 2}],
            "dynamic_batching": {"preferred_batch_size": [8, 16], "max_queue_delay_microseconds": 2000},
        }

    def model_statistics(self, name: str | None, version: str | None) -> list[dict[str, Any]]:
        spent = {"count": 3, "ns": 2**40}
        return [
            {
                "name": name or "every",
                "version": version or "all",
                "last_inference": 1_700_000_000_000,
                "inference_count": 5,
                "execution_count": 3,
                "inference_stats": {"success": spent, "queue": spent, "cache_hit": spent},
                "batch_stats": [{"batch_size": 2, "compute_infer": spent}],
            }
        ]

    def repository_index(self, *, ready_only: bool) -> list[dict[str, Any]]:
        models = [{"name": "echo", "version": "7", "state": "READY", "reason": ""}]
        return (
            models if ready_only else [*models, {"name": "broken", "state": "UNAVAILABLE", "reason": "why"}]
        )

    async def repository_load(self, name: str, client: Client) -> None:
        if name == "nobody":
            raise not_found("the repository has no model 'nobody'")
        self.loaded.append(f"+{name} by {client.name}")

    async def repository_unload(self, name: str, client: Client) -> None:
        self.loaded.append(f"-{name} by {client.name}")


@asynccontextmanager
async def serving(core: ArithmeticCore) -> AsyncIterator[tuple[GrpcServer, str]]:
    """A server and its address."""
    server = make_server(core, credentials=None, max_bytes=MAX_BYTES)
    port = await server.start("127.0.0.1", 0)
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def with_channel(
    test: Callable[[grpc.aio.Channel, ArithmeticCore, GrpcServer], Awaitable[None]],
    *,
    token: str | None = None,
) -> None:
    """Run a test with a channel to a server of its own."""

    async def run() -> None:
        core = ArithmeticCore(token=token)
        async with serving(core) as (server, address):
            options = [("grpc.max_receive_message_length", -1)]
            async with (
                grpc.aio.insecure_channel(address, options=options) as channel,
                asyncio.timeout(20),
            ):
                await test(channel, core, server)

    asyncio.run(run())


def method(channel: grpc.aio.Channel, name: str, response: Any = ModelInferResponse) -> Any:
    """A unary RPC that takes a message, or the bytes of one."""
    return channel.unary_unary(
        f"/{SERVICE}/{name}",
        request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
        response_deserializer=response.FromString,
    )


def request_of(model: str, inputs: dict[str, Array], **fields: Any) -> Any:
    """A request with the tensors as bytes."""
    message = ModelInferRequest(model_name=model, **fields)
    for name, array in inputs.items():
        message.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        message.raw_input_contents.append(to_bytes(array))
    return message


def stream_of(channel: grpc.aio.Channel, **options: Any) -> Any:
    """An open ModelStreamInfer."""
    return channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=lambda r: r if isinstance(r, bytes) else r.SerializeToString(),
        response_deserializer=ModelStreamInferResponse.FromString,
    )(**options)


async def error_of(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """The error with which an RPC ends."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"no error but {answer}")


X = np.arange(8, dtype=np.float32).reshape(2, 4)
