"""How many bytes of requests the server keeps at a time, over both transports."""

from __future__ import annotations

from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.values import Arrays

_OBJECT_BYTES = 64  # of an element of BYTES, beside its text
_MUCH = 32 * 1024 * 1024  # bytes after which freed memory is worth giving back


class ByteBudget:
    """Bytes that are being received or wait for their answer; ``most`` of them at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._passed = 0
        self.used = 0

    def check(self, count: int) -> None:
        """Raises InferenceError (429) where so many more are too many."""
        if self.used + count > self.most:
            raise InferenceError(429, "too many bytes are being received", reason="limit", retry_after_s=1.0)

    def hold(self) -> Held:
        return Held(self)

    def change(self, count: int) -> None:
        self.used += count
        self.pass_on(max(0, count))

    def pass_on(self, count: int) -> None:
        """Count bytes whose memory may have to be given back."""
        self._passed += count

    def has_calmed(self) -> bool:
        """Whether many bytes have passed since this was last so, and none are held now."""
        if self.used or self._passed < _MUCH:
            return False
        self._passed = 0
        return True


class Held:
    """What one request keeps of the budget, until it is released."""

    __slots__ = ("_budget", "_bytes")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._bytes = 0

    def add(self, count: int) -> None:
        """Raises InferenceError (429)."""
        self._budget.check(count)
        self._budget.change(count)
        self._bytes += count

    def add_tensors(self, arrays: Arrays) -> None:
        """What tensors take more than the bytes that they came in. Raises InferenceError (429)."""
        size = sum(a.size * _OBJECT_BYTES if a.dtype == object else a.nbytes for a in arrays.values())
        if size > self._bytes:
            self.add(size - self._bytes)

    def release(self) -> None:
        self._budget.change(-self._bytes)
        self._bytes = 0
