"""Awkward strings survive in every position, whoever reads the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelway.emit import emit
from tests.emit.emit_readers import AWKWARD, READERS, go_takes_for_a_string, same

POSITIONS: dict[str, Callable[[str], dict[str, Any]]] = {
    "value": lambda s: {"key": s},
    "key": lambda s: {s: 1},
    "key of a mapping": lambda s: {s: {s: {s: s}}},
    "key of a list": lambda s: {s: [s, {s: [s]}]},
    "item": lambda s: {"key": [s]},
    "items": lambda s: {"key": [s, s, "x"], "next": s},
    "item of an item": lambda s: {"key": [[s, [s]], [[[s]]]]},
    "mapping in a list": lambda s: {"key": [{"a": s, "b": {"c": s}}, {s: 1, "z": s}]},
    "nested": lambda s: {"a": {"b": {"c": {"d": s}}}, "e": 1},
    "first line of a text": lambda s: {"key": f"{s}\nrest\n", "next": [f"{s}\nrest"]},
    "middle of a text": lambda s: {"key": f"first\n{s}\nlast\n", "next": [[f"first\n{s}\nlast"]]},
    "last line of a text": lambda s: {"key": f"first\n{s}", "next": [f"first\n{s}"]},
    "last line, ended": lambda s: {"key": f"first\n{s}\n", "next": [f"first\n{s}\n"]},
    "part of a text": lambda s: {"key": f"first {s} and\n  more {s}\n  {s}"},
    "part of a line": lambda s: {"key": f"a{s}", "other": f"{s}b", "third": f"a {s} b"},
}


def bare(text: str) -> bool:
    return emit({"key": text}) == f"key: {text}\n".encode()


@pytest.mark.parametrize("position", POSITIONS)
def test_awkward_strings_survive(position: str) -> None:
    assert len(AWKWARD) >= 60
    for text in AWKWARD:
        value = POSITIONS[position](text)
        data = emit(value)
        for read in READERS:
            assert same(read(data), value), f"{text!r} with {read.__name__}:\n{data.decode()}"


@pytest.mark.parametrize("position", POSITIONS)
def test_awkward_strings_survive_together(position: str) -> None:
    """One mistake must not show only where nothing follows it."""
    value = {f"k{i}": POSITIONS[position](text) for i, text in enumerate(AWKWARD)}
    data = emit(value)
    for read in READERS:
        assert same(read(data), value)


def test_nothing_bare_is_more_than_a_string_in_go() -> None:
    for text in AWKWARD:
        if bare(text):
            assert go_takes_for_a_string(text), text


@pytest.mark.parametrize("text", [
    "01494e89", "1:30", "12:30:45", "no", "NO", "y", "0x1f", "0o17", "0755", "~", ".inf", "-.INF", "NaN", "=",
    "<<", "2024-01-01", "1_000", "46.1.0", "1.5", "5", " x", "x ", "", "a: b", "a:", "a #b", "@x", "`x", "%x",
    "*x", "&x", "-", "- x", "?", "? x", "{{ x }}", "[x", "!x", "|", ">", "'x", '"x', "null", "-inf", "1e3",
    "1h30", "1m2", "5E", "_1", "__0x1", "_", ".5", "+1", "-1", "-.inf", "...", "---", "on", "Off", "TRUE",
])  # fmt: skip
def test_these_are_quoted(text: str) -> None:
    assert not bare(text)


@pytest.mark.parametrize("text", [
    "ranker", "apps/v1", "30s", "1h30m", "500m", "16Gi", "1.5Gi", "10k", "registry.example/x:v1", "a.b/c",
    "$(VAR)", "sha256:0123", "a=b", "a,b", "--flag=x", "-c", "/tmp", "./x", "nope", "Nullable", "__name__",
    "sum(x) > 1", "é", 'sum(rate(x{a="b",c=~"5.."}[5m])) / 2', "RollingUpdate", "nvidia.com/gpu",
    "http://x.example:80/a?b=c#d",
])  # fmt: skip
def test_these_stay_readable(text: str) -> None:
    assert bare(text)
    assert go_takes_for_a_string(text)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("no", '"no"'),
        ('say "no": x', "'say \"no\": x'"),
        ('it\'s "no": x', '"it\'s \\"no\\": x"'),
        ("a\\b: c", "'a\\b: c'"),
        ("a\tb", '"a\\tb"'),
        ("\0\x1b\u0085\u2028\ufeff", r'"\x00\x1b\x85\u2028\ufeff"'),
        ("a\u202eb\u200bc", r'"a\u202eb\u200bc"'),
        ("\U000e0041", r'"\U000e0041"'),
        ("é☃\U0001f600", "é☃\U0001f600"),
    ],
)
def test_forms(text: str, form: str) -> None:
    assert emit({"key": text}) == f"key: {form}\n".encode()


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("a\nb\n", "|\n  a\n  b\n"),
        ("a\nb", "|-\n  a\n  b\n"),
        ("a\n\n\n  b\n", "|\n  a\n\n\n    b\n"),
        ("a\n\tb\n", "|\n  a\n  \tb\n"),
        ("a\n", "|\n  a\n"),
        ("---\n# x: [\n", "|\n  ---\n  # x: [\n"),
        # What an editor or Git would change, or where readers differ about the indentation:
        ("a\n\n", '"a\\n\\n"\n'),
        ("a \nb", '"a \\nb"\n'),
        ("a\t\nb", '"a\\t\\nb"\n'),
        (" a\nb", '" a\\nb"\n'),
        ("\na", '"\\na"\n'),
        ("a\r\nb", '"a\\r\\nb"\n'),
        ("a\n\u2028", '"a\\n\\u2028"\n'),
    ],
)
def test_texts_of_several_lines(text: str, form: str) -> None:
    assert emit({"key": text}) == f"key: {form}".encode()
