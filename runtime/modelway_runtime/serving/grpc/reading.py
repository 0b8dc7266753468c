"""Reading the one message of an RPC, after its caller was let in by what its headers say.

gRPC reads a message in full before a unary handler begins, whoever sends it. The handlers here are those of
streams, which look the same to a caller and begin with the headers. grpcio (1.85) receives what an RPC sends
also while nobody asks for it, so that those that find no room soon are refused, which ends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from modelway_runtime.serving.admission import ByteBudget
from modelway_runtime.serving.errors import InferenceError, invalid

WAIT_S = 0.25
"""How long an RPC may wait until its message may come."""
READ_S = 30.0
"""How long a message may take to come."""


class Reader:
    """Lets ``at_once`` messages come at a time."""

    def __init__(self, at_once: int, budget: ByteBudget) -> None:
        self._budget = budget
        self._room = asyncio.Semaphore(at_once)

    async def read(self, requests: AsyncIterator[bytes]) -> bytes:
        """The first message of an RPC. Raises InferenceError (400, 429)."""
        if self._room.locked():
            try:
                await asyncio.wait_for(self._room.acquire(), WAIT_S)
            except TimeoutError:
                raise _late("too many messages are being received") from None
        else:
            await self._room.acquire()
        try:
            async with asyncio.timeout(READ_S):
                async for data in requests:
                    self._budget.pass_on(len(data))
                    return data
        except TimeoutError:
            raise _late(f"the message did not come within {READ_S:g} s") from None
        finally:
            self._room.release()
        raise invalid("the RPC has no message")


def _late(message: str) -> InferenceError:
    return InferenceError(429, message, reason="limit", retry_after_s=1.0)
