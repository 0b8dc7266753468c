"""The token bucket, in real time."""

from __future__ import annotations

import time

import pytest

from modelway_runtime.serving.ratelimit import TokenBucket


def test_burst_then_rate() -> None:
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.take() for _ in range(3)] == [0.0] * 3
    wait = bucket.take()
    assert 0 < wait <= 1 / 2
    time.sleep(wait + 0.005)
    assert bucket.take() == 0.0
    assert bucket.take() > 0


def test_a_pause_saves_up_no_more_than_the_burst() -> None:
    bucket = TokenBucket(rate=50, burst=2)
    time.sleep(0.3)  # 15 requests' worth
    started = time.monotonic()
    granted = sum(bucket.take() == 0.0 for _ in range(20))
    assert 2 <= granted <= 2 + 50 * (time.monotonic() - started)


def test_over_time_the_rate_is_kept() -> None:
    started = time.monotonic()
    bucket = TokenBucket(rate=200, burst=1)
    granted = 0
    while time.monotonic() < started + 0.25:
        granted += bucket.take() == 0.0
    assert 5 <= granted <= 1 + 200 * (time.monotonic() - started)  # few on a machine that is busy


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0.5), (float("nan"), 1)])
def test_what_would_never_grant_anything(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="grants nothing"):
        TokenBucket(rate, burst)
