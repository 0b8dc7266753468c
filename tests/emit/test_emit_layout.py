"""The shape of an emitted object: order, indentation, numbers, what is refused, and how fast it is."""

from __future__ import annotations

import enum
import json
import time
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest

from modelway import emit as module
from modelway.emit import emit
from tests.emit.emit_readers import READERS, same

MANIFEST: dict[str, Any] = {
    "spec": {
        "template": {
            "spec": {
                "volumes": [{"emptyDir": {}, "name": "tmp"}],
                "containers": [
                    {
                        "ports": [{"containerPort": 8080, "name": "http"}],
                        "args": [
                            "--model=/models/ranker",
                            "-v",
                            "5",
                            ["nested", ["deeper"], {"b": 1, "a": [2]}],
                        ],
                        "image": "registry.example/server:v1",
                        "name": "server",
                        "securityContext": {
                            "runAsNonRoot": True,
                            "capabilities": {"drop": ["ALL"], "add": []},
                        },
                    }
                ],
            }
        },
        "paused": False,
        "note": None,
    },
    "metadata": {
        "labels": {"version": "1.10", "app": "ranker"},
        "name": "ranker",
        "namespace": "search-prod",
    },
    "kind": "Deployment",
    "apiVersion": "apps/v1",
    "data": {"script": "set -e\n\necho ok\n", "empty": ""},
}

TEXT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: ranker
  labels:
    app: ranker
    version: "1.10"
  namespace: search-prod
data:
  empty: ""
  script: |
    set -e

    echo ok
spec:
  note: null
  paused: false
  template:
    spec:
      containers:
      - name: server
        args:
        - --model=/models/ranker
        - -v
        - "5"
        - - nested
          - - deeper
          - a:
            - 2
            b: 1
        image: registry.example/server:v1
        ports:
        - name: http
          containerPort: 8080
        securityContext:
          capabilities:
            add: []
            drop:
            - ALL
          runAsNonRoot: true
      volumes:
      - name: tmp
        emptyDir: {}
"""


class Kind(enum.StrEnum):
    CANARY = "canary"


class Level(enum.IntEnum):
    ONE = 1


def test_a_whole_manifest() -> None:
    assert emit(MANIFEST).decode() == TEXT
    assert emit(MANIFEST).decode() == TEXT  # and again, from the caches
    assert all(same(read(TEXT.encode()), MANIFEST) for read in READERS)


def test_empty() -> None:
    assert emit({}) == b"{}\n"
    assert emit({"a": {}, "b": [], "c": ()}) == b"a: {}\nb: []\nc: []\n"
    assert emit({"a": [{}, [], [[]], [{}]]}) == b"a:\n- {}\n- []\n- - []\n- - {}\n"


def test_order_is_by_code_point_after_the_first_four() -> None:
    keys = [
        "é",
        "b",
        "B",
        "a-b",
        "a",
        "_",
        "name",
        "metadata",
        "kind",
        "apiVersion",
        "10",
        "9",
        "\U0001f600",
        "\uffee",
    ]
    text = emit(dict.fromkeys(keys, 1)).decode()
    assert text.replace('"', "").split(": 1\n")[:-1] == [
        *("apiVersion", "kind", "metadata", "name"),
        *("10", "9", "B", "_", "a", "a-b", "b", "é", "\uffee", "\U0001f600"),
    ]


def test_a_long_key_is_written_so_that_yaml_1_1_finds_it() -> None:
    for length in (999, 1000, 1001, 1023, 1024, 1025, 5000):
        for key in ("k" * length, "é: " * (length // 3)):
            value = {key: [1, {key: {"a": "x\ny\n"}}], "z": {key: "x"}, "y": [{key: key}, [{key: {}}]]}
            assert all(same(read(emit(value)), value) for read in READERS)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (-7, "-7"),
        (2**63, "9223372036854775808"),
        (0.1, "0.1"),
        (3.0, "3.0"),
        (-0.0, "-0.0"),
        (1e-05, "1.0e-05"),
        (1.5e-07, "1.5e-07"),
        (1e16, "1.0e+16"),
        (1e22, "1.0e+22"),
        (123456789.125, "123456789.125"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (5e-324, "5.0e-324"),
        (True, "true"),
        (False, "false"),
        (None, "null"),
    ],
)
def test_numbers(number: Any, text: str) -> None:
    assert emit({"a": number, "b": [number]}) == f"a: {text}\nb:\n- {text}\n".encode()
    assert all(same(read(emit({"a": number})), {"a": number}) for read in READERS)


def test_values_of_kindred_types() -> None:
    value = OrderedDict({"b": MappingProxyType({Kind.CANARY: Kind.CANARY}), "a": (Level.ONE, [()])})
    assert emit(value) == b"a:\n- 1\n- - []\nb:\n  canary: canary\n"


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"a": {"b": [1, float("nan")]}}, ValueError, r"^\.a\.b\[1\]: nan"),
        ({"a": float("-inf")}, ValueError, r"^\.a: -inf"),
        ({"a": [{"b": "x\ud800"}]}, ValueError, r"^\.a\[0\]\.b: U\+D800"),
        ({"a": {"\udfff": 1}}, ValueError, r"^\.a: U\+DFFF"),
        ({"a": "x\n\ud800\n"}, ValueError, r"^\.a: U\+D800"),
        ({"a": {1: 2}}, TypeError, r"^\.a: the key 1 is not a string but int"),
        ({"a": [{None: 2}]}, TypeError, r"^\.a\[0\]: the key None"),
        ({True: 1}, TypeError, r"^\.: the key True"),
        ({"a": {"b": b"x"}}, TypeError, r"^\.a\.b: bytes"),
        ({"a": {1, 2}}, TypeError, r"^\.a: set"),
        ([1], TypeError, "mapping, not list"),
        ("a", TypeError, "mapping, not str"),
        (None, TypeError, "mapping, not NoneType"),
    ],
)
def test_refused(value: Any, error: type[Exception], message: str) -> None:
    for _ in range(2):  # no cache may let it through the second time
        with pytest.raises(error, match=message):
            emit(value)


def test_the_caches_are_bounded_and_change_nothing() -> None:
    before = emit(MANIFEST)
    for i in range(40_000):
        emit({f"k{i % 3000}": f"value {i}", "long": "x" * 300 + str(i)})
    emit({f"k{i}": i for i in range(5_000)})
    assert len(module._LINES) <= module._MOST_LINES
    assert len(module._ROOT.plans) <= module._MOST_PLANS
    assert max(map(len, module._LINES)) <= module._LONGEST_LINE
    assert max(map(len, module._ROOT.plans)) <= module._LONGEST_PLAN
    assert emit(MANIFEST) == before


def test_a_dashboard_is_not_slow() -> None:
    """40 us where this was written; the bound leaves room for a busy machine, not for a slow pattern."""
    text = json.dumps([{"panel": i, "expr": f'sum(rate(x{{code="{i}"}}[5m]))'} for i in range(100)], indent=2)
    assert len(text) > 6_000
    value = {"kind": "ConfigMap", "data": {"dashboard.json": text, "other": text + "\né"}}
    assert emit(value).count(b"\n") > 400
    best = min(_seconds(value) for _ in range(20))
    assert best < 0.002


def _seconds(value: dict[str, Any]) -> float:
    start = time.perf_counter()
    emit(value)
    return time.perf_counter() - start
