"""Turns, batches and hand-overs, with an in-memory instance whose runs the tests hold up."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hand_clock import HandClock, hand_clock, threads_by
from scheduler_calls import WAIT, Asked, call, infer
from vintner import pools
from vintner.batcher import Batching
from vintner.batching import QueueLimits
from vintner.call import Call, Result
from vintner.errors import BackendError, Cancelled, DeadlineExceeded, QueueFull, QueueTimeout, Stopping
from vintner.model_metrics import SchedulerMetrics
from vintner.pools import BRIEF, Pool
from vintner.scheduler import Scheduler
from vintner.timing import Timing
from vintner.types import Array, Cancellation
from waiting import wait_until


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


class Bench:
    """A scheduler with one gated instance, and threads to lead it from."""

    def __init__(self, **options: Any) -> None:
        self.instance = Gated()
        self.metrics = SchedulerMetrics()
        options = {"batching": Batching(8), **options}
        self.scheduler = Scheduler([Pool([self.instance])], metrics=self.metrics, **options)
        self._threads = ThreadPoolExecutor(64)

    def infer(self, request: Asked) -> Future[list[float]]:
        turn = self.scheduler.submit(request)
        if turn:
            self._threads.submit(turn.run)
        return request.future

    def occupy(self) -> Future[list[float]]:
        """Starts a request that holds the instance until a `go`."""
        running = self.infer(call(0.0))
        assert self.instance.entered.acquire(timeout=WAIT)
        return running

    def queue(self, request: Asked) -> Future[list[float]]:
        """Queues a request behind what runs."""
        assert self.scheduler.submit(request) is None
        return request.future

    def release(self, runs: int) -> None:
        for _ in range(runs):
            self.instance.go.release()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    return hand_clock(monkeypatch)


@pytest.fixture
def brief_bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Whose runs are brief, however long the machine takes for them."""
    monkeypatch.setattr(pools, "BRIEF", math.inf)
    bench = Bench()
    bench.release(1)
    bench.infer(call(0.0)).result(WAIT)
    wait_until(lambda: bench.scheduler.instances == (0, 1))
    assert bench.scheduler.brief
    del bench.instance.batches[:]
    return bench


def test_a_lone_request_runs_at_once_in_its_own_thread() -> None:
    ran_in: list[int] = []

    class Instance:
        def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            ran_in.append(threading.get_ident())
            return {"y": inputs["x"]}

    infer(Scheduler([Pool([Instance()])]), call(1.0))
    assert ran_in == [threading.get_ident()]


def test_requests_that_wait_form_the_next_batch_and_get_their_own_rows(bench: Bench) -> None:
    first = bench.occupy()
    waiting = [bench.queue(call(1.0)), bench.queue(call(2.0, 3.0)), bench.queue(call(4.0))]
    bench.release(2)
    assert first.result(WAIT) == [0.0]
    assert [future.result(WAIT) for future in waiting] == [[2.0], [4.0, 6.0], [8.0]]
    assert bench.instance.batches == [[0.0], [1.0, 2.0, 3.0, 4.0]]


def test_the_longest_wait_is_that_of_the_oldest_whatever_is_due_first(clock: HandClock) -> None:
    """A queue from which nothing is taken has waits of which none has ended."""
    bench = Bench()
    assert bench.scheduler.longest_wait == 0
    running = bench.occupy()
    assert bench.scheduler.longest_wait == 0, "what runs does not wait"
    first = bench.queue(call(1.0, level=2))
    clock.forward(2)
    urgent = bench.queue(call(2.0))
    clock.forward(3)
    assert bench.scheduler.longest_wait == 5
    bench.release(2)
    for future in (running, first, urgent):
        future.result(WAIT)
    assert bench.scheduler.longest_wait == 0


def test_different_signatures_are_not_mixed(bench: Bench) -> None:
    bench.occupy()
    waiting = [bench.queue(call(1.0, signature="a")), bench.queue(call(2.0, signature="b"))]
    bench.release(3)
    assert [future.result(WAIT) for future in waiting] == [[2.0], [4.0]]
    assert bench.instance.batches == [[0.0], [1.0], [2.0]]


def test_requests_that_come_before_the_turn_is_run_join_its_batch(bench: Bench) -> None:
    first = call(1.0)
    turn = bench.scheduler.submit(first)
    assert turn
    others = [bench.queue(call(2.0)), bench.queue(call(3.0, 4.0))]
    bench.release(1)
    turn.run()
    assert [future.result(0) for future in (first.future, *others)] == [[2.0], [4.0], [6.0, 8.0]]
    assert bench.instance.batches == [[1.0, 2.0, 3.0, 4.0]]
    assert bench.scheduler.instances == (0, 1)


def test_a_step_is_one_batch_and_says_whether_there_is_more(brief_bench: Bench) -> None:
    bench = brief_bench
    first = call(1.0, signature="a")
    turn = bench.scheduler.submit(first)
    assert turn
    second = bench.queue(call(2.0, signature="b"))
    bench.release(2)
    assert turn.step()
    assert (first.future.done(), second.done()) == (True, False)
    assert not turn.step()
    assert second.result(0) == [4.0]
    assert bench.scheduler.instances == (0, 1)


def test_brief_work_is_led_to_its_end_by_one_thread(brief_bench: Bench) -> None:
    bench = brief_bench
    led_by: set[int] = set()
    bench.instance.fail = lambda x: led_by.add(threading.get_ident())  # type: ignore[func-returns-value]
    first = call(1.0, signature=0)
    turn = bench.scheduler.submit(first)
    assert turn
    others = [bench.queue(call(float(i), signature=i)) for i in range(1, 20)]
    bench.release(20)
    turn.run()
    assert all(future.done() for future in (first.future, *others))
    assert led_by == {threading.get_ident()}


def test_longer_work_goes_on_in_another_thread_before_the_answers_are_given() -> None:
    bench = Bench()
    release_answer = threading.Event()
    entered_answer = threading.Event()

    def slow_to_answer(result: Result) -> None:
        entered_answer.set()
        assert release_answer.wait(WAIT)

    first = call(1.0)
    first.done = slow_to_answer
    turn = bench.scheduler.submit(first)
    assert turn
    with ThreadPoolExecutor(1) as threads:
        threads.submit(turn.run)
        assert bench.instance.entered.acquire(timeout=WAIT)
        second = bench.queue(call(2.0))
        threading.Event().wait(2 * BRIEF)  # so long does the run take at least
        bench.release(2)
        assert entered_answer.wait(WAIT)
        assert second.result(WAIT) == [4.0]
        release_answer.set()


def test_idle_instances_share_what_waits() -> None:
    instances = [Gated(), Gated()]
    scheduler = Scheduler([Pool(instances)], batching=Batching(8))
    calls = [call(float(i)) for i in range(4)]
    turn = scheduler.submit(calls[0])
    assert turn
    assert [scheduler.submit(each) for each in calls[1:]] == [None] * 3
    with ThreadPoolExecutor(1) as threads:
        threads.submit(turn.run)
        for instance in instances:
            assert instance.entered.acquire(timeout=WAIT)
        assert sorted(instance.batches[0] for instance in instances) == [[0.0, 1.0], [2.0, 3.0]]
        for instance in instances:
            instance.go.release()
        assert [each.future.result(WAIT) for each in calls] == [[0.0], [2.0], [4.0], [6.0]]
    assert scheduler.instances == (0, 2)


def test_an_answer_that_cannot_be_given_harms_nobody(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def broken(result: Result) -> None:
        raise OSError("the client is gone")

    first = call(1.0)
    first.done = broken
    turn = bench.scheduler.submit(first)
    assert turn
    second = bench.queue(call(2.0))
    bench.release(2)
    turn.run()
    assert second.result(WAIT) == [4.0]
    assert "the client is gone" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), MemoryError("none left"), GeneratorExit()])
def test_whatever_a_backend_raises_every_request_is_answered_and_the_instance_stays(error: BaseException) -> None:
    class Raising:
        def run(self, inputs: Mapping[str, Array]) -> Any:
            raise error

    scheduler = Scheduler([Pool([Raising()])], batching=Batching(8))
    calls = [call(1.0), call(2.0)]
    turn = scheduler.submit(calls[0])
    assert turn
    scheduler.submit(calls[1])
    turn.run()
    for each in calls:
        with pytest.raises((BackendError, MemoryError), match=f"{type(error).__name__}|none left"):
            each.future.result(WAIT)
    assert (scheduler.instances, scheduler.queued) == ((0, 1), (0, 0))


def test_outputs_that_are_none_are_passed_on_one_by_one() -> None:
    class Broken:
        def run(self, inputs: Mapping[str, Array]) -> Any:
            return None

    scheduler = Scheduler([Pool([Broken()])], batching=Batching(8))
    calls, results = [call(1.0), call(2.0)], []
    for each in calls:
        each.done = results.append
    turn = scheduler.submit(calls[0])
    assert turn
    scheduler.submit(calls[1])
    turn.run()
    assert results == [None, None]
    assert (scheduler.instances, scheduler.queued) == ((0, 1), (0, 0))


def test_a_refused_call_lets_go_of_its_inputs() -> None:
    bench = Bench(limits=QueueLimits(max_requests=0))
    refused = Call({"x": np.zeros((1, 1))}, 1, cancellation=Cancellation(), done=lambda result: None)
    gone = weakref.ref(refused.inputs["x"])
    with pytest.raises(QueueFull):
        bench.scheduler.submit(refused)
    gc.disable()
    try:
        del refused
        assert gone() is None
    finally:
        gc.enable()


def test_a_refused_call_is_not_answered_by_its_cancellation() -> None:
    bench = Bench(limits=QueueLimits(max_requests=0))
    cancellation = Cancellation()
    refused = call(1.0, cancellation=cancellation)
    with pytest.raises(QueueFull):
        bench.scheduler.submit(refused)
    cancellation.cancel()
    assert not refused.future.done()


def test_the_last_turn_finds_an_expired_queue_and_runs_nothing(bench: Bench) -> None:
    late = call(1.0, deadline=0.0)
    turn = bench.scheduler.submit(late)
    assert turn
    turn.run()
    with pytest.raises(DeadlineExceeded):
        late.future.result(WAIT)
    assert bench.instance.batches == []
    assert (bench.scheduler.instances, bench.scheduler.queued) == ((0, 1), (0, 0))


def test_deadlines_in_any_order_are_kept_exactly(clock: HandClock) -> None:
    bench = Bench(threads=threads_by(clock))
    bench.occupy()
    ended: dict[float, float] = {}

    def note(deadline: float) -> Callable[[Result], None]:
        return lambda result: ended.setdefault(deadline, clock.now)

    deadlines = [clock.now + offset for offset in (30, 10, 20, 15, 5)]
    for deadline in deadlines:
        late = call(1.0, deadline=deadline)
        late.done = note(deadline)
        bench.scheduler.submit(late)
    clock.forward(4.9)
    assert ended == {}
    clock.forward(60)
    assert list(ended.items()) == [(deadline, deadline) for deadline in sorted(deadlines)]
    assert bench.scheduler.queued == (0, 0)
    bench.release(1)


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
        scheduler = Scheduler([Pool([instance])], batching=Batching(4))
        outcomes = []
        for value in range(5):
            try:
                outcomes.append(infer(scheduler, call(float(value)))[0])
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


def test_a_deadline_that_passes_while_the_batch_runs_does_not_harm_the_others(clock: HandClock) -> None:
    bench = Bench(threads=threads_by(clock))
    bench.occupy()
    mate = bench.queue(call(1.0))
    late = bench.queue(call(2.0, deadline=clock.now + 0.3))
    bench.release(1)
    assert bench.instance.entered.acquire(timeout=WAIT)
    assert bench.instance.batches[1] == [2.0, 1.0], "the nearest deadline goes first"
    clock.forward(0.3)
    with pytest.raises(DeadlineExceeded):
        late.result(WAIT)
    bench.release(1)
    assert mate.result(WAIT) == [2.0]


def test_a_timeout_that_passes_in_the_queue_refuses_the_request(bench: Bench) -> None:
    import time

    bench.occupy()
    now = time.monotonic()
    refused = bench.queue(call(1.0, timeout=now + 0.05, deadline=now + 60))
    with pytest.raises(QueueTimeout, match="Request timeout expired"):
        refused.result(WAIT)
    assert bench.scheduler.queued == (0, 0)
    bench.release(1)


def test_a_deadline_before_the_timeout_is_the_clients(bench: Bench) -> None:
    import time

    bench.occupy()
    now = time.monotonic()
    late = bench.queue(call(1.0, timeout=now + 60, deadline=now + 0.05))
    with pytest.raises(DeadlineExceeded):
        late.result(WAIT)
    bench.release(1)


def test_a_timeout_that_postpones_lets_the_others_go_first(bench: Bench) -> None:
    import time

    bench.occupy()
    soon = time.monotonic() + 0.05
    postponed = bench.queue(call(1.0, signature="a", timeout=soon, postpones=True))
    threading.Event().wait(0.1)
    other = bench.queue(call(2.0, signature="b"))
    assert not postponed.done()
    bench.release(3)
    assert (postponed.result(WAIT), other.result(WAIT)) == ([2.0], [4.0])
    assert bench.instance.batches == [[0.0], [2.0], [1.0]]


def test_a_timeout_that_postpones_does_nothing_to_a_request_that_runs(bench: Bench) -> None:
    import time

    running = bench.infer(call(1.0, timeout=time.monotonic() + 0.02, postpones=True))
    assert bench.instance.entered.acquire(timeout=WAIT)
    threading.Event().wait(0.1)
    assert not running.done()
    bench.release(1)
    assert running.result(WAIT) == [2.0]
    assert not bench.scheduler._running, "it would be kept for ever"


def test_a_postponed_request_still_has_its_clients_deadline(bench: Bench) -> None:
    import time

    bench.occupy()
    now = time.monotonic()
    late = bench.queue(call(1.0, timeout=now + 0.02, deadline=now + 0.1, postpones=True))
    with pytest.raises(DeadlineExceeded):
        late.result(WAIT)
    bench.release(1)


def test_a_leader_that_timed_out_before_its_turn_is_run_is_postponed_not_lost(bench: Bench) -> None:
    first = call(1.0, signature="a", timeout=0.0, postpones=True)
    turn = bench.scheduler.submit(first)
    assert turn
    second = bench.queue(call(2.0, signature="b"))
    bench.release(2)
    turn.run()
    assert (first.future.result(WAIT), second.result(WAIT)) == ([2.0], [4.0])
    assert bench.instance.batches == [[2.0], [1.0]]


def test_the_higher_priority_runs_first(bench: Bench) -> None:
    bench.occupy()
    low = bench.queue(call(1.0, signature="a", level=2))
    high = bench.queue(call(2.0, signature="b", level=1))
    bench.release(3)
    assert (low.result(WAIT), high.result(WAIT)) == ([2.0], [4.0])
    assert bench.instance.batches == [[0.0], [2.0], [1.0]]


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
        bench.scheduler.submit(call(2.0))
    bench.release(2)
    assert waiting.result(WAIT) == [2.0]


def test_closing_answers_those_that_wait_and_refuses_new_ones(bench: Bench) -> None:
    first = bench.occupy()
    waiting = bench.queue(call(1.0))
    bench.scheduler.close()
    with pytest.raises(Stopping):
        waiting.result(WAIT)
    with pytest.raises(Stopping):
        bench.scheduler.submit(call(2.0))
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
    scheduler = Scheduler([Pool([instance])], batching=Batching(8))
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(infer, scheduler, call(0.0))]
        assert instance.entered.wait(WAIT)
        futures += [threads.submit(infer, scheduler, call(float(i))) for i in (1, 2, 3)]
        wait_until(lambda: scheduler.queued[0] == 3)
        instance.gate.set()
        assert [future.result(WAIT) for future in futures] == [[0.0], [1.0], [2.0], [3.0]]
    assert instance.sizes == [1, 3, 1, 1, 1]
    infer(scheduler, call(1.0))


def test_many_threads_get_their_own_rows_from_several_instances() -> None:
    instances = [Gated(open_gate=True) for _ in range(3)]
    scheduler = Scheduler([Pool(instances)], batching=Batching(8))

    def one(number: int) -> bool:
        values = [float(number * 10 + k) for k in range(1 + number % 3)]
        return infer(scheduler, call(*values)) == [2 * v for v in values]

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


def test_only_batches_of_several_count_as_assembled_and_split(bench: Bench) -> None:
    bench.release(3)
    bench.infer(call(0.0)).result(WAIT)
    assert sum(bench.metrics.assembly.counts) == 0
    wait_until(lambda: bench.scheduler.instances == (0, 1))
    bench.instance.go = threading.Semaphore(0)
    bench.instance.entered = threading.Semaphore(0)
    bench.occupy()
    waiting = [bench.queue(call(1.0)), bench.queue(call(2.0))]
    bench.release(2)
    for future in waiting:
        future.result(WAIT)
    assert [sum(histogram.counts) for histogram in (bench.metrics.assembly, bench.metrics.split)] == [1, 1]
    assert bench.metrics.assembly.total > 0
    assert bench.metrics.split.total > 0


def test_a_call_that_asks_is_told_of_its_wait_and_its_batch(bench: Bench) -> None:
    bench.occupy()
    asked, unasked, alone = call(1.0, 2.0), call(3.0), call(4.0, signature="another")
    for each in (asked, alone):
        each.timing = Timing(0.0)
    waiting = [bench.queue(each) for each in (asked, unasked, alone)]
    bench.release(3)
    for future in waiting:
        future.result(WAIT)
    assert unasked.timing is None
    assert asked.timing is not None
    assert alone.timing is not None
    assert (asked.timing.rows, asked.timing.requests) == (3, 2)
    assert (alone.timing.rows, alone.timing.requests) == (1, 1)
    assert 0 < asked.timing.queue <= alone.timing.queue
    assert min(asked.timing.stages) > 0
    assert (alone.timing.stages[0], alone.timing.stages[2]) == (0.0, 0.0)


def test_answers_come_in_the_order_of_arrival_if_the_model_asks_for_it() -> None:
    slow, quick = Gated(), Gated(open_gate=True)
    scheduler = Scheduler([Pool([quick, slow])], batching=Batching(1, in_order=True))
    order: list[int] = []
    requests = [call(float(number)) for number in range(4)]
    for number, request in enumerate(requests):
        request.future.add_done_callback(lambda _, number=number: order.append(number))
    held = scheduler.submit(requests[0])
    assert held is not None
    thread = threading.Thread(target=held.run)
    thread.start()
    assert slow.entered.acquire(timeout=WAIT)
    for request in requests[1:]:
        turn = scheduler.submit(request)
        assert turn is not None
        turn.run()
    assert quick.batches == [[1.0], [2.0], [3.0]], "they ran"
    assert order == []
    slow.go.release()
    thread.join(WAIT)
    assert [request.future.result(WAIT) for request in requests] == [[0.0], [2.0], [4.0], [6.0]]
    assert order == [0, 1, 2, 3]


class Overtaken(Asked):
    """Another thread looks for what can be answered in order just before this one's result is noted."""

    scheduler: Scheduler | None = None

    @property
    def result(self) -> Result:
        return self.__dict__["noted"]

    @result.setter
    def result(self, result: Result) -> None:
        if self.scheduler is not None and self.scheduler._order is not None:
            self.scheduler._order.answer()
        self.__dict__["noted"] = result


def test_an_answer_in_order_is_not_given_before_it_is_there() -> None:
    scheduler = Scheduler([Pool([Gated(open_gate=True)])], batching=Batching(1, in_order=True))
    request = Overtaken(1.0)
    request.scheduler = scheduler
    assert infer(scheduler, request) == [2.0]


def test_a_request_that_leaves_the_queue_holds_up_no_answers() -> None:
    bench = Bench(batching=Batching(1, in_order=True))
    running = bench.occupy()
    cancellation = Cancellation()
    gone = bench.queue(call(1.0, cancellation=cancellation))
    last = bench.queue(call(2.0))
    cancellation.cancel()
    with pytest.raises(Cancelled):
        gone.result(WAIT)
    bench.release(2)
    assert running.result(WAIT) == [0.0]
    assert last.result(WAIT) == [4.0]


def test_a_failed_batch_is_not_run_again_if_the_model_says_so() -> None:
    bench = Bench(batching=Batching(8, retry=False))
    running = bench.occupy()
    members = [bench.queue(call(float(value))) for value in (1, 2)]
    bench.instance.fail = lambda x: BackendError("poison") if 2.0 in x else None
    bench.release(2)
    assert running.result(WAIT) == [0.0]
    for member in members:
        with pytest.raises(BackendError, match="poison"):
            member.result(WAIT)
    assert bench.instance.batches == [[0.0], [1.0, 2.0]]


def test_an_idle_instance_waits_for_more_where_that_pays_and_no_longer(clock: HandClock) -> None:
    bench = Bench(batching=Batching(4, longest_delay=0.2), threads=threads_by(clock))
    for _ in range(3):  # runs that take a while, and requests at once behind them
        running = bench.infer(call(0.0))
        clock.forward(0.2)  # for which the later ones wait for more
        assert bench.instance.entered.acquire(timeout=WAIT)
        others = [bench.queue(call(1.0)) for _ in range(4)]
        clock.forward(0.4)
        bench.release(1)
        running.result(WAIT)
        assert bench.instance.entered.acquire(timeout=WAIT)
        clock.forward(0.4)
        bench.release(1)
        for future in others:
            future.result(WAIT)
        wait_until(lambda: bench.scheduler.instances == (0, 1))
    bench.instance.batches.clear()
    before = bench.metrics.cuts["delay"]
    bench.release(2)
    futures = [bench.infer(call(float(value))) for value in range(2)]
    clock.forward(0.2)
    assert [future.result(WAIT) for future in futures] == [[0.0], [2.0]]
    assert bench.instance.batches == [[0.0, 1.0]], "nobody led before the second"
    assert bench.metrics.cuts["delay"] == before + 1
