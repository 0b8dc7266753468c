"""The batcher: what is put together, what waits, what is refused, and who gets which answer."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from modelway_runtime.serving import batching
from modelway_runtime.serving.costs import Costs
from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.work import HIGHEST, LOWEST, level_of
from tests.runtime.core.arithmetic import Bench, Doubler, Line, until


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def test_what_waits_while_an_instance_computes_is_its_next_batch() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate))
        first = bench.submit(1)
        await until(lambda: bench.model.batches == [1])
        others = [bench.submit(value) for value in range(2, 7)]
        await asyncio.sleep(0.01)
        gate.set()
        answers = await asyncio.gather(first, *others)
        assert bench.model.batches == [1, 5]
        assert [answer["y"][0, 0] for answer in answers] == [2, 4, 6, 8, 10, 12]
        bench.batcher.close()

    run(scenario())


def test_rows_are_counted_not_requests() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate), max_rows=8)
        blocker = bench.submit()
        await until(lambda: bench.model.batches == [1])
        others = [bench.submit(value, rows=3) for value in range(3)]
        gate.set()
        answers = await asyncio.gather(*others)
        await blocker
        assert bench.model.batches == [1, 6, 3]
        assert [answer["y"].shape for answer in answers] == [(3, 2)] * 3
        bench.batcher.close()

    run(scenario())


def test_a_request_larger_than_a_batch_is_computed_alone() -> None:
    async def scenario() -> None:
        bench = Bench(Doubler(), max_rows=4)
        small, large = bench.submit(), bench.submit(rows=9)
        assert (await large)["y"].shape == (9, 2)
        await small
        assert sorted(bench.model.batches) == [1, 9]
        bench.batcher.close()

    run(scenario())


def test_unequal_shapes_are_not_put_together() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate))
        blocker = bench.submit()
        await until(lambda: bench.model.batches == [1])
        others = [bench.submit(shapes=shapes) for shapes in ("a", "a", "b")]
        gate.set()
        await asyncio.gather(blocker, *others)
        assert bench.model.batches == [1, 2, 1]
        bench.batcher.close()

    run(scenario())


def test_one_bad_request_fails_alone() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate))
        blocker = bench.submit()
        await until(lambda: bench.model.batches == [1])
        others = [bench.submit(value) for value in (1, -1, 3)]
        gate.set()
        answers = await asyncio.gather(*others, return_exceptions=True)
        await blocker
        assert isinstance(answers[1], InferenceError)
        assert answers[1].status == 500
        assert "negative" not in answers[1].message  # nothing of the engine for the caller
        assert [a["y"][0, 0] for a in (answers[0], answers[2]) if isinstance(a, dict)] == [2, 6]
        assert bench.model.batches == [1, 3, 1, 1, 1]
        bench.batcher.close()

    run(scenario())


def test_the_highest_priority_goes_first() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate), max_rows=1)
        blocker = bench.submit()
        await until(lambda: bench.model.batches == [1])
        order: list[str] = []
        for name, level in (("low", LOWEST), ("default", level_of(0)), ("high", HIGHEST)):
            bench.submit(level=level).add_done_callback(lambda _, name=name: order.append(name))
        gate.set()
        await blocker
        await until(lambda: len(order) == 3)
        assert order == ["high", "default", "low"]
        bench.batcher.close()

    run(scenario())


@pytest.mark.parametrize(("priority", "level"), [(0, 5), (1, 1), (10, 10), (2**63, 10)])
def test_levels(priority: int, level: int) -> None:
    assert level_of(priority) == level


def test_a_full_queue_refuses_with_the_time_to_wait() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate), queue_rows=4)
        blocker = bench.submit()
        await until(lambda: bench.model.batches == [1])
        waiting = [bench.submit(rows=2), bench.submit(rows=2)]
        with pytest.raises(InferenceError) as refused:
            bench.submit()
        assert (refused.value.status, refused.value.reason) == (429, "queue_full")
        assert (refused.value.retry_after_s or 0) >= 1
        with pytest.raises(InferenceError) as impossible:
            bench.submit(rows=5)
        assert impossible.value.status == 400  # trying again would not help
        gate.set()
        await asyncio.gather(blocker, *waiting)
        bench.batcher.close()

    run(scenario())


def test_a_deadline_that_passes_in_the_queue_is_answered_then() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate))
        blocker = bench.submit()
        await until(lambda: bench.model.batches == [1])
        started = time.monotonic()
        with pytest.raises(InferenceError) as late:
            await bench.submit(timeout_s=0.05)
        assert (late.value.status, late.value.reason) == (504, "deadline")
        assert 0.04 < time.monotonic() - started < 2  # the instance is still busy
        assert bench.batcher.queued_rows == 0
        gate.set()
        await blocker
        assert bench.model.batches == [1]
        bench.batcher.close()

    run(scenario())


def test_what_cannot_make_it_is_refused_before_it_waits() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate), queue_rows=1000)
        bench.batcher._costs.learn(1, 0.01)  # as a warm-up would have measured
        blocker = bench.submit()
        await until(lambda: bench.model.batches == [1])
        waiting = bench.submit(rows=100)
        with pytest.raises(InferenceError) as refused:
            bench.submit(timeout_s=0.5)  # 100 rows of 10 ms are before it
        assert refused.value.status == 504
        gate.set()
        await asyncio.gather(blocker, waiting)
        bench.batcher.close()

    run(scenario())


def test_a_timeout_of_zero_starts_at_once_or_not_at_all() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate))
        blocker = bench.submit(timeout_s=0)
        await until(lambda: bench.model.batches == [1])
        with pytest.raises(InferenceError) as refused:
            bench.submit(timeout_s=0)
        assert refused.value.status == 504
        gate.set()
        assert (await blocker)["y"][0, 0] == 2
        bench.batcher.close()

    run(scenario())


def test_callers_who_have_gone_are_not_computed() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate))
        blocker = bench.submit()
        await until(lambda: bench.model.batches == [1])
        line = Line()
        gone, cancelled, stays = bench.submit(line=line), bench.submit(), bench.submit(7)
        line.disconnected = True
        cancelled.cancel()
        gate.set()
        assert (await stays)["y"][0, 0] == 14
        await blocker
        with pytest.raises(InferenceError) as error:
            await gone
        assert error.value.status == 499
        assert bench.model.batches == [1, 1]
        bench.batcher.close()

    run(scenario())


def test_one_client_alone_never_waits_for_a_batch() -> None:
    async def scenario() -> None:
        bench = Bench(Doubler(), delay_ms=2000)
        started = time.monotonic()
        for _ in range(5):
            await bench.submit()
        assert time.monotonic() - started < 1
        assert bench.model.batches == [1] * 5
        bench.batcher.close()

    run(scenario())


def test_a_delay_lets_a_batch_grow_once_callers_come_together() -> None:
    async def scenario() -> None:
        bench = Bench(Doubler(), delay_ms=150)
        await asyncio.gather(bench.submit(), bench.submit())
        bench.model.batches.clear()
        early = bench.submit()
        await asyncio.sleep(0.02)
        late = bench.submit()
        await asyncio.gather(early, late)
        assert bench.model.batches == [2]
        bench.batcher.close()

    run(scenario())


def test_a_preferred_size_does_not_wait_and_is_not_exceeded() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate), max_rows=8, delay_ms=5000, preferred=(2, 4))
        blocker, second = bench.submit(), bench.submit()
        await until(lambda: bench.model.batches == [2])
        others = [bench.submit() for _ in range(5)]
        gate.set()
        started = time.monotonic()
        await asyncio.wait(others, timeout=0.5)
        assert bench.model.batches[:2] == [2, 4]
        assert time.monotonic() - started < 1
        await asyncio.gather(blocker, second)
        bench.batcher.close()
        await asyncio.gather(*others, return_exceptions=True)

    run(scenario())


def test_on_a_gpu_batches_are_padded_to_buckets_and_answers_are_not() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate, on_gpu=True), max_rows=8)
        blocker = bench.submit()
        await until(lambda: bench.model.batches == [1])
        others = [bench.submit(value) for value in (1, 2, 3)]
        gate.set()
        answers = await asyncio.gather(*others)
        await blocker
        assert bench.model.batches == [1, 4]
        assert [answer["y"].tolist() for answer in answers] == [[[2, 2]], [[4, 4]], [[6, 6]]]
        bench.batcher.close()

    run(scenario())


def test_buckets_end_with_the_largest_batch() -> None:
    assert batching._buckets(1) == (1,)
    assert batching._buckets(8) == (1, 2, 4, 8)
    assert batching._buckets(12) == (1, 2, 4, 8, 12)


def test_what_is_cheap_is_computed_on_the_event_loop_and_what_is_not_in_threads() -> None:
    async def scenario() -> None:
        bench = Bench(Doubler())
        outputs = bench.batcher.warm_up({"x": np.ones((4, 2), np.float32)}, 4)
        assert outputs["y"].tolist() == [[2, 2]] * 4
        bench.model.threads.clear()
        bench.batcher._costs = costs_of(1e-6)
        await bench.submit()
        assert bench.model.threads == {threading.current_thread().name}
        bench.model.threads.clear()
        bench.batcher._costs = costs_of(1.0)
        await bench.submit()
        assert bench.model.threads == {"doubler-0"}
        bench.batcher.close()

    run(scenario())


def test_the_first_batch_of_a_size_is_computed_in_a_thread() -> None:
    async def scenario() -> None:
        bench = Bench(Doubler())
        bench.batcher.warm_up({"x": np.ones((1, 2), np.float32)}, 1)
        bench.batcher._costs = costs_of(1e-6)
        for threads in ({"doubler-0"}, {threading.current_thread().name}):
            bench.model.threads.clear()
            await bench.submit(rows=4)
            assert bench.model.threads == threads
        bench.batcher.close()

    run(scenario())


def test_a_model_whose_rows_differ_in_cost_is_never_computed_on_the_event_loop() -> None:
    async def scenario() -> None:
        bench = Bench(Doubler(), inline=False)
        bench.batcher._costs = costs_of(1e-6)
        for _ in range(3):
            await bench.submit()
        assert bench.model.threads == {"doubler-0"}
        bench.batcher.close()

    run(scenario())


def test_instances_compute_side_by_side() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate), max_rows=1, instances=2)
        both = [bench.submit(), bench.submit()]
        await until(lambda: len(bench.model.batches) == 2)
        gate.set()
        await asyncio.gather(*both)
        assert bench.model.threads == {"doubler-0", "doubler-1"}
        bench.batcher.close()

    run(scenario())


def test_a_stuck_instance_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate))
        assert not bench.batcher.stuck()
        blocker = bench.submit()
        await until(lambda: bench.model.batches == [1])
        assert not bench.batcher.stuck()
        monkeypatch.setattr(batching, "STUCK_S", 0.0)
        await asyncio.sleep(0.01)
        assert bench.batcher.stuck()
        gate.set()
        await blocker
        assert not bench.batcher.stuck()
        bench.batcher.close()
        await until(bench.batcher.stuck)  # its thread has ended

    run(scenario())


def test_drained_waits_for_what_is_in_flight_and_close_answers_the_rest() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        bench = Bench(Doubler(gate), max_rows=1)
        await asyncio.wait_for(bench.batcher.drained(), 1)
        first, second = bench.submit(), bench.submit()
        await until(lambda: bench.model.batches == [1])
        drained = asyncio.create_task(bench.batcher.drained())
        await asyncio.sleep(0.01)
        assert not drained.done()
        bench.batcher.close()
        with pytest.raises(InferenceError) as error:
            await second
        assert error.value.status == 503
        gate.set()
        await first

    run(scenario())


def costs_of(seconds: float) -> Costs:
    costs = Costs()
    costs.learn(1, seconds)
    return costs


def test_costs_are_learnt_by_size_and_a_disturbance_is_hardly_believed() -> None:
    costs = Costs()
    assert math.isinf(costs.of(1))
    assert math.isinf(costs.per_row)
    costs.learn(1, 0.001)
    assert costs.of(1) == 0.001
    assert costs.of(8) == pytest.approx(0.008)  # nothing better is known
    costs.learn(32, 0.004)
    assert costs.of(8) == 0.004  # no more than a larger batch
    assert costs.of(1) == 0.001
    assert costs.per_row == 0.004 / 32
    for _ in range(3):
        costs.learn(1, 0.1)
    assert costs.of(1) < 0.02
    for _ in range(10):
        costs.learn(1, 0.001)
    assert costs.of(1) == pytest.approx(0.001, rel=0.05)
