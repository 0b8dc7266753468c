"""A model made of numpy: real arithmetic, whose pace and failures a test decides."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import numpy as np

from modelway_runtime.serving.batching import Batcher
from modelway_runtime.serving.values import Arrays
from modelway_runtime.serving.work import DEFAULT, Work
from modelway_runtime.settings import Batching, Queue, TensorSpec

SPEC = TensorSpec(datatype="FP32", shape=(-1, 2))


class Doubler:
    """``y = 2 x``. Waits for ``gate`` if one is given; rows that hold a negative number fail."""

    provider = "numpy"

    def __init__(self, gate: threading.Event | None = None, *, on_gpu: bool = False) -> None:
        self.inputs = {"x": SPEC}
        self.outputs = {"y": SPEC}
        self.gate = gate
        self.on_gpu = on_gpu
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self.entered = threading.Semaphore(0)

    def run(self, inputs: Arrays, wanted: tuple[str, ...]) -> Arrays:
        self.threads.add(threading.current_thread().name)
        self.batches.append(len(inputs["x"]))
        self.entered.release()
        if self.gate is not None:
            assert self.gate.wait(10)
        if (inputs["x"] < 0).any():
            raise ValueError("negative")
        return {"y": inputs["x"] * 2}

    def close(self) -> None:
        pass


class Told:
    """What a batcher told its observer."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def batch(self, batch: list[Work], results: object, compute_s: float) -> None:
        assert compute_s >= 0
        self.batches.append(len(batch))


class Line:
    """A caller's end of the line."""

    def __init__(self) -> None:
        self.disconnected = False


class Bench:
    """A batcher with its model, and requests for it."""

    def __init__(
        self,
        model: Doubler,
        *,
        max_rows: int = 8,
        delay_ms: float = 0,
        preferred: tuple[int, ...] = (),
        queue_rows: int = 64,
        instances: int = 1,
        inline: bool = True,
    ) -> None:
        self.model = model
        self.told = Told()
        self.batcher = Batcher(
            "doubler",
            model,
            Batching(max_rows=max_rows, max_delay_ms=delay_ms, preferred_rows=preferred),
            Queue(max_rows=queue_rows, timeout_ms=10_000),
            instances,
            self.told,
            inline=inline,
        )

    def submit(
        self,
        value: float = 1.0,
        *,
        rows: int = 1,
        timeout_s: float = 10.0,
        level: int = DEFAULT,
        line: Line | None = None,
        shapes: object = None,
    ) -> asyncio.Future[Arrays]:
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        inputs = {"x": np.full((rows, 2), value, np.float32)}
        work = Work(
            inputs, rows, shapes, ("y",), now + timeout_s, level, line or Line(), loop.create_future(), now
        )
        self.batcher.submit(work)
        return work.future


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something that another thread does."""
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end, "it did not happen"
        await asyncio.sleep(0.001)
