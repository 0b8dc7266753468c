"""One version of one model, ready to answer: weights, batcher, cache and what is known of its tensors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import Any

import numpy as np

from modelway_runtime.serving.backends.base import LoadError, Model
from modelway_runtime.serving.batching import Batcher
from modelway_runtime.serving.cache import ResponseCache, key_of
from modelway_runtime.serving.errors import InferenceError, invalid
from modelway_runtime.serving.metrics import ModelMetrics
from modelway_runtime.serving.rows import Rows
from modelway_runtime.serving.tensors import DTYPES, as_served, datatype_of, object_array, shown
from modelway_runtime.serving.values import Array, Arrays, Call, InferenceRequest
from modelway_runtime.serving.work import Work, level_of
from modelway_runtime.settings import Batching, Served, TensorSpec

log = logging.getLogger(__name__)
clock = time.monotonic
GUESSED_SIZE = 16
"""Size that a warm-up gives a dimension which requests decide."""


class Expected:
    """What one input must be; compared once a request, so kept in the form that compares fastest."""

    __slots__ = ("dtype", "fixed", "name", "shape", "tail")

    def __init__(self, name: str, spec: TensorSpec) -> None:
        self.name = name
        self.dtype = DTYPES[spec.datatype]
        self.shape = spec.shape
        self.tail = spec.shape[1:]
        self.fixed = -1 not in self.tail


class Servable:
    """Answers requests for one model version. Lives on the event loop that made it."""

    def __init__(self, spec: Served, model: Model, rows: Rows, metrics: ModelMetrics) -> None:
        self.spec = spec
        self.name = spec.name
        self.version = spec.version
        self.inputs = spec.inputs or model.inputs
        self.outputs = spec.outputs or model.outputs
        self.provider = model.provider
        self.metrics = metrics
        self.in_flight = 0
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._wanted = tuple(self.outputs)
        self._expected = [Expected(name, tensor) for name, tensor in self.inputs.items()]
        self.rows = rows
        self.batchable = rows.shared
        tensors = (*self.inputs.values(), *self.outputs.values())
        self._any_length = all(tensor.shape[:1] == (-1,) for tensor in tensors)
        self._same_tails = all(expected.fixed for expected in self._expected)
        batching = spec.batching
        if not self.batchable:
            batching = Batching(max_rows=1, max_delay_ms=0, preferred_rows=())
        self.max_rows = batching.max_rows
        name = f"{spec.name}-{spec.version}"
        inline = model.reading.steady and _are_alike(self.inputs, but_rows=self.batchable)
        self.batcher = Batcher(name, model, batching, spec.queue, spec.instances, metrics, inline=inline)
        self._timeout_s = spec.queue.timeout_ms / 1e3
        self._cache = ResponseCache(spec.cache.max_bytes, spec.cache.ttl_s) if spec.cache.max_bytes else None
        self._leaders: dict[bytes, asyncio.Future[Arrays]] = {}

    def submit(self, request: InferenceRequest, call: Call) -> Awaitable[Arrays]:
        """Take a request in; the wanted outputs by name come later. Both raise InferenceError."""
        work = self._work(request, call)
        if self._cache is not None:
            return self._through_cache(self._cache, work)
        self.batcher.submit(work)
        return work.future

    def warm_up(self) -> None:
        """Compute zeros once for each size of the settings; called in a thread, before any request.

        Raises LoadError when the model fails on them, unless a dimension had to be guessed.
        """
        guessed = any(-1 in expected.tail for expected in self._expected) or not self._any_length
        try:
            for rows in self.spec.warm_up.rows if self._any_length else self.spec.warm_up.rows[:1]:
                length = rows if self._any_length else 1
                inputs = {expected.name: _zeros(expected, length) for expected in self._expected}
                outputs = self.batcher.warm_up(inputs, rows if self.batchable else 1)
                self._compare(served_outputs(outputs))
        except LoadError:
            raise
        except Exception as error:
            if not guessed:
                raise LoadError(f"{self.name} {self.version} fails on its warm-up: {error}") from error
            log.warning("%s cannot be warmed up with guessed shapes: %s", self.name, error)

    def _compare(self, outputs: Arrays) -> None:
        """Raises LoadError where the model answers something else than it, or the settings, declare."""
        for name, spec in self.outputs.items():
            array = outputs[name]
            if array.dtype != DTYPES[spec.datatype] or not _fits(array.shape, spec.shape):
                raise LoadError(
                    f"{self.name} {self.version}: the output {name!r} is declared as {spec.datatype} "
                    f"{list(spec.shape)}, but the model answers {datatype_of(array)} {list(array.shape)}"
                )

    async def drained(self) -> None:
        await self.batcher.drained()

    def close(self) -> None:
        self.batcher.close()
        self._model.close()
        self.metrics.close()

    def metadata(self) -> dict[str, Any]:
        """Inputs and outputs as the protocol describes them."""
        return {
            side: [
                {"name": name, "datatype": spec.datatype, "shape": list(spec.shape)}
                for name, spec in tensors.items()
            ]
            for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs))
        }

    def _work(self, request: InferenceRequest, call: Call) -> Work:
        now = clock()
        deadline = now + self._timeout_s
        if call.deadline is not None and call.deadline < deadline:
            deadline = call.deadline  # a caller may ask for less, never for more
        rows, shapes = self._checked(request.inputs)
        future = self._loop.create_future()
        level = level_of(request.priority)
        wanted = self._requested(request.outputs) if request.outputs else self._wanted
        return Work(request.inputs, rows, shapes, wanted, deadline, level, call.connection, future, now)

    def _checked(self, inputs: Arrays) -> tuple[int, object]:
        """Rows, and what must be equal within a batch. Raises InferenceError (400)."""
        rows = -1
        for expected in self._expected:
            array = inputs.get(expected.name)
            if array is None:
                raise invalid(f"input {expected.name!r} is missing: {self._takes()}")
            shape = array.shape
            if array.dtype != expected.dtype:
                wanted = datatype_of_dtype(expected.dtype)
                raise invalid(f"input {expected.name!r} is {datatype_of(array)}, not {wanted}")
            if shape and expected.fixed and shape[1:] == expected.tail and self.batchable:
                if rows not in (-1, shape[0]):
                    raise invalid(f"input {expected.name!r} has {shape[0]} rows, another input {rows}")
                rows = shape[0]
                continue
            if not _fits(shape, expected.shape):
                raise invalid(
                    f"input {expected.name!r} has the shape {list(shape)}, not {list(expected.shape)}"
                )
            if self.batchable:
                if rows not in (-1, shape[0]):
                    raise invalid(f"input {expected.name!r} has {shape[0]} rows, another input {rows}")
                rows = shape[0]
        if len(inputs) > len(self._expected):
            unknown = next(name for name in inputs if name not in self.inputs)
            raise invalid(f"input {shown(unknown)} is not known: {self._takes()}")
        if self._same_tails or not self.batchable:
            return max(rows, 1), None
        return max(rows, 1), tuple(inputs[expected.name].shape[1:] for expected in self._expected)

    def _requested(self, outputs: tuple[str, ...]) -> tuple[str, ...]:
        for name in outputs:
            if name not in self.outputs:
                raise invalid(f"output {shown(name)} is not known: one of {', '.join(self.outputs)}")
        return outputs

    def _takes(self) -> str:
        return f"{self.name} takes {', '.join(self.inputs)}"

    async def _through_cache(self, cache: ResponseCache, work: Work) -> Arrays:
        key = key_of(work.inputs, work.wanted)
        kept = cache.get(key)
        leader = self._leaders.get(key)
        self.metrics.cached(hit=kept is not None or leader is not None)
        if kept is not None:
            return kept
        if leader is not None:
            answer = await _followed(leader, work.deadline)
            if answer is not None:
                return answer
        else:
            self._leaders[key] = work.future
        try:
            self.batcher.submit(work)
            outputs = await work.future
        finally:
            if self._leaders.get(key) is work.future:
                del self._leaders[key]
            if not work.future.done():  # followers wait for it
                work.future.cancel()
        cache.put(key, outputs)
        return outputs


async def _followed(leader: asyncio.Future[Arrays], deadline: float) -> Arrays | None:
    """The answer to an equal request that is computed already; None where that failed or was dropped.

    Raises InferenceError (504) when the own deadline passes first.
    """
    await asyncio.wait((leader,), timeout=max(0.0, deadline - clock()))
    if not leader.done():
        raise InferenceError(504, "the deadline passed in the queue", reason="deadline")
    if leader.cancelled() or leader.exception() is not None:
        return None
    return leader.result()


def _are_alike(inputs: dict[str, TensorSpec], *, but_rows: bool) -> bool:
    """Whether all requests cost the same for each row: no size but the rows is a caller's, and no text."""
    sizes = (spec.shape[1:] if but_rows else spec.shape for spec in inputs.values())
    return not any(-1 in size for size in sizes) and all(s.datatype != "BYTES" for s in inputs.values())


def agree(spec: Served, model: Model) -> None:
    """Raises LoadError where the settings declare another interface than the weights have."""
    for side, declared, actual in (
        ("input", spec.inputs, model.inputs),
        ("output", spec.outputs, model.outputs),
    ):
        if not declared:
            continue
        for name, tensor in declared.items():
            if name not in actual:
                raise LoadError(
                    f"{spec.name} {spec.version}: the settings name the {side} {name!r}, but the weights "
                    f"have {', '.join(actual)}"
                )
            found = actual[name]
            if found.datatype != tensor.datatype or not _compatible(found.shape, tensor.shape):
                raise LoadError(
                    f"{spec.name} {spec.version}: the {side} {name!r} is {tensor.datatype} "
                    f"{list(tensor.shape)} in the settings, and {found.datatype} {list(found.shape)} in the "
                    "weights"
                )
        if side == "input" and len(declared) < len(actual):
            missing = sorted(set(actual) - set(declared))
            raise LoadError(f"{spec.name} {spec.version}: the settings lack the inputs {', '.join(missing)}")


def served_outputs(outputs: Arrays) -> Arrays:
    """Outputs as the protocol can carry them."""
    for array in outputs.values():
        if not _plain(array):
            return {name: as_served(array) for name, array in outputs.items()}
    return outputs


def datatype_of_dtype(dtype: np.dtype[Any]) -> str:
    return next(name for name, known in DTYPES.items() if known == dtype)


def _plain(array: Array) -> bool:
    return array.flags.c_contiguous and array.dtype.kind in "fiub"


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(w in (-1, s) for s, w in zip(shape, wanted, strict=True))


def _compatible(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(-1 in (a, b) or a == b for a, b in zip(one, other, strict=True))


def _zeros(expected: Expected, rows: int) -> Array:
    tail = tuple(GUESSED_SIZE if size < 0 else size for size in expected.tail)
    shape = ((rows if expected.shape[0] < 0 else expected.shape[0]), *tail) if expected.shape else ()
    if expected.dtype == object:
        count = int(np.prod(shape, dtype=np.int64))
        return object_array([b""] * count).reshape(shape)
    return np.zeros(shape, expected.dtype)
