"""One RPC as every service here sees it: who it is, how it is refused, and the codes of both protocols."""

from __future__ import annotations

import logging
import math
import re
import time
from random import getrandbits
from typing import Any, NoReturn, TypeAlias

import grpc
import msgspec

from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.grpc.messages import Message

log = logging.getLogger(__name__)

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
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_STATUSES = {code: status for status, code in _CODES.items()}  # RESOURCE_EXHAUSTED is 429
_MAX_DETAILS = 1024  # characters; the text travels in a header, which clients bound
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Rpc(msgspec.Struct, frozen=True):
    """One RPC: its context, its headers, and its name in the log and in the audit.

    ``own_id``: the caller has named it, so that the name goes back. Only then: a header that is sent
    before the answer costs much of the throughput. Times are of ``time.monotonic()``; ``deadline`` None:
    the caller waits as long as it takes.
    """

    context: Context
    headers: Headers
    request_id: str
    own_id: bool
    began_at: float
    deadline: float | None


def begun(context: Context) -> Rpc:
    """The RPC; its id is the caller's, where it has sent one."""
    headers: Headers = dict(context.invocation_metadata())
    sent = headers.get("x-request-id")
    own_id = sent is not None and _REQUEST_ID.fullmatch(sent) is not None
    request_id: str = sent if sent is not None and own_id else f"{getrandbits(64):016x}"
    remaining, now = context.time_remaining(), time.monotonic()
    return Rpc(context, headers, request_id, own_id, now, None if remaining is None else now + remaining)


def traceparent(rpc: Rpc) -> str:
    """The caller's trace context by W3C, where it has sent one."""
    sent: str | None = rpc.headers.get("traceparent")
    return sent if sent and _TRACEPARENT.fullmatch(sent) else ""


async def echo(rpc: Rpc) -> None:
    """Send the caller's id back."""
    await rpc.context.send_initial_metadata((("x-request-id", rpc.request_id),))


async def abort(rpc: Rpc, error: InferenceError) -> NoReturn:
    """End the RPC with an error: raises AbortError when that was sent."""
    trailing: tuple[tuple[str, str], ...] = ()
    if error.retry_after_s is not None:
        trailing = (("retry-after", str(max(1, math.ceil(error.retry_after_s)))),)
    code = _CODES.get(error.status, grpc.StatusCode.INTERNAL)
    await rpc.context.abort(code, error.message[:_MAX_DETAILS], trailing)
    raise AssertionError("abort always raises")


def serialized(message: Message, max_bytes: int) -> bytes:
    """The bytes of an answer. Raises InferenceError (413): grpcio would end a whole stream for one answer."""
    data: bytes = message.SerializeToString()
    if len(data) > max_bytes:
        raise InferenceError(413, f"the answer has {len(data)} bytes, the limit is {max_bytes}")
    return data


def status_of(error: InferenceError) -> int:
    """The contract's status for the code that ``abort`` sends: gRPC has fewer codes than HTTP."""
    return _STATUSES[_CODES.get(error.status, grpc.StatusCode.INTERNAL)]


def internal(rpc: Rpc) -> InferenceError:
    """The last resort for the exception that is being handled: said in the log, not to the caller."""
    log.exception("request %s failed", rpc.request_id)
    return InferenceError(500, f"internal error (request {rpc.request_id})")
