"""The standby model: another server that answers when the own model cannot.

Requests are forwarded over HTTP in the protocol's binary form. A breaker spares the own model (and the
callers' time) after ``trip_after`` failures in a row; after ``probation_s`` one request tries it again.
A standby that the settings call ``active`` answers every request, until the settings say otherwise.
"""

from __future__ import annotations

import asyncio
import time
from typing import Literal, TypeAlias

import aiohttp

from modelway_runtime.serving import rest_codec
from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.values import Call, InferenceRequest, InferenceResponse
from modelway_runtime.settings import Standby

clock = time.monotonic
Why: TypeAlias = Literal["not_loaded", "failed", "timeout", "tripped", "active"]

FORWARDED = "modelway-forwarded"
"""The header that marks a forwarded request: it is not forwarded again."""
NO_DEADLINE_S = 10.0
"""How long a standby may take for a caller that named no deadline."""
CONNECT_S = 2.0


class Breaker:
    """Whether the own model may be tried: closed, open after failures in a row, half-open after probation."""

    def __init__(self, trip_after: int, probation_s: float) -> None:
        self._trip_after = trip_after
        self._probation_s = probation_s
        self._failures = 0
        self._retry_at = 0.0

    @property
    def tripped(self) -> bool:
        return self._failures >= self._trip_after

    def allows(self) -> bool:
        """Whether this request may try the own model. One that may after probation keeps others away."""
        if not self.tripped:
            return True
        now = clock()
        if now < self._retry_at:
            return False
        self._retry_at = now + self._probation_s
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        if self.tripped:
            self._retry_at = clock() + self._probation_s


class StandbyClient:
    """Forwards requests to the standby of the settings."""

    def __init__(self, settings: Standby, max_bytes: int) -> None:
        self.settings = settings
        self.breaker = Breaker(settings.trip_after, settings.probation_s)
        self._url = f"{settings.url}/v2/models/{settings.model}/infer"
        self._max_bytes = max_bytes
        self._session: aiohttp.ClientSession | None = None

    def covers(self, request: InferenceRequest, call: Call, model: str) -> bool:
        """Whether the standby stands for this request: the server's own model, asked for the first time."""
        return request.model == model != self.settings.model and not call.forwarded

    async def infer(self, request: InferenceRequest, call: Call) -> InferenceResponse:
        """The standby's answer, within the caller's deadline.

        Raises InferenceError: what the standby answered, 504 when it took too long, 503 when it is away.
        """
        left = NO_DEADLINE_S if call.deadline is None else call.deadline - clock()
        if left <= 0:
            raise InferenceError(504, "no time was left for the standby model", reason="deadline")
        try:
            return await asyncio.wait_for(self._forward(request, call), left)
        except TimeoutError:
            raise InferenceError(504, "the standby model took too long", reason="deadline") from None
        except aiohttp.ClientError:
            raise InferenceError(503, "the standby model cannot be reached", retry_after_s=1) from None

    async def _forward(self, request: InferenceRequest, call: Call) -> InferenceResponse:
        body, header_length = rest_codec.encode_request(request)
        passed_on = {
            "authorization": _text(call.authorization),
            "x-request-id": call.request_id,
            "traceparent": call.traceparent,
            "accept-encoding": "identity",  # compressing tensors costs more than the way takes
        }
        headers = {name: value for name, value in passed_on.items() if value}
        headers |= {rest_codec.HEADER_LENGTH: str(header_length), FORWARDED: "1"}
        async with self._connection().post(self._url, data=body, headers=headers) as answer:
            content = await answer.content.read(self._max_bytes + 1)
            while not answer.content.at_eof() and len(content) <= self._max_bytes:
                content += await answer.content.read(self._max_bytes + 1 - len(content))
            if len(content) > self._max_bytes:
                raise InferenceError(502, "the standby model's answer is too large")
            if answer.status != 200:
                message = rest_codec.error_message(content)
                status = answer.status if 400 <= answer.status < 600 else 502  # a redirect is no answer
                raise InferenceError(status, f"the standby model answered: {message}")
            length = answer.headers.get(rest_codec.HEADER_LENGTH)
            if length is not None and not (length.isascii() and length.isdigit() and len(length) < 19):
                raise InferenceError(502, f"the standby model's answer: {rest_codec.HEADER_LENGTH} is wrong")
            version, outputs = rest_codec.decode_response(content, int(length) if length else None)
        return InferenceResponse(request.model, version, outputs, self.settings.model)

    def _connection(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _text(header: bytes | str | None) -> str | None:
    return header.decode("latin-1") if isinstance(header, bytes) else header
