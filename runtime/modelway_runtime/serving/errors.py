"""What a caller may be told when a request is not answered."""

from __future__ import annotations

from typing import Literal, TypeAlias

Reason: TypeAlias = Literal["queue_full", "deadline", "limit", "disconnected", "unauthorized"]


class InferenceError(Exception):
    """A request that is not answered: an HTTP status, a message for the caller, and why it was refused.

    ``status`` is an HTTP status for every transport (``docs/contract.md``). ``reason`` is set where the
    request was rejected before it was computed; ``retry_after_s`` where trying again may help.
    """

    def __init__(
        self, status: int, message: str, *, reason: Reason | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.retry_after_s = retry_after_s


def invalid(message: str) -> InferenceError:
    """The request itself is wrong; the same request will always be."""
    return InferenceError(400, message)


def not_found(message: str) -> InferenceError:
    return InferenceError(404, message)
