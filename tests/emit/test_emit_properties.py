"""Emit then load is the identity, under YAML 1.1 and 1.2; the order of keys changes nothing."""

from __future__ import annotations

import random
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelway.emit import emit
from tests.emit.emit_readers import AWKWARD, READERS, go_takes_for_a_string, same

# Letters of which numbers, dates, booleans, indicators and breaks are made, so that chance finds them.
HAZARDS = "0123456789abcdefxopXEeTZ_.+-:~=<>yYnNoOsSfFuUlLiI #&*!|%@`'\"{}[],?\\$()/"
HAZARDS += "\n\t\r\u0085\u2028\ufeff\0é\u00a0☃"

strings = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(alphabet=HAZARDS, max_size=12),
    st.text(alphabet="0123456789eE.+-_:xobmsh", min_size=1, max_size=8),
    st.text(max_size=20),
    st.lists(st.text(alphabet=HAZARDS, max_size=8), min_size=2, max_size=5).map("\n".join),
)
scalars = st.one_of(
    strings,
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(strings, inner, max_size=4)),
    max_leaves=12,
)
objects = st.dictionaries(
    st.one_of(strings, st.sampled_from(["apiVersion", "kind", "metadata", "name"])), values, max_size=5
)
quick = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(objects)
def test_emit_then_load_is_the_identity(value: dict[str, Any]) -> None:
    data = emit(value)
    for read in READERS:
        assert same(read(data), value)


@quick
@given(objects)
def test_the_text_is_canonical(value: dict[str, Any]) -> None:
    data = emit(value)
    text = data.decode()
    assert data.endswith(b"\n")
    assert not data.endswith(b"\n\n")
    assert not any(c in text for c in "\r\u0085\u2028\u2029\ufeff\0")
    lines = text.split("\n")
    assert not any(line.endswith((" ", "\t")) or line.startswith(("---", "...", "\t")) for line in lines)
    events = list(yaml.parse(data, Loader=yaml.SafeLoader))
    assert sum(isinstance(event, yaml.DocumentStartEvent) for event in events) == 1
    assert not any(getattr(event, "anchor", None) or getattr(event, "tag", None) for event in events)
    assert not any(getattr(event, "style", None) == ">" for event in events)
    for event in events:
        if (
            isinstance(event, yaml.ScalarEvent)
            and not event.style
            and event.value not in {"true", "false", "null"}
        ):
            assert go_takes_for_a_string(event.value) or _is_number(event.value)


@quick
@given(objects, st.randoms(use_true_random=False))
def test_the_order_of_keys_changes_nothing(value: dict[str, Any], chance: random.Random) -> None:
    assert emit(_shuffled(value, chance)) == emit(value)


@settings(deadline=None, max_examples=600)
@given(strings)
def test_a_bare_string_is_a_string_in_go(text: str) -> None:
    if emit({"key": text}) == f"key: {text}\n".encode():
        assert go_takes_for_a_string(text)


@settings(deadline=None, max_examples=300)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_the_same_float(number: float) -> None:
    text = emit({"a": number}).decode().removeprefix("a: ").strip()
    assert "." in text
    assert repr(float(text)) == repr(number)


def _is_number(text: str) -> bool:
    return isinstance(yaml.safe_load(text), int | float)


def _shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        chance.shuffle(items)
        return {key: _shuffled(item, chance) for key, item in items}
    return [_shuffled(item, chance) for item in value] if isinstance(value, list) else value
