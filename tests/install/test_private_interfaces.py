"""No private interface of a dependency carries weight without a test that fails when it changes."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from modelway_runtime.process import listener
from modelway_runtime.serving.http_protocol import Limits, Uvicorn
from modelway_runtime.serving.metrics import observe

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("compiler", "runtime") for path in (ROOT / folder).rglob("*.py"))
REFLECTIVE = ("getattr", "setattr", "hasattr", "delattr")
# Interface -> the test below that fails when it changes. Its package is pinned in constraints.txt.
TESTED = {
    "_upper_bounds": "test_many_observations_at_once_are_those_observations",
    "_sum": "test_many_observations_at_once_are_those_observations",
    "_unset_keepalive_if_required": "test_a_request_that_begins_ends_the_wait_for_one",
}
PUBLIC = {"_asdict", "_replace", "_fields", "_make", "_exit"}  # of named tuples; os._exit


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _defined(trees: list[ast.Module]) -> set[str]:
    """Every private name that our own code defines, as a function, class, variable, attribute or slot."""
    names: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _own(node):
            names.add(node.attr)
    return names


def _own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def _used(tree: ast.Module, defined: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if any(map(_private, alias.name.split("."))))
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("modelway"):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (f"{node.module}: {part}" for part in parts if _private(part))
        elif isinstance(node, ast.Attribute) and _private(node.attr):
            if node.attr not in PUBLIC and node.attr not in defined:  # on self too: a base class has it
                yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in REFLECTIVE:
            name = node.args[1]
            if isinstance(name, ast.Constant) and _private(str(name.value)):
                yield str(name.value)


def used_in(sources: list[str]) -> set[str]:
    trees = [ast.parse(source) for source in sources]
    defined = _defined(trees)
    return {name for tree in trees for name in _used(tree, defined)}


def test_each_private_interface_that_is_used_has_its_test() -> None:
    assert used_in([path.read_text() for path in SOURCES]) == set(TESTED)
    assert all(callable(globals()[test]) for test in TESTED.values())


def test_the_search_finds_each_form() -> None:
    for source, name in (
        ("from yaml._yaml import CParser", "yaml._yaml: _yaml"),
        ("import yaml._yaml", "yaml._yaml"),
        ("import threading\nthreading._shutdown()", "_shutdown"),
        ("from os import _wrap_close", "os: _wrap_close"),
        ("def f(child):\n    return child._value", "_value"),
        ("class A(B):\n    def f(self):\n        return self._value", "_value"),
        ("def f(child):\n    return getattr(child, '_value')", "_value"),
    ):
        assert name in used_in([source])
    assert not used_in(["class A:\n    def f(self, other):\n        self._x = 1\n        return other._x"])


def test_many_observations_at_once_are_those_observations() -> None:
    values = np.array([-1.0, 0.0, 0.05, 0.1, 0.1, 0.2, 0.5, 0.50001, 1.0, 7.0, 1e300])

    def page(*, at_once: bool) -> bytes:
        registry = CollectorRegistry()
        child = Histogram("h", "help", ["model"], buckets=(0.1, 0.5, 1.0), registry=registry).labels("m")
        if at_once:
            observe(child, values)
        else:
            for value in values:
                child.observe(value)
        text = generate_latest(registry)
        return b"\n".join(line for line in text.splitlines() if b"_created" not in line)

    assert page(at_once=True) == page(at_once=False)
    assert b'h_bucket{le="0.5",model="m"} 7.0' in page(at_once=True)


def test_a_request_that_begins_ends_the_wait_for_one() -> None:
    """uvicorn closes a connection on which nothing comes; ours must not be closed within a slow request."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def test() -> None:
        server = Uvicorn(app, Limits(idle_s=1))
        socket = listener("127.0.0.1", 0)
        task = asyncio.create_task(server.serve([socket]))
        while not server.started:
            await asyncio.sleep(0.01)
        port = socket.getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for pause in (0.0, 1.5):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n")
            await asyncio.sleep(pause)
            writer.write(b"\r\n")
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), 30)
            assert answer.startswith(b"HTTP/1.1 200")
        writer.close()
        server.should_exit = True
        await asyncio.wait_for(task, 30)

    asyncio.run(test())
