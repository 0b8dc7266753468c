"""Dynamic batching: one queue in front of the instances of one model version.

Work-conserving: as soon as an instance is free it gets what waits, up to ``max_rows``. An optional
delay lets a batch grow, but only while callers have been seen to come together; one client alone
never waits for a batch. All methods run on the event loop; instances compute in threads of their
own, or, where a batch is sure to take less than the way to a thread and back, on the loop itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Protocol, TypeAlias

import numpy as np

from modelway_runtime.serving.backends.base import Model
from modelway_runtime.serving.costs import Costs
from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.values import Array, Arrays
from modelway_runtime.serving.work import Work, WorkQueue
from modelway_runtime.settings import Batching, Queue

log = logging.getLogger(__name__)
clock = time.monotonic

INLINE_S = 0.0003
"""A batch that is expected to take less runs on the event loop: a thread and back costs some 60 µs,
and two threads on one small model are slower than one."""
STUCK_S = 60.0
"""An instance that computes for longer makes the server not live: devices hang, models do not."""
CROWD_S = 0.1
"""How long callers count as coming together after two requests were there at once."""

Result: TypeAlias = Arrays | BaseException
Batch: TypeAlias = list[Work]


class Observer(Protocol):
    """Who is told what became of batches: metrics and statistics."""

    def batch(self, batch: Batch, results: Sequence[Result], compute_s: float) -> None: ...


class Instance:
    """A thread that computes one batch at a time."""

    def __init__(self, name: str, compute: Callable[[Batch], list[Result]], done: Done) -> None:
        self._compute = compute
        self._done = done
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self.busy_since: float | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, batch: Batch) -> None:
        self.busy_since = clock()
        self._batches.put(batch)

    def stop(self) -> None:
        self._batches.put(None)

    def stuck(self, now: float) -> bool:
        since = self.busy_since
        return not self._thread.is_alive() or (since is not None and now - since > STUCK_S)

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            started = clock()
            results = self._compute(batch)
            self._done(self, batch, results, clock() - started)
            del batch, results  # not until the next batch comes


Done: TypeAlias = Callable[[Instance, Batch, list[Result], float], None]


class Batcher:
    """The queue and the instances of one model version."""

    def __init__(
        self,
        name: str,
        model: Model,
        batching: Batching,
        queue: Queue,
        instances: int,
        observer: Observer,
        *,
        inline: bool,
    ) -> None:
        """``inline``: what a row costs is the same for all rows, so that what was learnt of some is true of
        others; else one request of a costly kind, computed on the event loop, would stop the server."""
        self._loop = asyncio.get_running_loop()
        self._model = model
        self._observer = observer
        self._max_rows = batching.max_rows
        self._max_delay = min(batching.max_delay_ms, queue.timeout_ms / 2) / 1e3
        self._preferred = sorted(batching.preferred_rows, reverse=True)
        self._max_queue_rows = queue.max_rows
        self._buckets = _buckets(batching.max_rows) if model.on_gpu else ()
        self._queue = WorkQueue()
        self._running = 0  # requests
        self._running_rows = 0
        self._crowded_until = 0.0
        self._costs = Costs()
        self._inline = inline and not model.on_gpu
        self._flushing = False
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_at = math.inf
        self._instances = [
            Instance(f"{name}-{i}", self._compute, self._from_thread) for i in range(instances)
        ]
        self._free = list(self._instances)
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def queued_rows(self) -> int:
        return self._queue.rows

    @property
    def pending(self) -> int:
        """Requests that wait or are computed."""
        return self._queue.requests + self._running

    def submit(self, work: Work) -> None:
        """Take a request in; its future is resolved later. Raises InferenceError (429, 504, 400)."""
        self._admit(work)
        self._queue.push(work)
        if self.pending > 1:
            self._crowded_until = work.queued_at + max(CROWD_S, 10 * self._max_delay)
        self._idle.clear()
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def warm_up(self, inputs: Arrays, rows: int) -> Arrays:
        """Compute once in the calling thread and learn what so many rows cost; all outputs.

        Raises whatever the engine raises.
        """
        wanted = tuple(self._model.outputs)
        self._model.run(inputs, wanted)  # the first run of a shape plans its memory
        started = clock()
        outputs = self._model.run(inputs, wanted)
        self._costs.learn(rows, clock() - started)
        return outputs

    def stuck(self) -> bool:
        """Whether an instance has died or computes far too long."""
        now = clock()
        return any(instance.stuck(now) for instance in self._instances)

    async def drained(self) -> None:
        """Until nothing waits and nothing is computed."""
        await self._idle.wait()

    def close(self) -> None:
        """End the threads; what still waits is answered with 503."""
        gone = InferenceError(503, "the model was unloaded", retry_after_s=1)
        for work in self._queue:
            _fail(work, gone)
        if self._sweep:
            self._sweep.cancel()
        for instance in self._instances:
            instance.stop()

    # Admission

    def _admit(self, work: Work) -> None:
        if not self._queue.rows and work.deadline > work.queued_at and work.rows <= self._max_queue_rows:
            self._arm(work.deadline)
            return
        if work.rows > self._max_queue_rows:
            raise InferenceError(
                400, f"the request has {work.rows} rows, and at most {self._max_queue_rows} may wait"
            )
        if self._queue.rows + work.rows > self._max_queue_rows:
            wait = self._expected_wait()
            raise InferenceError(
                429, "too many rows wait for this model", reason="queue_full", retry_after_s=max(1.0, wait)
            )
        if work.deadline <= work.queued_at and not self._queue.requests and self._free:
            work.deadline = math.inf  # it starts at once, which is what "never waits" asks for
        if work.queued_at + self._expected_wait() >= work.deadline:
            raise InferenceError(504, "the queue is too long for the deadline", reason="deadline")
        self._arm(work.deadline)

    def _expected_wait(self) -> float:
        """Seconds until what waits now has been computed; 0.0 while nothing is known."""
        per_row = self._costs.per_row
        if not self._queue.rows or not math.isfinite(per_row):
            return 0.0
        return (self._queue.rows + self._running_rows) * per_row / len(self._instances)

    def _arm(self, deadline: float) -> None:
        """Have somebody look when a deadline passes: a request is answered then, not when its turn comes."""
        if deadline >= self._sweep_at or not math.isfinite(deadline):
            return
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep_at = deadline
        self._sweep = self._loop.call_later(max(0.0, deadline - clock()) + 0.001, self._sweep_expired)

    def _sweep_expired(self) -> None:
        self._sweep, self._sweep_at = None, math.inf
        self._arm(self._queue.remove_dead(self._alive))
        self._settle()

    def _alive(self, work: Work) -> bool:
        """Whether a request is still worth computing; if not, it is answered here."""
        if work.future.done():  # cancelled by its transport
            return False
        if work.connection.disconnected:
            error = _gone()
        elif work.deadline < clock():
            error = InferenceError(504, "the deadline passed in the queue", reason="deadline")
        else:
            return True
        _fail(work, error)
        return False

    # Launch

    def _flush(self) -> None:
        self._flushing = False
        while self._queue.requests and self._free:
            delay = self._delay()
            if delay > 0:
                self._flushing = True
                self._loop.call_later(delay, self._flush)
                return
            batch = self._queue.take(self._batch_limit(), self._alive)
            if batch and self._launch(batch) and self._queue.requests:
                self._flushing = True
                self._loop.call_soon(self._flush)  # others want the event loop between two batches on it
                return
        self._settle()

    def _delay(self) -> float:
        """Seconds for which the next batch should still grow."""
        now = clock()
        rows = self._queue.rows
        if not self._max_delay or rows >= self._max_rows or now > self._crowded_until:
            return 0.0
        if self._preferred and rows >= self._preferred[-1]:
            return 0.0
        return self._queue.oldest() + self._max_delay - now

    def _batch_limit(self) -> int:
        """The largest preferred size that is full, else as much as there is."""
        return next((rows for rows in self._preferred if rows <= self._queue.rows), self._max_rows)

    def _launch(self, batch: Batch) -> bool:
        """Compute a batch; whether that was done on the event loop."""
        now = clock()
        rows = 0
        for work in batch:
            work.started_at = now
            rows += work.rows
        self._running += len(batch)
        self._running_rows += rows
        if self._inline and self._costs.knows(rows) and self._costs.of(rows) < INLINE_S:
            results = self._compute(batch)
            self._finish(batch, results, clock() - now)
            return True
        self._free.pop().put(batch)
        return False

    def _from_thread(self, instance: Instance, batch: Batch, results: list[Result], compute_s: float) -> None:
        self._loop.call_soon_threadsafe(self._free_again, instance, batch, results, compute_s)

    def _free_again(self, instance: Instance, batch: Batch, results: list[Result], compute_s: float) -> None:
        instance.busy_since = None
        self._free.append(instance)
        self._flush()  # the device first: answers can wait for it, not the other way round
        self._finish(batch, results, compute_s)

    def _finish(self, batch: Batch, results: list[Result], compute_s: float) -> None:
        rows = sum(work.rows for work in batch)
        self._running -= len(batch)
        self._running_rows -= rows
        self._costs.learn(max(1, rows), compute_s)
        for work, result in zip(batch, results, strict=True):
            if work.future.done():
                continue
            if isinstance(result, BaseException):
                work.future.set_exception(result)
            else:
                work.future.set_result(result)
        self._observer.batch(batch, results, compute_s)
        self._settle()

    def _settle(self) -> None:
        if not self.pending:
            self._idle.set()

    # Compute; in the instances' threads

    def _compute(self, batch: Batch) -> list[Result]:
        """One result for each request; a failed batch is tried again one by one, so that one bad request
        fails alone."""
        try:
            if len(batch) == 1:
                return [self._run(batch[0].inputs, batch[0].rows, batch[0].wanted)]
            return self._run_together(batch)
        except Exception as error:  # noqa: BLE001  # engines raise anything
            if len(batch) == 1:
                return [_answer(error)]
            level = logging.DEBUG if isinstance(error, InferenceError) else logging.WARNING
            log.log(level, "a batch of %d requests failed and is tried one by one: %s", len(batch), error)
            return [result for work in batch for result in self._compute([work])]

    def _run_together(self, batch: Batch) -> list[Result]:
        first = batch[0]
        wanted = first.wanted
        if any(work.wanted != wanted for work in batch):
            wanted = tuple(self._model.outputs)
        stacked = {name: np.concatenate([work.inputs[name] for work in batch]) for name in first.inputs}
        rows = sum(work.rows for work in batch)
        outputs = self._run(stacked, rows, wanted)
        _check_rows(outputs, rows)
        results: list[Result] = []
        at = 0
        for work in batch:
            end = at + work.rows
            results.append({name: outputs[name][at:end] for name in work.wanted})
            at = end
        return results

    def _run(self, inputs: Arrays, rows: int, wanted: tuple[str, ...]) -> Arrays:
        bucket = next((size for size in self._buckets if size >= rows), rows)
        if bucket == rows:
            return self._model.run(inputs, wanted)
        padded = {name: _padded(array, bucket) for name, array in inputs.items()}
        outputs = self._model.run(padded, wanted)
        _check_rows(outputs, bucket)
        return {name: array[:rows] for name, array in outputs.items()}


class BadRows(Exception):
    """A model whose first dimension is not that of rows cannot be batched."""


def _check_rows(outputs: Arrays, rows: int) -> None:
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows:
            raise BadRows(f"output {name!r} of {rows} rows has the shape {array.shape}")


def _answer(error: Exception) -> InferenceError:
    """What the caller is told: nothing of the engine, unless the request was at fault."""
    if isinstance(error, InferenceError):
        log.debug("the request was at fault: %s", error.__cause__ or error)
        return error
    log.error("the model failed: %s", error, exc_info=error)
    failed = InferenceError(500, "the model failed on this request")
    failed.__cause__ = error
    return failed


def _fail(work: Work, error: InferenceError) -> None:
    if not work.future.done():
        work.future.set_exception(error)


def _buckets(max_rows: int) -> tuple[int, ...]:
    """Powers of two up to the largest batch: each shape that a GPU sees costs planning and memory."""
    sizes = [1 << power for power in range(max_rows.bit_length()) if 1 << power < max_rows]
    return (*sizes, max_rows)


def _padded(array: Array, rows: int) -> Array:
    padding = np.repeat(array[:1], rows - len(array), axis=0)
    return np.concatenate((array, padding))


def _gone() -> InferenceError:
    """A new one each: an exception that is raised holds on to the frames of its last request."""
    return InferenceError(499, "the caller has gone", reason="disconnected")
