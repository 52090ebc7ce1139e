"""Leader and followers, with an in-memory instance whose runs the tests hold up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from vintner.batching import QueueLimits
from vintner.errors import BackendError, Cancelled, DeadlineExceeded, QueueFull, Stopping
from vintner.metrics import SchedulerMetrics
from vintner.scheduler import Call, Scheduler
from vintner.types import Array, Cancellation

WAIT = 10.0


class Gated:
    """An instance that doubles `x`, in steps: `entered` is released by each run, which then waits for `go`."""

    def __init__(self, open_gate: bool = False) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(10_000 if open_gate else 0)
        self.batches: list[list[float]] = []
        self.fail: Callable[[Array], Exception | None] = lambda x: None
        self.together = 0

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self.together += 1
        assert self.together == 1, "two threads ran one instance at once"
        x = inputs["x"]
        self.batches.append([float(value) for value in x[:, 0]])
        self.entered.release()
        assert self.go.acquire(timeout=WAIT)
        self.together -= 1
        error = self.fail(x)
        if error is not None:
            raise error
        return {"y": x * 2}


def call(*values: float, signature: object = None, **options: Any) -> Call:
    return Call({"x": np.array([[value] for value in values])}, len(values), 8 * len(values), signature, **options)


class Bench:
    """A scheduler with one gated instance, and threads to call it from."""

    def __init__(self, **options: Any) -> None:
        self.instance = Gated()
        self.metrics = SchedulerMetrics()
        self.scheduler = Scheduler([self.instance], metrics=self.metrics, **{"max_rows": 8, **options})
        self._threads = ThreadPoolExecutor(64)

    def infer(self, request: Call) -> Future[list[float]]:
        return self._threads.submit(lambda: [float(v) for v in self.scheduler.infer(request)["y"][:, 0]])

    def occupy(self) -> Future[list[float]]:
        """Starts a request that holds the instance until a `go`."""
        running = self.infer(call(0.0))
        assert self.instance.entered.acquire(timeout=WAIT)
        return running

    def queue(self, request: Call) -> Future[list[float]]:
        """Starts a request, and returns once it waits in the queue."""
        before = self.scheduler.queued[0]
        future = self.infer(request)
        wait_until(lambda: self.scheduler.queued[0] > before)
        return future

    def release(self, runs: int) -> None:
        for _ in range(runs):
            self.instance.go.release()


def wait_until(condition: Callable[[], bool]) -> None:
    """For states that a thread reaches just before it blocks, and so cannot announce."""
    pause = threading.Event()
    for _ in range(int(WAIT * 1000)):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("the condition was not reached")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_lone_request_runs_at_once_in_its_own_thread() -> None:
    ran_in: list[int] = []

    class Instance:
        def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            ran_in.append(threading.get_ident())
            return {"y": inputs["x"]}

    Scheduler([Instance()]).infer(call(1.0))
    assert ran_in == [threading.get_ident()]


def test_requests_that_wait_form_the_next_batch_and_get_their_own_rows(bench: Bench) -> None:
    first = bench.occupy()
    waiting = [bench.queue(call(1.0)), bench.queue(call(2.0, 3.0)), bench.queue(call(4.0))]
    bench.release(2)
    assert first.result(WAIT) == [0.0]
    assert [future.result(WAIT) for future in waiting] == [[2.0], [4.0, 6.0], [8.0]]
    assert bench.instance.batches == [[0.0], [1.0, 2.0, 3.0, 4.0]]


def test_different_signatures_are_not_mixed(bench: Bench) -> None:
    bench.occupy()
    waiting = [bench.queue(call(1.0, signature="a")), bench.queue(call(2.0, signature="b"))]
    bench.release(3)
    assert [future.result(WAIT) for future in waiting] == [[2.0], [4.0]]
    assert bench.instance.batches == [[0.0], [1.0], [2.0]]


def test_a_request_that_arrives_while_the_leader_wakes_can_still_join_the_batch(bench: Bench) -> None:
    first = bench.occupy()
    waiting = [bench.queue(call(float(i))) for i in range(1, 4)]
    bench.release(1)
    first.result(WAIT)
    assert bench.instance.entered.acquire(timeout=WAIT)
    assert bench.instance.batches[1] == [1.0, 2.0, 3.0]
    bench.release(1)
    assert [future.result(WAIT) for future in waiting] == [[2.0], [4.0], [6.0]]


def test_a_request_that_spoils_a_batch_fails_alone_and_the_instance_goes_on(bench: Bench) -> None:
    bench.instance.fail = lambda x: BackendError("no") if 13.0 in x else None
    bench.occupy()
    bad, good = bench.queue(call(13.0)), bench.queue(call(2.0))
    bench.release(4)
    with pytest.raises(BackendError, match="no"):
        bad.result(WAIT)
    assert good.result(WAIT) == [4.0]
    assert bench.instance.batches == [[0.0], [13.0, 2.0], [13.0], [2.0]]
    bench.release(1)
    assert bench.infer(call(5.0)).result(WAIT) == [10.0]
    assert bench.scheduler.instances == (0, 1)


def test_a_model_that_always_fails_answers_every_member(bench: Bench) -> None:
    bench.instance.fail = lambda x: RuntimeError("broken")
    calls = [bench.occupy(), bench.queue(call(1.0)), bench.queue(call(2.0))]
    bench.release(4)
    for future in calls:
        with pytest.raises(RuntimeError, match="broken"):
            future.result(WAIT)
    assert (bench.scheduler.instances, bench.scheduler.queued) == ((0, 1), (0, 0))


def test_the_nth_failing_run_leaves_nothing_behind() -> None:
    for failing in range(1, 6):
        instance = Gated(open_gate=True)
        runs = iter(range(1, 100))
        instance.fail = lambda x, n=failing, runs=runs: RuntimeError("boom") if next(runs) == n else None
        scheduler = Scheduler([instance], max_rows=4)
        outcomes = []
        for value in range(5):
            try:
                outcomes.append(float(scheduler.infer(call(float(value)))["y"][0, 0]))
            except RuntimeError:
                outcomes.append(None)
        assert outcomes == [None if n == failing else 2.0 * (n - 1) for n in range(1, 6)]
        assert (scheduler.instances, scheduler.queued) == ((0, 1), (0, 0))


def test_an_expired_request_leaves_the_queue_and_is_not_run(bench: Bench) -> None:
    import time

    bench.occupy()
    late = bench.infer(call(9.0, deadline=time.monotonic() + 0.05))
    with pytest.raises(DeadlineExceeded):
        late.result(WAIT)
    assert bench.scheduler.queued == (0, 0)
    bench.release(1)
    wait_until(lambda: bench.scheduler.instances == (0, 1))
    assert bench.instance.batches == [[0.0]]


def test_a_deadline_in_centuries_is_no_deadline(bench: Bench) -> None:
    bench.occupy()
    waiting = bench.queue(call(1.0, deadline=1e12))
    bench.release(2)
    assert waiting.result(WAIT) == [2.0]


def test_a_deadline_that_passes_while_the_batch_runs_does_not_harm_the_others(bench: Bench) -> None:
    import time

    bench.occupy()
    mate = bench.queue(call(1.0))
    late = bench.queue(call(2.0, deadline=time.monotonic() + 0.3))
    bench.release(1)
    assert bench.instance.entered.acquire(timeout=WAIT)
    assert bench.instance.batches[1] == [1.0, 2.0]
    with pytest.raises(DeadlineExceeded):
        late.result(WAIT)
    bench.release(1)
    assert mate.result(WAIT) == [2.0]


def test_a_cancelled_request_is_not_run(bench: Bench) -> None:
    cancellation = Cancellation()
    first = bench.occupy()
    gone = bench.queue(call(9.0, cancellation=cancellation))
    cancellation.cancel()
    with pytest.raises(Cancelled):
        gone.result(WAIT)
    assert bench.scheduler.queued == (0, 0)
    bench.release(1)
    first.result(WAIT)
    assert bench.instance.batches == [[0.0]]


def test_a_request_that_was_cancelled_before_it_queued_is_not_run(bench: Bench) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    bench.occupy()
    with pytest.raises(Cancelled):
        bench.infer(call(9.0, cancellation=cancellation)).result(WAIT)
    bench.release(1)


def test_a_full_queue_refuses_at_once() -> None:
    bench = Bench(limits=QueueLimits(max_requests=1))
    bench.occupy()
    waiting = bench.queue(call(1.0))
    with pytest.raises(QueueFull):
        bench.scheduler.infer(call(2.0))
    bench.release(2)
    assert waiting.result(WAIT) == [2.0]


def test_closing_answers_those_that_wait_and_refuses_new_ones(bench: Bench) -> None:
    first = bench.occupy()
    waiting = bench.queue(call(1.0))
    bench.scheduler.close()
    with pytest.raises(Stopping):
        waiting.result(WAIT)
    with pytest.raises(Stopping):
        bench.scheduler.infer(call(2.0))
    bench.release(1)
    assert first.result(WAIT) == [0.0]


def test_a_model_whose_outputs_lack_the_batch_is_served_unbatched_and_right() -> None:
    class Summing:
        def __init__(self) -> None:
            self.gate, self.entered, self.sizes = threading.Event(), threading.Event(), []

        def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            self.sizes.append(len(inputs["x"]))
            self.entered.set()
            assert self.gate.wait(WAIT)
            return {"y": inputs["x"].sum(axis=0, keepdims=True)}

    instance = Summing()
    scheduler = Scheduler([instance], max_rows=8)
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(scheduler.infer, call(0.0))]
        assert instance.entered.wait(WAIT)
        futures += [threads.submit(scheduler.infer, call(float(i))) for i in (1, 2, 3)]
        wait_until(lambda: scheduler.queued[0] == 3)
        instance.gate.set()
        assert [float(future.result(WAIT)["y"][0, 0]) for future in futures] == [0.0, 1.0, 2.0, 3.0]
    assert instance.sizes == [1, 3, 1, 1, 1]
    scheduler.infer(call(1.0))


def test_many_threads_get_their_own_rows_from_several_instances() -> None:
    instances = [Gated(open_gate=True) for _ in range(3)]
    scheduler = Scheduler(instances, max_rows=8)

    def one(number: int) -> bool:
        values = [float(number * 10 + k) for k in range(1 + number % 3)]
        result = scheduler.infer(call(*values))["y"]
        return [float(v) for v in result[:, 0]] == [2 * v for v in values]

    with ThreadPoolExecutor(32) as threads:
        assert all(threads.map(one, range(3000)))
    assert scheduler.instances == (0, 3)
    assert scheduler.queued == (0, 0)
    assert sum(len(batch) for instance in instances for batch in instance.batches) == sum(
        1 + n % 3 for n in range(3000)
    )


def test_executions_rows_and_waits_are_counted(bench: Bench) -> None:
    bench.occupy()
    waiting = [bench.queue(call(1.0)), bench.queue(call(2.0, 3.0))]
    bench.release(2)
    for future in waiting:
        future.result(WAIT)
    assert (bench.metrics.executions, bench.metrics.rows.total) == (2, 4)
    assert sum(bench.metrics.wait.counts) == 3
    assert sum(bench.metrics.compute.counts) == 2
