"""How often a client may call."""

from __future__ import annotations

from time import monotonic


class TokenBucket:
    """``rate`` requests a second, and at most ``burst`` at once after a pause.

    To be used by one thread, the event loop's.
    """

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        """``rate`` is above 0 and ``burst`` at least 1, else nothing would ever be granted (ValueError)."""
        if not (rate > 0 and burst >= 1):
            raise ValueError(f"a rate of {rate} with a burst of {burst} grants nothing")
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = monotonic()

    def take(self) -> float:
        """Take one request: 0.0 when it is granted, else the seconds after which one will be."""
        now = monotonic()
        tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if tokens < 1:
            self._tokens = tokens
            return (1 - tokens) / self.rate
        self._tokens = tokens - 1
        return 0.0
