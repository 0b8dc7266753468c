"""The gate over HTTP (``docs/contract.md``, The gate), and the pages of past verdicts.

``POST /v1/gate`` takes the bearer token of a team, for the models of its namespace. ``GET /v1/verdicts`` (a
list, JSON) and ``GET /v1/verdicts/<id>`` (a page, or JSON where ``Accept`` asks for it) take the same token,
from a browser as the password of Basic authentication whatever the user, for the verdicts of that namespace:
they show figures and PromQL of a company, so that nobody reads them without a secret. ``GET /healthz`` is
open.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from modelway_runtime.detection import verdict as verdicts
from modelway_runtime.detection.evidence import WrongEvidence, unpack
from modelway_runtime.detection.gate import ANSWER_S, Gate, Question, inconclusive
from modelway_runtime.detection.judge import judge
from modelway_runtime.detection.judgement import Plot
from modelway_runtime.detection.memory import Memory, MemoryFailed
from modelway_runtime.detection.report import html
from modelway_runtime.detection.tokens import NoToken, find_namespace
from modelway_runtime.detection.verdict import Verdict

log = logging.getLogger(__name__)

MOST_BYTES = 64 * 1024
"""Of a request's body."""
_PAGES = 32
_MOST_LISTED = 1000
_PAGE_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'",
}
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class _Refused(Exception):
    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Service:
    """An ASGI application."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._pages: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pages")  # matplotlib draws one at a time

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            status, body, headers = await self._respond(scope, receive)
        except _Refused as refused:
            status, headers = refused.status, {"content-type": "application/json", **refused.headers}
            body = msgspec.json.encode({"error": str(refused)})
        except (MemoryFailed, NoToken) as failed:
            log.error("%s", failed)  # noqa: TRY400
            status, headers = 503, {"content-type": "application/json"}
            body = msgspec.json.encode({"error": "the detector has trouble of its own; its log says more"})
        if status in (408, 413):
            headers["connection"] = "close"  # what is left of the body is not read
        told = {**_HEADERS, **headers, "content-length": str(len(body))}
        raw = [(name.encode(), value.encode("latin-1")) for name, value in told.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _respond(self, scope: Any, receive: Any) -> tuple[int, bytes, dict[str, str]]:
        path, method = scope["path"], scope["method"]
        if path == "/v1/gate":
            _only(method, "POST")
            return 200, await self._asked(scope, receive), {"content-type": "application/json"}
        if path == "/healthz":
            _only(method, "GET", "HEAD")
            return 200, b"ok\n", {"content-type": "text/plain"}
        if path == "/v1/verdicts" or path.startswith("/v1/verdicts/"):
            _only(method, "GET", "HEAD")
            namespace = self._authorize(scope, people=True)
            loop = asyncio.get_running_loop()
            accept = _header(scope, b"accept").lower()
            if path == "/v1/verdicts":
                query = scope["query_string"].decode("latin-1")
                body = await loop.run_in_executor(self._pool, self._list, namespace, query)
                return 200, body, {"content-type": "application/json"}
            identity = unquote(path.removeprefix("/v1/verdicts/"))
            verdict = await loop.run_in_executor(self._pool, self._gate.memory.verdict, identity)
            if verdict is None or verdict.namespace != namespace:
                raise _Refused(404, "there is no such verdict, or it is older than is kept")
            if "application/json" in accept and "text/html" not in accept:
                return 200, verdicts.to_json(verdict), {"content-type": "application/json"}
            return 200, await loop.run_in_executor(self._pool, self._page, verdict), dict(_PAGE_HEADERS)
        raise _Refused(404, "there is nothing here: /v1/gate, /v1/verdicts, /healthz")

    async def _asked(self, scope: Any, receive: Any) -> bytes:
        began = time.monotonic()
        try:
            namespace = self._authorize(scope)
        except NoToken as trouble:  # our own: it must not count as an error of the release
            log.error("%s", trouble)  # noqa: TRY400
            return msgspec.json.encode(inconclusive("the detector has trouble with the gate's tokens"))
        try:
            body = await asyncio.wait_for(_body(scope, receive), ANSWER_S)
        except TimeoutError:
            raise _Refused(408, f"the body did not arrive within {ANSWER_S:g} s") from None
        try:
            question = msgspec.json.decode(body, type=Question)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _Refused(400, f"the body is no question to the gate: {error}") from None
        left = ANSWER_S - (time.monotonic() - began)
        return msgspec.json.encode(await self._gate.ask(question, namespace, left))

    def _authorize(self, scope: Any, *, people: bool = False) -> str:
        """The caller's namespace. Raises _Refused, or NoToken."""
        gate = self._gate.settings.gate
        assert gate is not None, "a service is made where there is a gate"
        namespace = find_namespace(gate.token_files, _given(_header(scope, b"authorization"), people))
        if namespace is None:
            how = 'Bearer, Basic realm="verdicts", charset="UTF-8"' if people else "Bearer"
            raise _Refused(401, "the token of a team is wanted", www_authenticate=how)
        return namespace

    def _list(self, namespace: str, query: str) -> bytes:
        asked = parse_qs(query, max_num_fields=10)
        limit = asked.get("limit", ["100"])[-1]
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= _MOST_LISTED:
            raise _Refused(400, f"limit is a number from 1 to {_MOST_LISTED}")
        found = self._gate.memory.verdicts(int(limit), asked.get("model", [None])[-1], namespace)
        listed = [
            {
                "id": one.id,
                "namespace": one.namespace,
                "model": one.model,
                "comparison": one.comparison,
                "state": one.state,
                "judged_at": datetime.fromtimestamp(one.judged_at, UTC),
                "verdict": f"/v1/verdicts/{one.id}",
            }
            for one in found
        ]
        return msgspec.json.encode({"verdicts": listed})

    def _page(self, verdict: Verdict) -> bytes:
        """Drawn once; in the one thread of the pool."""
        key = (verdict.id, hashlib.sha256(verdicts.to_json(verdict)).hexdigest())
        page = self._pages.get(key)
        if page is None:
            page = html.page(verdict, plots_of(self._gate.memory, verdict)).encode("utf-8", "replace")
            self._pages[key] = page
            if len(self._pages) > _PAGES:
                self._pages.popitem(last=False)
        return page


def plots_of(memory: Memory, verdict: Verdict) -> tuple[Plot, ...]:
    """Made again from the stored evidence; none where that is gone. Raises MemoryFailed."""
    packed = memory.evidence(verdict.series_digest)
    if packed is None:
        return ()
    try:
        return judge(unpack(packed)).plots
    except WrongEvidence as error:
        log.warning("the evidence of %s cannot be read: %s", verdict.id, error)
        return ()


def _only(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise _Refused(405, f"only {' and '.join(allowed)}", allow=", ".join(allowed))


def _header(scope: Any, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name), "")


def _given(authorization: str, people: bool) -> bytes:
    """The token in the header; of Basic authentication the password."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip().encode("latin-1")
    if people and scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


async def _body(scope: Any, receive: Any) -> bytes:
    length = _header(scope, b"content-length")
    if length.isdigit() and int(length[:12]) > MOST_BYTES:
        raise _Refused(413, f"a question has at most {MOST_BYTES} bytes")
    body = b""
    while True:
        message: dict[str, Any] = await receive()
        if message["type"] == "http.disconnect":
            raise _Refused(400, "the connection was closed")
        part: bytes = message.get("body", b"")
        body += part
        if len(body) > MOST_BYTES:
            raise _Refused(413, f"a question has at most {MOST_BYTES} bytes")
        if not message.get("more_body"):
            return body
