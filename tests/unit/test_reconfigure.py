"""A configuration that changes while requests wait and run: what needs a load, and that all else takes effect."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backend import FakeBackend, FakeModel, fake_model
from hand_clock import hand_clock, threads_by
from scheduler_calls import WAIT
from vintner.backend import LoadSpec
from vintner.errors import BackendError, DeadlineExceeded, InvalidArgument, QueueFull, QueueTimeout
from vintner.exposition import label_pairs
from vintner.model_config import IN_PLACE, ModelConfig, parse_model_config
from vintner.response_cache import ResponseCache
from vintner.tensor_servable import TensorServable
from vintner.triton_view import model_config
from vintner.turns import Threads
from vintner.types import Request, Response, Tensor
from waiting import wait_until

RELOADED: Mapping[str, tuple[Any, Any]] = {
    "name": ("a", "b"),
    "backend": ("openvino", "onnxruntime"),
    "filename": ("a.onnx", "b.onnx"),
    "generation": ({"max_num_seqs": 1}, {"max_num_seqs": 2}),
    "device": ("CPU", "GPU"),
    "performance_hint": ("latency", "throughput"),
    "precision": ("f32", "bf16"),
    "instances": ("auto", 1),
    "streams": (1, 2),
    "threads": (1, 2),
    "cores": ("0", "0-1"),
    "pools": ([{"device": "CPU", "instances": 2}], [{"device": "CPU", "instances": "auto"}]),
    "core_weight": (1, 2),
    "rate_limiter": ({"resources": {"gpu": 1}}, {"resources": {"gpu": 2}}),
    "decoupled": (False, True),
    "batching.enabled": (True, False),
    "batching.max_batch_size": (8, 16),
    "batching.compiled_sizes": ([1, 2], [1, 4]),
    "batching.preserve_order": (True, False),
    "inputs": ({"x": {"name": "y"}}, {"x": {"name": "z"}}),
    "outputs": ({"x": {"dims": [-1]}}, {"x": {"dims": [2]}}),
    "batch_inputs": (
        {"n": {"kind": "element_count", "source": "r"}},
        {"n": {"kind": "accumulated_element_count", "source": "r"}},
    ),
    "warmup": (True, False),
    "backend_options": ({"A": {"b": 1}}, {"A": {"b": True}}),
}
"""Keys that need a load, each with two values."""

TAKES_EFFECT: Mapping[str, str] = {
    "batching.larger_requests": "test_larger_requests_are_refused_from_now_on",
    "batching.max_queue_delay_seconds": "test_a_shorter_delay_ends_a_waiting_that_has_begun",
    "batching.preferred_batch_sizes": "test_the_next_batch_has_the_new_preferred_size",
    "batching.retry_failed": "test_a_batch_that_fails_is_run_again_only_if_that_is_wanted_by_then",
    "execution_timeout_seconds": "test_a_run_under_way_gets_the_new_time_out_from_now",
    "metric_tags": "test_the_metrics_have_the_new_tags",
    "queue": "test_what_waits_keeps_its_place_though_less_may_come_in",
    "reopen_after_failures": "test_an_instance_is_taken_out_after_the_new_number_of_failures",
    "response_cache": "test_the_response_cache_is_switched_on_and_off",
    "version_policy": "test_the_configuration_that_is_shown_is_the_new_one",
}
"""Keys that are applied in place, each with the test here that shows it."""

MANAGED = {
    "idle_unload_seconds": "test_a_model_that_nobody_uses_is_unloaded_until_somebody_does",
    "load": "test_a_model_on_demand_is_loaded_by_its_first_request_which_waits",
    "load_timeout_seconds": "test_a_load_that_hangs_is_given_up_and_stops_no_other",
    "memory_bytes": "test_the_least_recently_used_model_makes_room",
    "resource_preserving": "test_what_is_unloaded_first_keeps_requests_waiting_and_comes_back_if_the_new_fails",
    "traffic": "test_router.py",
    "version_labels": "test_a_label_names_a_version_and_moves_without_a_load",
}
"""Keys that are for the manager and the router alone, each with the test of its own elsewhere."""


def config(key: str = "", value: object = None, **keys: object) -> ModelConfig:
    """A configuration with one key set, which may have a dot in it."""
    section, dot, own = key.partition(".")
    given = {section: {own: value} if dot else value} if key else {}
    if key == "batch_inputs":
        given["inputs"] = {"r": {"ragged": True}}
    return parse_model_config({**given, **keys}, "config.yaml")


def declared_keys() -> set[str]:
    keys = set(ModelConfig.model_fields)
    return keys - {"batching"} | {key for key in ModelConfig._keys() if key.startswith("batching.")}


def test_every_key_either_needs_a_load_or_is_applied_in_place() -> None:
    assert RELOADED.keys() & TAKES_EFFECT.keys() == set()
    assert {*RELOADED, *TAKES_EFFECT, *MANAGED} == declared_keys()
    assert {*TAKES_EFFECT, *MANAGED} == IN_PLACE
    assert all(test in globals() for test in TAKES_EFFECT.values())


@pytest.mark.parametrize("key", RELOADED)
def test_a_change_of_what_a_model_is_opened_with_needs_a_load(key: str) -> None:
    one, other = (config(key, value) for value in RELOADED[key])
    assert one.loading != other.loading
    assert one.loading == config(key, RELOADED[key][0]).loading
    hash(one.loading)


def test_a_change_of_scheduling_alone_needs_no_load() -> None:
    changed = config(
        batching={
            "preferred_batch_sizes": [4],
            "max_queue_delay_seconds": 1,
            "retry_failed": False,
            "larger_requests": "refuse",
        },
        queue={"max_requests": 1, "priority_levels": 3, "levels": {2: {"max_requests": 1}}},
        response_cache=True,
        execution_timeout_seconds=1,
        reopen_after_failures=1,
        version_policy="all",
    )
    assert changed.loading == config().loading


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"pools": [{"device": "CPU"}]}, {}),
        ({"backend_options": {"a": 1, "b": 2}}, {"backend_options": {"b": 2, "a": 1}}),
        ({"backend_options": {"a": float("nan")}}, {"backend_options": {"a": float("nan")}}),
        (
            {"backend_options": {"a": {1: {"x", "y"}, "b": None}}},
            {"backend_options": {"a": {"b": None, 1: {"y", "x"}}}},
        ),
        ({"inputs": {"x": None}}, {"inputs": {"x": {}}}),
    ],
    ids=str,
)
def test_what_comes_to_the_same_needs_no_load(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert config(**one).loading == config(**other).loading


# -- a model that is served ------------------------------------------------------------------------------------


class Served:
    """A servable whose runs wait for `go`, and threads to send requests from."""

    def __init__(
        self,
        cache: ResponseCache | None = None,
        open_gate: bool = False,
        threads: Threads | None = None,
        **keys: object,
    ) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(100_000 if open_gate else 0)
        self.fail: Callable[[], None] = lambda: None
        backend = FakeBackend({"model.fake": fake_model(shape=(-1, 1))}, self._gate)
        self.model: FakeModel = backend.load(LoadSpec(Path("model.fake")))
        self.servable = TensorServable("m", 1, self.model, config(**keys), cache=cache, threads=threads)
        self._threads = ThreadPoolExecutor(16)

    def _gate(self) -> None:
        self.entered.release()
        assert self.go.acquire(timeout=WAIT)
        self.fail()

    def send(self, *values: float, **parameters: Any) -> Future[list[float]]:
        """Raises what the servable does if it refuses the request."""
        answer: Future[list[float]] = Future()

        def reply(result: Response | Exception) -> None:
            assert not answer.done(), "answered twice"
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result([float(value) for value in result.outputs["output"].array[:, 0]])

        inputs = {"input": Tensor("FP32", np.array([[value] for value in values], np.float32))}
        turn = self.servable.submit(Request("m", "", inputs, parameters=parameters), reply)
        if turn is not None:
            self._threads.submit(turn.run)
        return answer

    def occupy(self) -> Future[list[float]]:
        """Sends a request that runs until a `go`."""
        running = self.send(0.0)
        assert self.entered.acquire(timeout=WAIT)
        return running

    def reconfigure(self, **keys: object) -> None:
        self.servable.reconfigure(config(**keys))

    def release(self, runs: int = 100) -> None:
        self.go.release(runs)


def test_what_waits_keeps_its_place_though_less_may_come_in() -> None:
    served = Served(queue={"max_requests": 8}, batching={"enabled": False})
    order: list[float] = []
    running = served.occupy()
    waiting = [served.send(float(n)) for n in range(1, 6)]
    for answer in waiting:
        answer.add_done_callback(lambda done: order.append(done.result()[0]))
    served.reconfigure(queue={"max_requests": 2}, batching={"enabled": False})
    with pytest.raises(QueueFull, match="2 requests wait already"):
        served.send(9.0)
    served.release()
    assert running.result(WAIT) == [0.0]
    assert [answer.result(WAIT) for answer in waiting] == [[2.0 * n] for n in range(1, 6)]
    assert order == [2.0 * n for n in range(1, 6)]


def test_the_queue_holds_more_requests_and_bytes_as_soon_as_it_may() -> None:
    served = Served(queue={"max_requests": 1})
    served.occupy()
    first = served.send(1.0)
    served.reconfigure(queue={"max_requests": 2, "max_bytes": 4})
    with pytest.raises(QueueFull, match="4 of 4 bytes"):
        served.send(2.0)
    served.reconfigure(queue={"max_requests": 2})
    second = served.send(2.0)
    served.release()
    assert (first.result(WAIT), second.result(WAIT)) == ([2.0], [4.0])


def test_the_limit_of_a_level_counts_what_waited_before_there_was_one() -> None:
    levels = {"priority_levels": 2, "default_priority": 1}
    served = Served(queue=levels)
    served.occupy()
    waiting = [served.send(1.0, priority=2) for _ in range(2)]
    served.reconfigure(queue={**levels, "levels": {2: {"max_requests": 3}}})
    waiting.append(served.send(1.0, priority=2))
    with pytest.raises(QueueFull, match="3 requests of priority 2"):
        served.send(1.0, priority=2)
    served.reconfigure(queue=levels)
    waiting.append(served.send(1.0, priority=2))
    served.release()
    assert all(answer.result(WAIT) == [2.0] for answer in waiting)
    served.reconfigure(queue={**levels, "levels": {2: {"max_requests": 1}}})
    assert served.send(1.0, priority=2).result(WAIT) == [2.0], "none of those that have left is counted"


def test_a_level_that_is_gone_is_no_trouble_for_what_waits_in_it() -> None:
    served = Served(queue={"priority_levels": 3, "levels": {3: {"max_requests": 5, "timeout_action": "delay"}}})
    served.occupy()
    waiting = [served.send(float(n), priority=3, timeout=1_000) for n in range(3)]
    served.reconfigure(queue={"levels": {1: {"max_requests": 3}}})
    wait_until(lambda: served.servable._scheduler.queued == (3, 12))
    served.release()
    assert [answer.result(WAIT) for answer in waiting] == [[0.0], [2.0], [4.0]]


def test_a_new_queue_time_out_holds_for_what_comes_and_not_for_what_waits() -> None:
    served = Served()
    served.occupy()
    waited = served.send(1.0)
    served.reconfigure(queue={"timeout_seconds": 0.01})
    with pytest.raises(QueueTimeout):
        served.send(2.0).result(WAIT)
    assert not waited.done()
    served.release()
    assert waited.result(WAIT) == [2.0]


def test_larger_requests_are_refused_from_now_on() -> None:
    limits = {"max_batch_size": 2}
    served = Served(open_gate=True, batching={**limits, "larger_requests": "run_alone"})
    assert served.send(1.0, 2.0, 3.0).result(WAIT) == [2.0, 4.0, 6.0]
    served.reconfigure(batching=limits)
    with pytest.raises(InvalidArgument, match="must be <= 2"):
        served.send(1.0, 2.0, 3.0)
    served.reconfigure(batching={**limits, "larger_requests": "run_alone"})
    assert served.send(1.0, 2.0, 3.0).result(WAIT) == [2.0, 4.0, 6.0]


def test_the_next_batch_has_the_new_preferred_size() -> None:
    served = Served()
    served.occupy()
    waiting = [served.send(1.0) for _ in range(5)]
    served.reconfigure(batching={"preferred_batch_sizes": [3]})
    served.release()
    wait(waiting, WAIT)
    assert served.model.batch_sizes == [1, 3, 2]


def test_a_batch_that_fails_is_run_again_only_if_that_is_wanted_by_then() -> None:
    def spoil_batches() -> None:
        if served.model.batch_sizes[-1] > 1:
            raise BackendError("too many at once")

    served = Served(batching={"preferred_batch_sizes": [2]})
    served.fail = spoil_batches
    served.occupy()
    waiting = [served.send(1.0) for _ in range(2)]
    served.reconfigure(batching={"preferred_batch_sizes": [2], "retry_failed": False})
    served.release()
    for answer in waiting:
        with pytest.raises(BackendError, match="too many"):
            answer.result(WAIT)


def test_a_run_under_way_gets_the_new_time_out_from_now() -> None:
    served = Served()
    hanging = served.occupy()
    next(served.servable._scheduler._pools.busy()).started -= 2 * WAIT
    served.reconfigure(execution_timeout_seconds=WAIT)
    with pytest.raises(QueueTimeout):
        served.send(1.0, timeout=1000).result(WAIT)
    assert not hanging.done(), "the alarm rang, and the run has lasted longer than it might, but not since then"
    served.reconfigure(execution_timeout_seconds=0.04)
    with pytest.raises(DeadlineExceeded, match=r"execution timeout of 0\.04 s"):
        hanging.result(WAIT)
    served.release()


def test_a_run_under_way_is_no_longer_given_up_when_the_time_out_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = hand_clock(monkeypatch)
    served = Served(execution_timeout_seconds=0.1, threads=threads_by(clock))
    running = served.occupy()
    served.reconfigure()
    clock.forward(0.15)
    assert not running.done(), "the time at which it would have been given up has passed"
    served.release()
    assert running.result(WAIT) == [0.0]


def test_an_instance_is_taken_out_after_the_new_number_of_failures() -> None:
    failing = threading.Event()

    def fail() -> None:
        if failing.is_set():
            raise BackendError("broken")

    served = Served(open_gate=True, reopen_after_failures=100)
    [pool] = served.servable._scheduler._pools
    pool.reopen = lambda: served.model
    served.fail = fail
    served.send(1.0).result(WAIT)
    served.reconfigure(reopen_after_failures=2)
    failing.set()
    for faults in ("", "2 runs in a row failed"):
        with pytest.raises(BackendError):
            served.send(1.0).result(WAIT)
        wait_until(lambda faults=faults: faults in served.servable.faults)  # type: ignore[misc]
    assert pool.fault.startswith("2 runs in a row failed")
    failing.clear()
    served.servable.close()


def test_the_response_cache_is_switched_on_and_off() -> None:
    cache = ResponseCache(1 << 20)
    served = Served(cache, open_gate=True)
    served.send(1.0).result(WAIT)
    assert cache.size == (0, 0)
    assert not served.servable.caches
    served.reconfigure(response_cache=True)
    assert served.servable.caches
    for _ in range(3):
        assert served.send(1.0).result(WAIT) == [2.0]
    assert (served.servable.metrics.cache.hits, served.servable.metrics.cache.misses) == (2, 1)
    served.reconfigure()
    assert cache.size == (0, 0)
    runs = served.model.runs
    assert served.send(1.0).result(WAIT) == [2.0]
    assert served.model.runs == runs + 1
    served.reconfigure(response_cache=True)
    served.send(1.0).result(WAIT)
    assert (served.servable.metrics.cache.hits, served.servable.metrics.cache.misses) == (2, 2), "counts go on"


def test_what_is_kept_by_a_request_that_ran_when_the_cache_was_switched_off_goes_with_the_model() -> None:
    cache = ResponseCache(1 << 20)
    served = Served(cache, response_cache=True)
    running = served.occupy()
    served.reconfigure()
    served.release()
    running.result(WAIT)
    assert cache.size[0] == 1
    served.servable.close()
    assert cache.size == (0, 0)


def test_a_shorter_delay_ends_a_waiting_that_has_begun() -> None:
    served = Served(open_gate=True, batching={"max_queue_delay_seconds": 60})
    delay = served.servable._scheduler._batcher._delay
    assert delay is not None
    delay.until = lambda cost, load, present, rows, deadline, now: now + delay._longest  # type: ignore[method-assign]
    answer = served.send(1.0)
    assert served.model.runs == 0, "it waits for more"
    served.reconfigure(batching={"max_queue_delay_seconds": 50})
    assert served.servable._scheduler._batcher._delay is delay, "what was measured stays"
    assert not answer.done()
    served.reconfigure()
    assert answer.result(WAIT) == [2.0]
    served.reconfigure(batching={"max_queue_delay_seconds": 60})
    assert served.servable._scheduler._batcher._delay is not None


def test_the_configuration_that_is_shown_is_the_new_one() -> None:
    served = Served()
    served.reconfigure(
        version_policy="all", response_cache=False, batching={"preferred_batch_sizes": [4]}, queue={"max_requests": 7}
    )
    shown = model_config(served.servable)
    assert shown.version_policy.WhichOneof("policy_choice") == "all"
    assert list(shown.dynamic_batching.preferred_batch_size) == [4]
    assert shown.dynamic_batching.default_queue_policy.max_queue_size == 7


def test_the_metrics_have_the_new_tags() -> None:
    served = Served()
    for tags in ({"team": "vision"}, {"team": 'a "b"', "tier": "1"}, {}):
        served.reconfigure(metric_tags=tags)
        labels = {"model": "m", "version": "1"} | {f"_{name}": text for name, text in tags.items()}
        assert served.servable.metrics.tagged == label_pairs(labels)
        assert model_config(served.servable).metric_tags == tags


def test_a_configuration_that_needs_a_load_changes_nothing() -> None:
    served = Served()
    before = served.servable.config
    with pytest.raises(ValueError, match="model 'm' has to be loaded anew"):
        served.reconfigure(instances=2, queue={"max_requests": 1})
    assert served.servable.config is before


def test_a_model_that_was_found_not_to_be_batched_stays_so() -> None:
    served = Served()
    served.servable.serve_unbatched("an output is a scalar")
    served.occupy()
    waiting = [served.send(1.0) for _ in range(3)]
    served.reconfigure(batching={"preferred_batch_sizes": [2]})
    served.release()
    wait(waiting, WAIT)
    assert served.model.batch_sizes == [1, 1, 1, 1]


def test_no_request_is_lost_while_the_configuration_changes_all_the_time() -> None:
    served = Served(ResponseCache(1 << 16), open_gate=True)
    changes: list[dict[str, object]] = [
        {"batching": {"preferred_batch_sizes": [2, 4], "max_queue_delay_seconds": 0.001}},
        {"queue": {"priority_levels": 2, "levels": {1: {"max_requests": 64}, 2: {"max_requests": 64}}}},
        {"response_cache": True, "batching": {"max_queue_delay_seconds": 0.0005, "retry_failed": False}},
        {"execution_timeout_seconds": WAIT, "queue": {"timeout_seconds": WAIT, "timeout_action": "delay"}},
        {},
    ]
    stopped = threading.Event()

    def client(number: int) -> int:
        sent = 0
        while not (stopped.is_set() and sent > 40):  # however slow the machine is
            value = float(number * 1000 + sent % 50)
            assert served.send(value, priority=sent % 3).result(WAIT) == [2 * value]
            sent += 1
        return sent

    with ThreadPoolExecutor(8) as clients:
        counts = [clients.submit(client, number) for number in range(8)]
        for step in range(300):
            served.reconfigure(**changes[step % len(changes)])
            stopped.wait(0.001)
        stopped.set()
        sent = sum(count.result(WAIT) for count in counts)
    hits = served.servable.metrics.cache.hits
    assert sent > 300
    assert sum(served.servable.metrics.scheduler.wait.counts) == sent - hits
    wait_until(lambda: served.servable._scheduler.queued == (0, 0))
    assert served.servable._scheduler._queue._levels == {}
