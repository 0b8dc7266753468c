"""The values that pass between a transport and the core."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import msgspec
import numpy.typing as npt

# A tensor's dtype says its datatype (``tensors.py``); BYTES is an object array of ``bytes``.
Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = dict[str, Array]


class InferenceRequest(msgspec.Struct, frozen=True):
    """What a caller wants computed, whatever the transport.

    ``outputs`` names the wanted outputs; empty: all. ``priority`` 1 is the highest, 0 the default.
    ``timeout_s`` is the longest that the caller wants to wait in the queue; None: as the settings say.
    """

    model: str
    inputs: Arrays
    version: str | None = None
    outputs: tuple[str, ...] = ()
    id: str = ""
    priority: int = 0
    timeout_s: float | None = None


class InferenceResponse(msgspec.Struct, frozen=True):
    """What was computed. ``served_by`` names the standby model where that answered."""

    model: str
    version: str
    outputs: Arrays
    served_by: str | None = None


class Connection(Protocol):
    """The caller's end of the line; uvicorn's request cycle is one."""

    disconnected: bool


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls. ``models``: the models that it may use, None: all. ``rate``: its own limiter."""

    name: str
    models: frozenset[str] | None = None
    admin: bool = False
    rate: RateLimit | None = None


NOBODY = Client(name="", models=frozenset())
"""Who calls as long as that is not known."""


class RateLimit(Protocol):
    def take(self) -> float:
        """Take one request: 0.0 when it is granted, else the seconds after which one will be."""
        ...


class Call(msgspec.Struct, kw_only=True):
    """One request's circumstances, filled by the transport.

    ``deadline`` is in seconds of ``time.monotonic()``, None: none. ``authorization``
    is the caller's own header, passed on to a standby of the same team and never logged.
    """

    connection: Connection
    client: Client = NOBODY
    request_id: str = ""
    traceparent: str = ""
    method: str = "infer"
    protocol: str = "rest"
    deadline: float | None = None
    authorization: bytes | str | None = None
    forwarded: bool = False
