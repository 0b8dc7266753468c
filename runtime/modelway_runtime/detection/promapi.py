"""One ``query_range`` of Prometheus' HTTP API (also Thanos', Mimir's): bounded in time, size and retries."""

from __future__ import annotations

import logging
import math
import random
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import requests
import urllib3.exceptions
from requests.auth import AuthBase

from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.history import STEP_S, HistoryFailed
from modelway_runtime.detection.measuring import Answer, Grid, finite
from modelway_runtime.detection.promql import Query
from modelway_runtime.detection.settings import Prometheus
from modelway_runtime.detection.verdict import moment

log = logging.getLogger(__name__)

MOST_POINTS = 10_000
"""Times in one request; Prometheus refuses more than 11,000."""
MOST_BYTES = 256 << 20
"""What one answer may unpack to."""
ATTEMPTS = 4
MOST_WAIT_S = 30.0
"""However long ``Retry-After`` asks to wait."""
_FIRST_WAIT_S = 0.5
_BLOCK = 1 << 16
_TOKEN = re.compile(r"[\x21-\x7e]+")
_ADVICE = {
    400: "The query or its times are not understood.",
    401: "Check the token and `prometheus.token_file`.",
    403: "The token or the tenant may not read this.",
    404: "`prometheus.url` is the base address, without /api/v1.",
    413: "The proxy before it takes no request of this size.",
    422: "The server could not compute it; its log says more.",
    429: "Too many queries: raise the limit of this tenant or look less often.",
    503: "It is starting, or a query took longer than the server allows.",
}


class _Result(msgspec.Struct, frozen=True):
    metric: dict[str, str]
    values: list[tuple[float, str]] = []


class _Data(msgspec.Struct, frozen=True):
    resultType: str  # noqa: N815
    result: list[_Result]


class _Reply(msgspec.Struct, frozen=True):
    status: str
    data: _Data | None = None
    error: str = ""
    warnings: list[str] = []


class _Again(Exception):
    """It may work when asked again, after so many seconds if the server said so."""

    def __init__(self, what: str, after_s: float | None = None) -> None:
        super().__init__(what)
        self.after_s = after_s


class _Bearer(AuthBase):
    """Set here and not as a header of the session: ``requests`` then takes nothing out of a .netrc."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


@dataclass(frozen=True, slots=True)
class Api:
    """Of one server. Nothing is kept between calls, so that files of tokens and keys may rotate."""

    server: Prometheus

    def query_range(self, query: Query, grid: Grid, deadline: float = math.inf) -> Answer:
        """Values at the times of a grid of at most MOST_POINTS, by the labels that the query keeps.

        ``deadline`` is a time of ``time.monotonic``. Raises HistoryFailed.
        """
        assert 0 < grid.count <= MOST_POINTS
        since = f"{moment(grid.start):%Y-%m-%dT%H:%MZ}"
        asked = f"Asked for `{query}` from {since}, {grid.count} steps of {STEP_S:g} s."
        form = {
            "query": str(query),
            "start": f"{grid.start:.0f}",
            "end": f"{grid.start + (grid.count - 1) * STEP_S:.0f}",
            "step": f"{STEP_S:.0f}",
            "timeout": f"{self.server.timeout_s:g}",
            "partial_response": "false",  # of Thanos: half the stores would be half the traffic
        }
        token = self._token()
        try:
            reply = self._reply(form, token, deadline)
            return _answer(reply, query, grid)
        except HistoryFailed as error:
            raise HistoryFailed(
                f"Prometheus at {self.server.url}: {_hidden(str(error), token)} {asked}"
            ) from None

    def _token(self) -> str | None:
        path = self.server.token_file
        if path is None:
            return None
        try:
            with open(path, encoding="ascii") as file:
                token = file.read(1 << 16).strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not ASCII"
            raise HistoryFailed(f"The token of Prometheus cannot be read: {path}: {reason}.") from None
        if not _TOKEN.fullmatch(token):
            raise HistoryFailed(f"{path} holds no token: one line of visible ASCII is wanted.")
        return token

    def _reply(self, form: Mapping[str, str], token: str | None, deadline: float) -> _Reply:
        """Ask, and ask again where that may help."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._once(form, token, deadline)
            except _Again as trouble:
                wait = _FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311
                wait = max(wait, min(trouble.after_s or 0.0, MOST_WAIT_S))
                if attempt == ATTEMPTS or time.monotonic() + wait >= deadline:
                    raise HistoryFailed(f"{trouble} Asked {attempt} times.") from None
                what = _hidden(str(trouble), token)
                log.warning("Prometheus at %s: %s Asking again in %.1f s.", self.server.url, what, wait)
                time.sleep(wait)
        raise AssertionError

    def _once(self, form: Mapping[str, str], token: str | None, deadline: float) -> _Reply:
        began = time.monotonic()
        limit = min(self.server.timeout_s, deadline - began)
        if limit <= 0:
            raise HistoryFailed("There was no time left to ask.")
        try:
            with requests.Session() as session:
                self._prepare(session)
                with session.post(
                    f"{self.server.url.rstrip('/')}/api/v1/query_range",
                    data=form,
                    auth=_Bearer(token),
                    timeout=limit,
                    stream=True,
                    allow_redirects=False,  # a token goes to no other host
                ) as response:
                    body = _body(response, began + limit)
                    return _understood(response, body)
        except requests.exceptions.SSLError as error:
            raise HistoryFailed(f"TLS failed ({_short(error)}). Check `prometheus.tls`.") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if (
                isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError))
                or time.monotonic() - began >= limit
            ):
                raise HistoryFailed(_too_slow(limit)) from None
            raise _Again(f"The connection failed ({_short(error)}).") from None
        except OSError as error:  # a certificate or key that is not there
            raise HistoryFailed(f"TLS cannot begin ({_short(error)}). Check `prometheus.tls`.") from None

    def _prepare(self, session: requests.Session) -> None:
        server = self.server
        session.trust_env = False  # the settings say all; no proxy, authority or password from elsewhere
        session.headers.update({"Accept-Encoding": "gzip", "User-Agent": "modelway-detector"})
        if server.tenant:
            session.headers[server.tenant.header] = server.tenant.value
        paths = ssl.get_default_verify_paths()
        ca_file = server.tls.ca_file if server.tls else None
        session.verify = ca_file or paths.cafile or paths.capath or True
        if server.tls and server.tls.certificate_file and server.tls.key_file:
            session.cert = (server.tls.certificate_file, server.tls.key_file)


def _body(response: requests.Response, until: float) -> bytes:
    """All of it, unpacked. A server that sends a byte now and then is as slow as one that hangs, so what
    has come is taken at once: ``iter_content`` would wait for a whole block."""
    blocks, size = [], 0
    while block := response.raw.read1(_BLOCK, decode_content=True):
        blocks.append(block)
        size += len(block)
        if size > MOST_BYTES:
            raise HistoryFailed(f"Its answer is larger than {MOST_BYTES >> 20} MiB. Ask for less history.")
        if time.monotonic() > until:
            raise requests.Timeout
    return b"".join(blocks)


def _understood(response: requests.Response, body: bytes) -> _Reply:
    status = response.status_code
    if response.is_redirect or 300 <= status < 400:
        host = urlsplit(response.headers.get("Location", "")).netloc.rpartition("@")[2]
        to = f"to {_short(host)}" if host else "elsewhere"
        raise HistoryFailed(f"It redirects {to} ({status}). Set `prometheus.url` to the final address.")
    try:
        reply = msgspec.json.decode(body, type=_Reply)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if status == 200:
            raise HistoryFailed(
                f"Its answer is not of Prometheus' API ({_short(error)}). Check `prometheus.url`."
            ) from None
        reply = _Reply("error", error=body[:200].decode("utf-8", "replace"))
    if status == 200 and reply.status == "success" and reply.data is not None:
        return reply
    said = f": {_short(reply.error)}" if reply.error else ""
    what = f"It answered {status}{said}.".replace("..", ".")
    if advice := _ADVICE.get(status):
        what = f"{what} {advice}"
    if status == 429 or status >= 500:
        raise _Again(what, _retry_after(response.headers.get("Retry-After")))
    raise HistoryFailed(what)


def _answer(reply: _Reply, query: Query, grid: Grid) -> Answer:
    """Checked: one series for each value of the labels, at times that were asked for."""
    assert reply.data is not None
    if reply.data.resultType != "matrix":
        raise HistoryFailed(f"It answered with a {_short(reply.data.resultType)}, not a matrix.")
    for warning in reply.warnings:
        log.warning("Prometheus warns of `%s`: %s", query, _short(warning))
    answer: dict[tuple[str, ...], Array] = {}
    for result in reply.data.result:
        key = tuple(result.metric.get(label, "") for label in query.by)
        if key in answer:
            which = ", ".join(query.by) or "no label"
            raise HistoryFailed(
                f"It gave several series where one was expected (by {which}). "
                "A proxy that joins servers must sum over all of them."
            )
        answer[key] = _on(grid, result.values)
    return answer


def _on(grid: Grid, points: list[tuple[float, str]]) -> Array:
    values = grid.nothing()
    if not points:
        return values
    try:
        times = np.array([point[0] for point in points], np.float64)
        found = np.array([float(point[1]) for point in points], np.float64)
    except ValueError as error:
        raise HistoryFailed(f"It gave a value that is no number ({_short(error)}).") from None
    at = (times - grid.start) / STEP_S
    if not np.all((at >= 0) & (at < grid.count) & (at == np.floor(at))):
        raise HistoryFailed("It gave times that were not asked for.")
    values[at.astype(np.intp)] = finite(found)
    return values


def _too_slow(limit: float) -> str:
    return f"It did not answer within {limit:.3g} s. Raise `prometheus.timeout_s`, or see what slows it down."


def _retry_after(text: str | None) -> float | None:
    """Seconds; the header has a number of them or a date."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _short(text: Any) -> str:
    """Text of others on one line, of a bounded length."""
    line = "".join(c if c.isprintable() else " " for c in str(text)[:1000])
    return line if len(line) <= 300 else f"{line[:300]}…"


def _hidden(text: str, token: str | None) -> str:
    """A server may repeat what it was sent."""
    return text.replace(token, "(token)") if token else text
