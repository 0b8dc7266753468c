"""The Open Inference Protocol over HTTP: an ASGI application without a framework, on uvicorn."""

from __future__ import annotations

import asyncio
import logging
import re
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import getrandbits
from typing import Any, NamedTuple, TypeAlias

import orjson

from modelway_runtime.serving import rest_codec
from modelway_runtime.serving.accounting import Account
from modelway_runtime.serving.admission import Held
from modelway_runtime.serving.errors import InferenceError, invalid, not_found
from modelway_runtime.serving.inference import InferenceService
from modelway_runtime.serving.json_body import WHOLE_BYTES
from modelway_runtime.serving.openapi import document
from modelway_runtime.serving.values import Call, Client, InferenceResponse

log = logging.getLogger(__name__)

Headers: TypeAlias = dict[bytes, bytes]
Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

_PATHS = re.compile(
    r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>infer|ready|config|stats))?"
)
_REPOSITORY = re.compile(r"/v2/repository/models/(?P<model>[^/]+)/(?P<verb>load|unload)")
_MAX_ROUTES, _ROUTE_CHARACTERS = 4096, 256
_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")
CONTROL_BYTES = 64 * 1024
"""Of a body that is no inference: it holds an option or two."""
_COMPRESS_FROM = 1024  # bytes; less is not worth the time
_WAIT_FROM = 65536  # bytes; more does not fit what uvicorn lets wait before it pauses
_IN_THREAD_FROM = 65536  # bytes; more would hold up the event loop
_REFUSED = re.compile(rb";\s*q=0(\.0*)?\s*$", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Route(NamedTuple):
    """What a path asks for."""

    kind: str
    model: str = ""
    version: str | None = None


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


class Connected:
    """The caller's end where the server does not show it."""

    disconnected = False


_CONNECTED = Connected()
_NO_ROUTE = Route("")


class RestApp:
    """The ASGI application. ``max_bytes`` bounds a body, before and after decompression."""

    def __init__(self, core: InferenceService, max_bytes: int) -> None:
        self._core = core
        self._max_bytes = max_bytes
        self._decoder = rest_codec.Decoder()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._routes: dict[str, Route] = dict(_FIXED)
        self._get: dict[str, Callable[[Route, Client], Any]] = {
            "server": lambda _, __: core.server_metadata(),
            "metadata": lambda route, _: core.model_metadata(route.model, route.version),
            "config": lambda route, _: core.model_config(route.model, route.version),
            "stats": lambda route, _: _statistics(core.model_statistics(route.model, route.version)),
            "openapi": lambda _, __: document(),
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        route = self._routes.get(scope["path"]) or self._parse(scope["path"])
        headers: Headers = dict(scope["headers"])
        if route.kind == "infer" and scope["method"] == "POST":
            return self._infer(route, headers, receive, send)
        return self._other(scope["method"], route, headers, receive, send)

    async def _infer(self, route: Route, headers: Headers, receive: Receive, send: Send) -> None:
        """Answer an inference request, and record what its caller got."""
        call = Call(
            connection=getattr(receive, "__self__", _CONNECTED),  # uvicorn's request cycle
            request_id=_request_id(headers),
            traceparent=_traceparent(headers),
            authorization=headers.get(b"authorization"),
            forwarded=b"modelway-forwarded" in headers,
        )
        account = self._core.begin(call, route.model, route.version)
        refused: InferenceError | None = None
        try:
            answer = await self._inferred(account, headers, receive)
        except InferenceError as error:
            refused = error
        except asyncio.CancelledError:  # uvicorn waits no longer; the caller can still be told
            refused = InferenceError(503, "the server is shutting down")
        except Exception:  # noqa: BLE001  # the last resort: said in the log, not to the caller
            refused = _internal(call.request_id)
        if refused is not None:
            answer = _error(refused)
        account.answer()
        try:
            await self._send(answer, headers, send, call.request_id)
        except BaseException:  # uvicorn says 500 where nothing was sent, else it breaks the connection off
            account.close(500)
            raise
        if call.connection.disconnected:
            account.close(499, "disconnected")
        else:
            account.close(answer.status, refused.reason if refused is not None else None)

    async def _inferred(self, account: Account, headers: Headers, receive: Receive) -> Answer:
        """The answer of a model. Raises InferenceError, and whatever nobody has thought of."""
        call = account.call
        call.client = self._core.authenticate(call.authorization)
        self._core.admit(call.client)
        self._core.allow(account)
        held = self._core.receiving.hold()
        try:
            body = await self._body(headers, receive, held, self._max_bytes)
            request, wanted = await self._decoded(body, _header_length(headers), account)
            held.add_tensors(request.inputs)
            response = await self._core.infer(request, account)
        finally:
            held.release()
        answer = _answer(response, wanted, request.id)
        if len(answer.body) >= _COMPRESS_FROM and b"accept-encoding" in headers:
            return await _compressed(answer, headers[b"accept-encoding"])
        return answer

    async def _decoded(self, body: bytes, header_length: int | None, account: Account) -> rest_codec.Decoded:
        """The request in a body; long JSON is read in a thread, one after the other."""
        decode = partial(self._decoder.decode, body, header_length, account.model, account.version)
        if (len(body) if header_length is None else header_length) <= WHOLE_BYTES:
            return decode()
        return await asyncio.get_running_loop().run_in_executor(self._thread, decode)

    async def _send(self, answer: Answer, headers: Headers, send: Send, request_id: str) -> None:
        """Hand the answer over; of a large one also wait until the caller has read most of it."""
        status, body, sent = answer
        sent.append((b"content-length", b"%d" % len(body)))
        if b"x-request-id" in headers:
            sent.append((b"x-request-id", request_id.encode()))
        if self._core.draining:
            sent.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": sent})
        if len(body) > _WAIT_FROM:
            await send({"type": "http.response.body", "body": body, "more_body": True})
            body = b""
        await send({"type": "http.response.body", "body": body})

    async def _other(self, method: str, route: Route, headers: Headers, receive: Receive, send: Send) -> None:
        request_id = _request_id(headers)
        try:
            answer = await self._asked(method, route, headers, receive)
        except InferenceError as error:
            answer = _error(error)
        except Exception:  # noqa: BLE001  # the last resort: said in the log, not to the caller
            answer = _error(_internal(request_id))
        await self._send(answer, headers, send, request_id)

    async def _asked(self, method: str, route: Route, headers: Headers, receive: Receive) -> Answer:
        """Everything but inference; only health needs nobody's name."""
        kind = route.kind
        if kind == "infer":
            raise _WrongMethod("POST")
        if not kind:
            raise not_found("there is nothing at this path; /v2/openapi.json says what there is")
        posts = kind in ("index", "load", "unload")
        if method not in (("POST",) if posts else ("GET", "HEAD")):
            raise _WrongMethod("POST" if posts else "GET, HEAD")
        if kind in ("live", "ready", "model_ready"):
            return self._health(route)
        client = self._core.authenticate(headers.get(b"authorization"))
        self._core.admit(client)
        if not posts:
            return _json(self._get[kind](route, client))
        held = self._core.receiving.hold()
        try:
            body = await self._body(headers, receive, held, CONTROL_BYTES)
        finally:
            held.release()
        if kind == "index":
            return _json(self._core.repository_index(ready_only=_ready_only(body)))
        if kind == "load":
            await self._core.repository_load(route.model, client)
        else:
            await self._core.repository_unload(route.model, client)
        return _json({})

    def _health(self, route: Route) -> Answer:
        if route.kind == "live":
            return _json({"live": self._core.live}, 200 if self._core.live else 503)
        if route.kind == "ready":
            ready = self._core.ready
            return _json({"live": ready, "ready": ready}, 200 if ready else 503)
        ready = self._core.model_ready(route.model, route.version)
        return _json({"name": route.model, "ready": ready}, 200 if ready else 503)

    async def _body(self, headers: Headers, receive: Receive, held: Held, most: int) -> bytes:
        """The body, decompressed, of at most so many bytes. Raises InferenceError (413, 415, 400, 429)."""
        declared = headers.get(b"content-length")
        if declared is not None and int(declared) > most:
            raise _too_large(most)
        if declared is not None:
            self._core.receiving.check(int(declared))  # before any of it is read
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise InferenceError(499, "the caller has gone", reason="disconnected")
            parts.append(message["body"])
            size += len(parts[-1])
            if size > most:
                raise _too_large(most)
            held.add(len(parts[-1]))
            more = message["more_body"]
        body = b"".join(parts)
        encoding = headers.get(b"content-encoding")
        return await _decompressed(body, encoding, most) if encoding else body

    def _parse(self, path: str) -> Route:
        route = _NO_ROUTE
        if match := _PATHS.fullmatch(path):
            verb = {"ready": "model_ready", None: "metadata"}.get(match["verb"], match["verb"])
            route = Route(verb, match["model"], match["version"])
        elif match := _REPOSITORY.fullmatch(path):
            route = Route(match["verb"], match["model"])
        if route.kind and len(path) <= _ROUTE_CHARACTERS and len(self._routes) < _MAX_ROUTES:
            self._routes[path] = route
        return route


def decompress(body: bytes, window: int, max_bytes: int) -> bytes:
    """The body without its gzip or deflate. Raises InferenceError (400, 413)."""
    try:
        decompressor = zlib.decompressobj(window)
        plain = decompressor.decompress(body, max_bytes + 1)
    except zlib.error:
        if window != zlib.MAX_WBITS:
            raise invalid("the body is not what content-encoding says") from None
        return decompress(body, -zlib.MAX_WBITS, max_bytes)  # "deflate" often comes without zlib's header
    if len(plain) > max_bytes:
        raise InferenceError(413, f"the body is larger than {max_bytes} bytes", reason="limit")
    if not decompressor.eof or decompressor.unused_data:
        raise invalid("the compressed body is cut off, or something follows it")
    return plain


async def _compressed(answer: Answer, accepted: bytes) -> Answer:
    """The answer in an encoding that the caller takes."""
    parts = [part for part in accepted.split(b",") if not _REFUSED.search(part)]
    names = {part.partition(b";")[0].strip().lower() for part in parts}
    name = next((known for known in _WINDOW if known in names), None)
    if name is None:
        return answer
    if len(answer.body) < _IN_THREAD_FROM:
        body = _compress(answer.body, _WINDOW[name])
    else:
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(None, _compress, answer.body, _WINDOW[name])
    headers = [*answer.headers, (b"content-encoding", name), (b"vary", b"accept-encoding")]
    return Answer(answer.status, body, headers)


def _compress(body: bytes, window: int) -> bytes:
    compressor = zlib.compressobj(1, zlib.DEFLATED, window)
    return compressor.compress(body) + compressor.flush()


def _answer(response: InferenceResponse, wanted: rest_codec.Wanted, request_id: str) -> Answer:
    body, length = rest_codec.encode_response(response, wanted, request_id)
    headers = [_JSON if length is None else _BINARY]
    if length is not None:
        headers.append((b"inference-header-content-length", b"%d" % length))
    if response.served_by:
        headers.append((b"modelway-served-by", response.served_by.encode()))
    return Answer(200, body, headers)


def _request_id(headers: Headers) -> str:
    """The caller's id of the request, if it can stand in a header and a log; else a new one."""
    sent = headers.get(b"x-request-id")
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return sent.decode()
    return f"{getrandbits(64):016x}"


def _internal(request_id: str) -> InferenceError:
    log.exception("request %s failed", request_id)
    return InferenceError(500, f"internal error (request {request_id})")


def _header_length(headers: Headers) -> int | None:
    value = headers.get(b"inference-header-content-length")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise invalid("inference-header-content-length is a whole number")
    return int(value)


async def _decompressed(body: bytes, encoding: bytes, most: int) -> bytes:
    name = encoding.strip().lower()
    if name == b"identity":
        return body
    if name not in _WINDOW:
        raise InferenceError(415, "content-encoding is gzip, deflate or identity")
    if len(body) < _IN_THREAD_FROM:
        return decompress(body, _WINDOW[name], most)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, decompress, body, _WINDOW[name], most)


def _too_large(most: int) -> InferenceError:
    return InferenceError(413, f"the body is larger than {most} bytes", reason="limit")


def _traceparent(headers: Headers) -> str:
    value = headers.get(b"traceparent")
    return value.decode() if value is not None and _TRACEPARENT.fullmatch(value) else ""


def _ready_only(body: bytes) -> bool:
    if not body:
        return False
    try:
        options = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise invalid("the body is not JSON") from None
    ready = options.get("ready", False) if isinstance(options, dict) else None
    if type(ready) is not bool:
        raise invalid("the body is an object whose `ready` is true or false")
    return ready


def _statistics(models: list[dict[str, Any]]) -> dict[str, Any]:
    return {"model_stats": models}


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, orjson.dumps(value), [_JSON])


def _error(error: InferenceError) -> Answer:
    headers = [_JSON]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s + 0.5))))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, _WrongMethod):
        headers.append((b"allow", error.allowed.encode()))
    return Answer(error.status, rest_codec.error_body(error.message), headers)


class _WrongMethod(InferenceError):
    def __init__(self, allowed: str) -> None:
        super().__init__(405, f"this path takes {allowed}")
        self.allowed = allowed


_WINDOW = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}
_FIXED = {
    "/v2": Route("server"),
    "/v2/": Route("server"),
    "/v2/health/live": Route("live"),
    "/v2/health/ready": Route("ready"),
    "/v2/models/stats": Route("stats"),
    "/v2/repository/index": Route("index"),
    "/v2/openapi.json": Route("openapi"),
}
