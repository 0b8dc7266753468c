"""The response cache: which requests are equal, what is kept, what goes."""

from __future__ import annotations

import time

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelway_runtime.serving.cache import KEY_BYTES, ResponseCache, key_of
from modelway_runtime.serving.tensors import object_array

X = np.arange(4, dtype=np.float32)


def test_equal_requests_share_a_key_whatever_their_order() -> None:
    assert key_of({"a": X, "b": X + 1}, ("y",)) == key_of({"b": X + 1, "a": X.copy()}, ("y",))
    assert len(key_of({"a": X}, ())) == KEY_BYTES >= 16


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": X}, {"a": X + 1}),
        ({"a": X}, {"b": X}),
        ({"a": X}, {"a": X.reshape(2, 2)}),
        ({"a": X}, {"a": X.view(np.int32)}),
        ({"a": X.view(np.uint16)}, {"a": X.view(np.uint16).view(ml_dtypes.bfloat16)}),
        ({"a": X, "b": X}, {"a": X}),
        ({"a": X, "b": X + 1}, {"a": X + 1, "b": X}),
        ({"a": object_array([b"ab", b"c"])}, {"a": object_array([b"a", b"bc"])}),
        ({"a": np.zeros((0, 4), np.float32)}, {"a": np.zeros((4, 0), np.float32)}),
        ({"a": np.float32([0.0])}, {"a": np.float32([-0.0])}),
    ],
)
def test_unequal_requests_do_not(one: dict, other: dict) -> None:
    assert key_of(one, ("y",)) != key_of(other, ("y",))


def test_the_wanted_outputs_are_part_of_the_key() -> None:
    assert key_of({"a": X}, ("y",)) != key_of({"a": X}, ("y", "z"))


@given(arrays.arrays(np.float32, arrays.array_shapes(max_side=4)))
def test_a_view_has_the_key_of_its_copy(array: np.ndarray) -> None:
    assert key_of({"a": array.T}, ()) == key_of({"a": np.ascontiguousarray(array.T)}, ())


def test_the_least_recently_used_goes_first() -> None:
    cache = ResponseCache(3 * (512 + 16), 0)
    for name in (b"1", b"2", b"3"):
        cache.put(name, {"y": X})
    assert cache.get(b"1") is not None
    cache.put(b"4", {"y": X})
    assert cache.get(b"2") is None
    assert all(cache.get(name) is not None for name in (b"1", b"3", b"4"))
    assert cache.bytes == 3 * (512 + 16)


def test_what_is_kept_is_a_copy_that_later_changes_do_not_reach() -> None:
    cache = ResponseCache(10_000, 0)
    batch = np.ones((8, 2), np.float32)
    cache.put(b"1", {"y": batch[2:3]})
    batch[:] = 7
    kept = cache.get(b"1")
    assert kept is not None
    assert kept["y"].tolist() == [[1, 1]]
    assert kept["y"].base is None  # the batch itself is not kept alive


def test_an_answer_larger_than_the_cache_is_not_kept() -> None:
    cache = ResponseCache(600, 0)
    cache.put(b"1", {"y": np.zeros(100)})
    assert len(cache) == cache.bytes == 0


def test_an_answer_lives_for_its_time() -> None:
    cache = ResponseCache(10_000, 0.05)
    cache.put(b"1", {"y": X})
    assert cache.get(b"1") is not None
    time.sleep(0.06)
    assert cache.get(b"1") is None
    assert cache.bytes == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300)), max_size=60))
def test_it_never_holds_more_than_its_room(puts: list[tuple[int, int]]) -> None:
    cache = ResponseCache(2000, 0)
    for key, size in puts:
        cache.put(bytes([key]), {"y": np.zeros(size, np.uint8)})
        assert 0 <= cache.bytes <= 2000
        assert cache.bytes >= 512 * len(cache)
